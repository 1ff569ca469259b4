// reshape_and_cache into pages of int8: each head of a token is divided by a scale of its own, its largest magnitude / 127.
//
//   page   |  values int8 [BS, K, D]  |  scales float32 [BS, K]  |
//
// A scale is 0 where it would not be a normal number, of zeros above all: the values are 0 then. It is NaN if a number is
// infinite or NaN: the values mean nothing then. Rounded to nearest, ties to even.
#pragma once

#include "core_share.h"
#include "index_window.h"
#include "kernel_operator.h"
#include "reshape_and_cache_tiling.h"

namespace paged_ops {

constexpr uint32_t kFloatLanes = 64;       // of a vector repeat
constexpr uint32_t kFloatBlockLanes = 8;   // of a block of 32 bytes
constexpr float kSmallestNormal = 1.17549435e-38f;
constexpr float kLargestInt8 = 127.0f;
constexpr float kToZero = 3.0e38f;  // what numbers are divided by where the scale is 0

// Rows of D floats, r of them -> int8 and a scale for each. The scales of a token's heads begin at a block of 32 bytes.
class Quantizer {
 public:
  __aicore__ inline void Init(AscendC::TPipe* pipe, uint32_t head_dim) {
    head_dim_ = head_dim;
    lanes_ = head_dim < kFloatLanes ? head_dim : kFloatLanes;
    pipe->InitBuffer(work_buffer_, kQuantizeElements * sizeof(float));
    pipe->InitBuffer(half_buffer_, kQuantizeElements * sizeof(half));
    pipe->InitBuffer(column_buffer_, 2 * kQuantizeScales * sizeof(float));
    pipe->InitBuffer(spread_buffer_, kQuantizeScales * kFloatBlockLanes * sizeof(float));
    pipe->InitBuffer(normal_buffer_, kQuantizeScales / 8);
    work_ = work_buffer_.Get<float>();
    halves_ = half_buffer_.Get<half>();
    not_finite_ = column_buffer_.Get<float>();
    divisors_ = not_finite_[kQuantizeScales];
    spread_ = spread_buffer_.Get<float>();
    is_normal_ = normal_buffer_.Get<uint8_t>();
  }

