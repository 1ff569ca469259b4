// Heads of one token, floats in UB, into their place of the paged cache: rounded to its type, or to int8 with a scale.
#pragma once

#include "kernel_operator.h"
#include "reshape_and_quantize.h"
#include "rope_and_cache_tiling.h"
#include "wide_rows.h"

namespace paged_ops {

template <typename Cache>
class PageHeads {
 public:
  __aicore__ inline void Init(AscendC::TPipe* pipe, GM_ADDR key_cache, GM_ADDR value_cache,
                              const RopeAndCacheTiling& tiling) {
    tiling_ = tiling;
    const uint64_t elements = static_cast<uint64_t>(tiling.num_slots) * tiling.num_kv_heads * tiling.head_dim;
    caches_[0].SetGlobalBuffer(reinterpret_cast<__gm__ Cache*>(key_cache), elements);
    caches_[1].SetGlobalBuffer(reinterpret_cast<__gm__ Cache*>(value_cache), elements);
    writer_.Init(pipe);
  }

  // heads from `head` on, of the keys (which = 0) or the values (1).
  __aicore__ inline void Store(uint32_t which, uint32_t slot, uint32_t head, const AscendC::LocalTensor<float>& rows,
                               uint32_t heads) {
    const uint64_t first = static_cast<uint64_t>(slot) * tiling_.num_kv_heads + head;
    writer_.Write(caches_[which][first * tiling_.head_dim], rows, heads * tiling_.head_dim);
  }

 private:
  RopeAndCacheTiling tiling_;
  AscendC::GlobalTensor<Cache> caches_[2];
  WideWriter<Cache> writer_;
};

template <>
class PageHeads<int8_t> {
 public:
  __aicore__ inline void Init(AscendC::TPipe* pipe, GM_ADDR key_cache, GM_ADDR value_cache,
                              const RopeAndCacheTiling& tiling) {
    tiling_ = tiling;
    const uint64_t slots = static_cast<uint64_t>(tiling.block_size) * tiling.num_kv_heads;
    page_values_ = slots * tiling.head_dim;
    page_bytes_ = page_values_ + slots * sizeof(float);
    const uint64_t bytes = tiling.num_slots / tiling.block_size * page_bytes_;
    SetBuffers(0, key_cache, bytes);
    SetBuffers(1, value_cache, bytes);
    quantizer_.Init(pipe, tiling.head_dim);
    pipe->InitBuffer(stored_, 2, kRopeMostElements + kMostScales * sizeof(float));
  }

  __aicore__ inline void Store(uint32_t which, uint32_t slot, uint32_t head, const AscendC::LocalTensor<float>& rows,
                               uint32_t heads) {
    AscendC::LocalTensor<int8_t> storing = stored_.template AllocTensor<int8_t>();
    quantizer_.Run(storing, ScalesOf(storing), rows, 1, heads);
    stored_.EnQue(storing);
    AscendC::LocalTensor<int8_t> stored = stored_.template DeQue<int8_t>();
    const uint64_t page = slot / tiling_.block_size * page_bytes_;
    const uint64_t inside = static_cast<uint64_t>(slot % tiling_.block_size) * tiling_.num_kv_heads + head;
    AscendC::DataCopy(values_[which][page + inside * tiling_.head_dim], stored, heads * tiling_.head_dim);
    AscendC::DataCopyPad(scales_[which][(page + page_values_) / sizeof(float) + inside], ScalesOf(stored),
                         AscendC::DataCopyExtParams(1, static_cast<uint32_t>(heads * sizeof(float)), 0, 0, 0));
    stored_.FreeTensor(stored);
  }

 private:
  static constexpr uint32_t kMostScales = kRopeMostElements / kInt8HeadDimStep;  // a multiple of 64

  __aicore__ inline void SetBuffers(uint32_t which, GM_ADDR cache, uint64_t bytes) {
    values_[which].SetGlobalBuffer(reinterpret_cast<__gm__ int8_t*>(cache), bytes);
    scales_[which].SetGlobalBuffer(reinterpret_cast<__gm__ float*>(cache), bytes / sizeof(float));
  }

  // The scales lie behind the most values that there can be.
  __aicore__ inline AscendC::LocalTensor<float> ScalesOf(const AscendC::LocalTensor<int8_t>& stored) const {
    return stored[kRopeMostElements].template ReinterpretCast<float>();
  }

  RopeAndCacheTiling tiling_;
  uint64_t page_values_ = 0;  // bytes of a page before its scales
  uint64_t page_bytes_ = 0;
  AscendC::GlobalTensor<int8_t> values_[2];
  AscendC::GlobalTensor<float> scales_[2];
  Quantizer quantizer_;
  AscendC::TQue<AscendC::TPosition::VECOUT, 1> stored_;
};

}  // namespace paged_ops
