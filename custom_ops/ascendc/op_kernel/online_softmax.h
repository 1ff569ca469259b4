// The softmax of several queries over keys that come a tile at a time, and the sums of values weighted by it: vector
// core, float32. Every query has a row; rows of scores are `width` floats, rows of values `head_dim` floats.
//
//   per tile:   maximum' = max(maximum, scores)         weight = exp(scores - maximum')
//               decay    = exp(maximum - maximum')      sum = sum * decay + weights      values = values * decay + …
//   at last:    values / sum
//
// Right without automatic synchronisation: a barrier stands between vector instructions that depend on each other.
// Source: Milakov and Gimelshein 2018, "Online normalizer calculation for softmax".
#pragma once

#include "kernel_operator.h"

namespace paged_attention {

constexpr uint32_t kLanes = 64;      // floats of a vector repeat
constexpr uint32_t kBlockLanes = 8;  // floats of a 32-byte block

// Finite, so that a row without any key yet has exp(maximum - maximum') = 0 and not NaN.
constexpr float kMaskedScore = -3.0e38f;

// Lanes of the repeat that takes a row of `length` floats from `column` on.
__aicore__ inline uint64_t LanesLeft(uint32_t length, uint32_t column) {
  return length - column < kLanes ? length - column : kLanes;
}

__aicore__ inline void VectorBarrier() { AscendC::PipeBarrier<PIPE_V>(); }

class OnlineSoftmax {
 public:
  // `max_queries` is a multiple of 16, `head_dim` of 16 and at most 256.
  __aicore__ inline void Init(AscendC::TPipe& pipe, uint32_t max_queries, uint32_t head_dim) {
    max_queries_ = max_queries;
    head_dim_ = head_dim;
    const uint32_t column = max_queries * sizeof(float);
    pipe.InitBuffer(state_buffer_, column * (2 + head_dim));
    pipe.InitBuffer(scratch_buffer_, column * (2 + kBlockLanes));
    state_ = state_buffer_.Get<float>();
    maximum_ = state_;
    sum_ = state_[max_queries];
    values_ = state_[2 * max_queries];
    fresh_ = scratch_buffer_.Get<float>();
    decay_ = fresh_[max_queries];
    spread_ = fresh_[2 * max_queries];
    AscendC::Duplicate(fresh_, 0.0f, 2 * max_queries);
  }

  // Maximum, sum and weighted values of the first `queries` queries, in one piece.
  __aicore__ inline AscendC::LocalTensor<float> State() const { return state_; }
  __aicore__ inline uint32_t StateFloats(uint32_t queries) const { return 2 * max_queries_ + queries * head_dim_; }
  __aicore__ inline AscendC::LocalTensor<float> Values() const { return values_; }

  __aicore__ inline void Begin(uint32_t queries) {
    AscendC::Duplicate(maximum_, kMaskedScore, max_queries_);
    AscendC::Duplicate(sum_, 0.0f, max_queries_);
    AscendC::Duplicate(values_, 0.0f, queries * head_dim_);
  }

  // Hides the scores before column `first` and from column `end` on, in `rows` rows from `first_row` on; weights have
  // `hidden_value` 0.
  __aicore__ inline void Mask(const AscendC::LocalTensor<float>& scores, uint32_t width, uint32_t first_row,
                              uint32_t rows, uint32_t first, uint32_t end, float hidden_value = kMaskedScore) const {
    const uint8_t stride = static_cast<uint8_t>(width / kBlockLanes);
    for (uint32_t column = first > 0 ? 0 : end / kLanes * kLanes; column < width; column += kLanes) {
      uint64_t hidden[2] = {LanesBefore(first, column) | ~LanesBefore(end, column), 0};
      if (hidden[0] == 0) continue;
      AscendC::Duplicate(scores[first_row * width + column], hidden_value, hidden, static_cast<uint8_t>(rows), 1,
                         stride);
    }
  }

  // Turns scores into weights, in place; Decay must follow, before values weighted so are added. `folded` is scratch,
  // 64 floats a query.
  __aicore__ inline void Weigh(const AscendC::LocalTensor<float>& scores, uint32_t width, uint32_t queries,
                               const AscendC::LocalTensor<float>& folded) {
    const uint8_t repeat = static_cast<uint8_t>(queries), stride = static_cast<uint8_t>(width / kBlockLanes);
    AscendC::WholeReduceMax<float>(fresh_, Fold<true>(folded, scores, width, queries), static_cast<int32_t>(kLanes),
                                   queries, 1, 1, kLanes / kBlockLanes, AscendC::ReduceOrder::ORDER_ONLY_VALUE);
    VectorBarrier();
    RaiseMaximum();
    Spread(fresh_);
    for (uint32_t column = 0; column < width; column += kLanes) {
      AscendC::Sub(scores[column], scores[column], spread_, static_cast<uint64_t>(kLanes), repeat,
                   {1, 1, 0, stride, stride, 1});
    }
    VectorBarrier();
    AscendC::Exp(scores, scores, static_cast<int32_t>(queries * width));
    AscendC::Mul(sum_, sum_, decay_, static_cast<int32_t>(max_queries_));
    VectorBarrier();
    AscendC::WholeReduceSum<float>(fresh_, Fold<false>(folded, scores, width, queries), static_cast<int32_t>(kLanes),
                                   queries, 1, 1, kLanes / kBlockLanes);
    VectorBarrier();
    AscendC::Add(sum_, sum_, fresh_, static_cast<int32_t>(max_queries_));
  }