  // wide: [tokens, heads, D]. values: the same. scales: [tokens, PaddedScales(heads)], room for a multiple of 64.
  __aicore__ inline void Run(const AscendC::LocalTensor<int8_t>& values, const AscendC::LocalTensor<float>& scales,
                             const AscendC::LocalTensor<float>& wide, uint32_t tokens, uint32_t heads) {
    tokens_ = tokens;
    heads_ = heads;
    const int32_t count = static_cast<int32_t>(tokens * heads * head_dim_);
    const uint32_t used = tokens * PaddedScales(heads);
    const uint32_t columns = (used + kFloatLanes - 1) / kFloatLanes * kFloatLanes;  // what comparisons take
    AscendC::Duplicate(scales, 0.0f, static_cast<int32_t>(columns));
    AscendC::Duplicate(not_finite_, 0.0f, static_cast<int32_t>(columns));
    AscendC::Abs(work_, wide, count);
    AscendC::PipeBarrier<PIPE_V>();
    ReduceRows<true>(scales);
    AscendC::Muls(work_, wide, 0.0f, count);  // NaN of what is not finite: a maximum might lose it
    AscendC::PipeBarrier<PIPE_V>();
    ReduceRows<false>(not_finite_);
    FinishScales(scales, columns);
    DivideRows(wide);
    AscendC::Cast(work_, work_, AscendC::RoundMode::CAST_RINT, count);  // whole now: the next two round nothing
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Cast(halves_, work_, AscendC::RoundMode::CAST_NONE, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Cast(values, halves_, AscendC::RoundMode::CAST_RINT, count);
  }

 private:
  // The maximum, or the sum, of each row of `work_`, which is changed.
  template <bool kMaximum>
  __aicore__ inline void ReduceRows(const AscendC::LocalTensor<float>& target) {
    const uint8_t stride = static_cast<uint8_t>(head_dim_ / kFloatBlockLanes);
    if (head_dim_ > kFloatLanes) {
      const uint64_t rest = head_dim_ - kFloatLanes;
      const uint8_t rows = static_cast<uint8_t>(tokens_ * heads_);
      const AscendC::BinaryRepeatParams strides(1, 1, 1, stride, stride, stride);
      if constexpr (kMaximum) {
        AscendC::Max(work_, work_, work_[kFloatLanes], rest, rows, strides);
      } else {
        AscendC::Add(work_, work_, work_[kFloatLanes], rest, rows, strides);
      }
      AscendC::PipeBarrier<PIPE_V>();
    }
    for (uint32_t token = 0; token < tokens_; ++token) {
      const AscendC::LocalTensor<float> to = target[token * PaddedScales(heads_)];
      const AscendC::LocalTensor<float> from = work_[token * heads_ * head_dim_];
      const int32_t lanes = static_cast<int32_t>(lanes_), heads = static_cast<int32_t>(heads_);
      if constexpr (kMaximum) {
        AscendC::WholeReduceMax<float>(to, from, lanes, heads, 1, 1, stride, AscendC::ReduceOrder::ORDER_ONLY_VALUE);
      } else {
        AscendC::WholeReduceSum<float>(to, from, lanes, heads, 1, 1, stride);
      }
    }
    AscendC::PipeBarrier<PIPE_V>();
  }

  // From maxima to scales, and what to divide by.
  __aicore__ inline void FinishScales(const AscendC::LocalTensor<float>& scales, uint32_t columns) {
    const int32_t count = static_cast<int32_t>(columns);
    AscendC::Duplicate(divisors_, kLargestInt8, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Div(scales, scales, divisors_, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::CompareScalar(is_normal_, scales, kSmallestNormal, AscendC::CMPMODE::GE, columns);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Select(divisors_, is_normal_, scales, kToZero, AscendC::SELMODE::VSEL_TENSOR_SCALAR_MODE, columns);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Select(scales, is_normal_, scales, 0.0f, AscendC::SELMODE::VSEL_TENSOR_SCALAR_MODE, columns);
    AscendC::Brcb(spread_, divisors_, static_cast<uint8_t>(columns / kFloatBlockLanes), {1, kFloatBlockLanes});
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Add(scales, scales, not_finite_, count);
  }

  __aicore__ inline void DivideRows(const AscendC::LocalTensor<float>& wide) {
    const uint8_t stride = static_cast<uint8_t>(head_dim_ / kFloatBlockLanes);
    for (uint32_t token = 0; token < tokens_; ++token) {
      const uint32_t first = token * heads_ * head_dim_;
      const AscendC::LocalTensor<float> divisors = spread_[token * PaddedScales(heads_) * kFloatBlockLanes];
      for (uint32_t column = 0; column < head_dim_; column += kFloatLanes) {
        const uint64_t left = head_dim_ - column;
        AscendC::Div(work_[first + column], wide[first + column], divisors, left < kFloatLanes ? left : kFloatLanes,
                     static_cast<uint8_t>(heads_), {1, 1, 0, stride, stride, 1});
      }
    }
    AscendC::PipeBarrier<PIPE_V>();
  }

  uint32_t head_dim_ = 0;
  uint32_t lanes_ = 0;
  uint32_t tokens_ = 0;
  uint32_t heads_ = 0;
  AscendC::TBuf<AscendC::TPosition::VECCALC> work_buffer_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> half_buffer_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> column_buffer_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> spread_buffer_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> normal_buffer_;
  AscendC::LocalTensor<float> work_;
  AscendC::LocalTensor<half> halves_;
  AscendC::LocalTensor<float> not_finite_;  // of each row: 0, or NaN
  AscendC::LocalTensor<float> divisors_;
  AscendC::LocalTensor<float> spread_;      // the divisors, each eight times
  AscendC::LocalTensor<uint8_t> is_normal_;  // a bit for each scale
};

template <typename Token>
class ReshapeAndQuantize {
 public:
  __aicore__ inline void Init(AscendC::TPipe* pipe, GM_ADDR key, GM_ADDR value, GM_ADDR key_cache, GM_ADDR value_cache,
                              GM_ADDR slot_mapping, const ReshapeAndCacheTiling& tiling) {
    tiling_ = tiling;
    num_heads_ = tiling.token_width / tiling.head_dim;
    page_values_ = static_cast<uint64_t>(tiling.block_size) * tiling.token_width;
    page_bytes_ = page_values_ + static_cast<uint64_t>(tiling.block_size) * num_heads_ * sizeof(float);
    const uint64_t tokens = static_cast<uint64_t>(tiling.num_tokens) * tiling.token_width;
    const uint64_t bytes = tiling.num_slots / tiling.block_size * page_bytes_;
    SetBuffers(0, key, tokens, key_cache, bytes);
    SetBuffers(1, value, tokens, value_cache, bytes);
    slots_.Init(pipe, slot_mapping, tiling.num_tokens);
    quantizer_.Init(pipe, tiling.head_dim);
    pipe->InitBuffer(loaded_, 2, kQuantizeElements * sizeof(Token));
    pipe->InitBuffer(stored_, 2, kQuantizeElements + kQuantizeScales * sizeof(float));
    if constexpr (!kFromFloat) pipe->InitBuffer(wide_, kQuantizeElements * sizeof(float));
  }

  __aicore__ inline void Process() {
    const uint64_t num_keys = tiling_.num_tokens;
    const CoreShare share = ShareOfThisCore(2 * num_keys);
    StoreRows(0, share.begin, share.end < num_keys ? share.end : num_keys);
    if (share.end > num_keys) StoreRows(1, share.begin > num_keys ? share.begin - num_keys : 0, share.end - num_keys);
  }

 private:
  static constexpr bool kFromFloat = AscendC::IsSameType<Token, float>::value;

  __aicore__ inline void SetBuffers(uint32_t which, GM_ADDR tokens, uint64_t num_elements, GM_ADDR cache,
                                    uint64_t cache_bytes) {
    tokens_[which].SetGlobalBuffer(reinterpret_cast<__gm__ Token*>(tokens), num_elements);
    values_[which].SetGlobalBuffer(reinterpret_cast<__gm__ int8_t*>(cache), cache_bytes);
    scales_[which].SetGlobalBuffer(reinterpret_cast<__gm__ float*>(cache), cache_bytes / sizeof(float));
  }

  // Tokens [begin, end) of the keys (which = 0) or the values (1).
  __aicore__ inline void StoreRows(uint32_t which, uint32_t begin, uint32_t end) {
    for (uint32_t token = begin; token < end; token += tiling_.tokens_per_batch) {
      const uint32_t left = end - token;
      const uint32_t count = left < tiling_.tokens_per_batch ? left : tiling_.tokens_per_batch;
      for (uint32_t offset = 0; offset < tiling_.token_width; offset += tiling_.part_width) {
        const uint32_t rest = tiling_.token_width - offset;
        StoreParts(which, token, count, offset, rest < tiling_.part_width ? rest : tiling_.part_width);
      }
    }
  }

  // `part` elements from `offset` on of `count` tokens. Either a part is a whole token or there is one token.
  __aicore__ inline void StoreParts(uint32_t which, uint32_t token, uint32_t count, uint32_t offset, uint32_t part) {
    const uint32_t heads = part / tiling_.head_dim;
    AscendC::LocalTensor<int8_t> storing = stored_.template AllocTensor<int8_t>();
    Quantize(storing, which, token, count, offset, heads);
    stored_.EnQue(storing);
    AscendC::LocalTensor<int8_t> values = stored_.template DeQue<int8_t>();
    const AscendC::LocalTensor<float> scales = ScalesOf(values);
    const AscendC::DataCopyExtParams scale_bytes(1, static_cast<uint32_t>(heads * sizeof(float)), 0, 0, 0);
    for (uint32_t i = 0; i < count; ++i) {
      const int32_t slot = slots_.Get(token + i);
      if (slot < 0 || static_cast<uint32_t>(slot) >= tiling_.num_slots) continue;
      const uint64_t page = static_cast<uint32_t>(slot) / tiling_.block_size * page_bytes_;
      const uint64_t inside = static_cast<uint32_t>(slot) % tiling_.block_size;
      AscendC::DataCopy(values_[which][page + inside * tiling_.token_width + offset], values[i * part], part);
      const uint64_t first_scale = (page + page_values_) / sizeof(float) + inside * num_heads_;
      AscendC::DataCopyPad(scales_[which][first_scale + offset / tiling_.head_dim], scales[i * PaddedScales(heads)],
                           scale_bytes);
    }
    stored_.FreeTensor(values);
  }

  // The scales lie behind the most values that there can be.
  __aicore__ inline AscendC::LocalTensor<float> ScalesOf(const AscendC::LocalTensor<int8_t>& stored) const {
    return stored[kQuantizeElements].template ReinterpretCast<float>();
  }

  __aicore__ inline void Quantize(const AscendC::LocalTensor<int8_t>& target, uint32_t which, uint32_t token,
                                  uint32_t count, uint32_t offset, uint32_t heads) {
    const uint32_t elements = count * heads * tiling_.head_dim;
    AscendC::LocalTensor<Token> loading = loaded_.template AllocTensor<Token>();
    AscendC::DataCopy(loading, tokens_[which][static_cast<uint64_t>(token) * tiling_.token_width + offset], elements);
    loaded_.EnQue(loading);
    AscendC::LocalTensor<Token> loaded = loaded_.template DeQue<Token>();
    if constexpr (kFromFloat) {
      quantizer_.Run(target, ScalesOf(target), loaded, count, heads);
    } else {
      AscendC::LocalTensor<float> wide = wide_.template Get<float>();
      AscendC::Cast(wide, loaded, AscendC::RoundMode::CAST_NONE, static_cast<int32_t>(elements));
      AscendC::PipeBarrier<PIPE_V>();
      quantizer_.Run(target, ScalesOf(target), wide, count, heads);
    }
    loaded_.FreeTensor(loaded);
  }

  ReshapeAndCacheTiling tiling_;
  uint32_t num_heads_ = 0;
  uint64_t page_values_ = 0;  // bytes of a page before its scales
  uint64_t page_bytes_ = 0;
  AscendC::GlobalTensor<Token> tokens_[2];
  AscendC::GlobalTensor<int8_t> values_[2];
  AscendC::GlobalTensor<float> scales_[2];
  IndexWindow slots_;
  Quantizer quantizer_;
  AscendC::TQue<AscendC::TPosition::VECIN, 1> loaded_;
  AscendC::TQue<AscendC::TPosition::VECOUT, 1> stored_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> wide_;
};

}  // namespace paged_ops