  // Brings the values so far to the newest maximum.
  __aicore__ inline void Decay(uint32_t queries) {
    Spread(decay_);
    const uint8_t stride = static_cast<uint8_t>(head_dim_ / kBlockLanes);
    for (uint32_t column = 0; column < head_dim_; column += kLanes) {
      AscendC::Mul(values_[column], values_[column], spread_, LanesLeft(head_dim_, column),
                   static_cast<uint8_t>(queries), {1, 1, 0, stride, stride, 1});
    }
    VectorBarrier();
  }

  // Takes in what another core has of the same task: its State().
  __aicore__ inline void Merge(const AscendC::LocalTensor<float>& other, uint32_t queries) {
    const int32_t count = static_cast<int32_t>(max_queries_);
    const AscendC::LocalTensor<float> other_maximum = other, other_sum = other[max_queries_];
    AscendC::Adds(fresh_, other_maximum, 0.0f, count);
    VectorBarrier();
    RaiseMaximum();
    Decay(queries);
    AscendC::Sub(other_maximum, other_maximum, fresh_, count);
    AscendC::Mul(sum_, sum_, decay_, count);
    VectorBarrier();
    AscendC::Exp(other_maximum, other_maximum, count);
    VectorBarrier();
    AscendC::MulAddDst(sum_, other_sum, other_maximum, count);
    Spread(other_maximum);
    const uint8_t stride = static_cast<uint8_t>(head_dim_ / kBlockLanes);
    for (uint32_t column = 0; column < head_dim_; column += kLanes) {
      AscendC::MulAddDst(values_[column], other[2 * max_queries_ + column], spread_, LanesLeft(head_dim_, column),
                         static_cast<uint8_t>(queries), {1, 1, 0, stride, stride, 1});
    }
    VectorBarrier();
  }

  // Divides the sums of values by the sums of weights.
  __aicore__ inline void Normalize(uint32_t queries) {
    Spread(sum_);
    const uint8_t stride = static_cast<uint8_t>(head_dim_ / kBlockLanes);
    for (uint32_t column = 0; column < head_dim_; column += kLanes) {
      AscendC::Div(values_[column], values_[column], spread_, LanesLeft(head_dim_, column),
                   static_cast<uint8_t>(queries), {1, 1, 0, stride, stride, 1});
    }
    VectorBarrier();
  }

 private:
  // A bit for each lane of the repeat at `column` that stands before column `end`.
  __aicore__ static inline uint64_t LanesBefore(uint32_t end, uint32_t column) {
    if (end <= column) return 0;
    return end - column < kLanes ? ~(~0ull << (end - column)) : ~0ull;
  }

  // maximum' = max(maximum, fresh); decay = exp(maximum - maximum'). Leaves maximum' in fresh_ too.
  __aicore__ inline void RaiseMaximum() {
    const int32_t count = static_cast<int32_t>(max_queries_);
    AscendC::Max(fresh_, maximum_, fresh_, count);
    VectorBarrier();
    AscendC::Sub(decay_, maximum_, fresh_, count);
    VectorBarrier();
    AscendC::Adds(maximum_, fresh_, 0.0f, count);
    AscendC::Exp(decay_, decay_, count);
    VectorBarrier();
  }

  // A block of eight equal floats for each query: an operand that counts for a whole row.
  __aicore__ inline void Spread(const AscendC::LocalTensor<float>& column) {
    AscendC::Brcb(spread_, column, static_cast<uint8_t>(max_queries_ / kBlockLanes), {1, kBlockLanes});
    VectorBarrier();
  }

  // Folds each row of `width` floats into 64, by maximum or by sum; gives where they are.
  template <bool kMaximum>
  __aicore__ inline AscendC::LocalTensor<float> Fold(const AscendC::LocalTensor<float>& folded,
                                                     const AscendC::LocalTensor<float>& scores, uint32_t width,
                                                     uint32_t queries) const {
    if (width == kLanes) return scores;
    constexpr uint8_t kRow = kLanes / kBlockLanes;
    const uint8_t repeat = static_cast<uint8_t>(queries), stride = static_cast<uint8_t>(width / kBlockLanes);
    const uint64_t mask = kLanes;
    AscendC::Adds(folded, scores, 0.0f, mask, repeat, {1, 1, kRow, stride});
    VectorBarrier();
    for (uint32_t column = kLanes; column < width; column += kLanes) {
      if constexpr (kMaximum) {
        AscendC::Max(folded, folded, scores[column], mask, repeat, {1, 1, 1, kRow, kRow, stride});
      } else {
        AscendC::Add(folded, folded, scores[column], mask, repeat, {1, 1, 1, kRow, kRow, stride});
      }
      VectorBarrier();
    }
    return folded;
  }

  AscendC::TBuf<AscendC::TPosition::VECCALC> state_buffer_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> scratch_buffer_;
  AscendC::LocalTensor<float> state_;
  AscendC::LocalTensor<float> maximum_;
  AscendC::LocalTensor<float> sum_;
  AscendC::LocalTensor<float> values_;
  AscendC::LocalTensor<float> fresh_;   // the tile's maxima, then the new maxima, then the tile's sums
  AscendC::LocalTensor<float> decay_;
  AscendC::LocalTensor<float> spread_;
  uint32_t max_queries_ = 0;
  uint32_t head_dim_ = 0;
};

}  // namespace paged_attention
