// What is done to rows of D floats in UB, a head each, before attention: a norm of each head, and its rotation. Right
// without automatic synchronisation.
#pragma once

#include "kernel_operator.h"
#include "rope_and_cache_tiling.h"

namespace paged_ops {

class HeadRows {
 public:
  __aicore__ inline void Init(AscendC::TPipe* pipe, uint32_t head_dim, uint32_t rotated, float epsilon) {
    head_dim_ = head_dim;
    half_ = rotated / 2;
    epsilon_ = epsilon;
    stride_ = static_cast<uint8_t>(head_dim / kBlockFloats);
    pipe->InitBuffer(work_buffer_, 2 * kRopeMostElements * sizeof(float));
    pipe->InitBuffer(column_buffer_, (1 + kBlockFloats) * kMostHeads * sizeof(float));
    by_cos_ = work_buffer_.Get<float>();
    by_sin_ = by_cos_[kRopeMostElements];
    means_ = column_buffer_.Get<float>();
    roots_ = means_[kMostHeads];
  }

  // rows [heads, D], each divided by the root of its mean square and multiplied by weight [D].
  __aicore__ inline void Norm(const AscendC::LocalTensor<float>& rows, const AscendC::LocalTensor<float>& weight,
                              uint32_t heads) {
    FindRoots(rows, heads);
    for (uint32_t column = 0; column < head_dim_; column += kLanes) {
      const uint64_t lanes = Lanes(column);
      AscendC::Div(rows[column], rows[column], roots_, lanes, static_cast<uint8_t>(heads),
                   {1, 1, 0, stride_, stride_, 1});
    }
    AscendC::PipeBarrier<PIPE_V>();
    for (uint32_t column = 0; column < head_dim_; column += kLanes) {
      const uint64_t lanes = Lanes(column);
      AscendC::Mul(rows[column], rows[column], weight[column], lanes, static_cast<uint8_t>(heads),
                   {1, 1, 1, stride_, stride_, 0});
    }
    AscendC::PipeBarrier<PIPE_V>();
  }

  // The pairs (i, i + R / 2) of each row turned (Su et al. 2021, "RoFormer"); rotation: R / 2 cosines, R / 2 sines.
  __aicore__ inline void Rotate(const AscendC::LocalTensor<float>& rows, const AscendC::LocalTensor<float>& rotation,
                                uint32_t heads) {
    const AscendC::LocalTensor<float> cosines = rotation, sines = rotation[half_];
    const AscendC::LocalTensor<float> first = rows, second = rows[half_];
    const AscendC::BinaryRepeatParams by_row(1, 1, 1, stride_, stride_, stride_);
    const AscendC::BinaryRepeatParams by_one(1, 1, 1, stride_, stride_, 0);  // one angle a pair, for every row
    const uint8_t repeats = static_cast<uint8_t>(heads);
    const uint64_t lanes = half_;
    AscendC::Mul(by_cos_, first, cosines, lanes, repeats, by_one);
    AscendC::Mul(by_cos_[half_], second, cosines, lanes, repeats, by_one);
    AscendC::Mul(by_sin_, second, sines, lanes, repeats, by_one);
    AscendC::Mul(by_sin_[half_], first, sines, lanes, repeats, by_one);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Sub(first, by_cos_, by_sin_, lanes, repeats, by_row);
    AscendC::Add(second, by_cos_[half_], by_sin_[half_], lanes, repeats, by_row);
    AscendC::PipeBarrier<PIPE_V>();
  }

 private:
  static constexpr uint32_t kLanes = 64;       // of a vector repeat
  static constexpr uint32_t kBlockFloats = 8;  // of a block of 32 bytes
  static constexpr uint32_t kMostHeads = kRopeMostElements / kRopeHeadDimStep;

  __aicore__ inline uint64_t Lanes(uint32_t column) const {
    return head_dim_ - column < kLanes ? head_dim_ - column : kLanes;
  }

  // roots [heads], each eight times.
  __aicore__ inline void FindRoots(const AscendC::LocalTensor<float>& rows, uint32_t heads) {
    const AscendC::LocalTensor<float> squares = by_cos_;
    const uint32_t padded = (heads + kBlockFloats - 1) / kBlockFloats * kBlockFloats;
    const int32_t count = static_cast<int32_t>(padded);
    AscendC::Mul(squares, rows, rows, static_cast<int32_t>(heads * head_dim_));
    AscendC::Duplicate(means_, 0.0f, count);
    AscendC::PipeBarrier<PIPE_V>();
    if (head_dim_ > kLanes) {
      AscendC::Add(squares, squares, squares[kLanes], Lanes(kLanes), static_cast<uint8_t>(heads),
                   {1, 1, 1, stride_, stride_, stride_});
      AscendC::PipeBarrier<PIPE_V>();
    }
    AscendC::WholeReduceSum<float>(means_, squares, static_cast<int32_t>(Lanes(0)), static_cast<int32_t>(heads), 1, 1,
                                   stride_);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Muls(means_, means_, 1.0f / static_cast<float>(head_dim_), count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Adds(means_, means_, epsilon_, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Sqrt(means_, means_, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Brcb(roots_, means_, static_cast<uint8_t>(padded / kBlockFloats), {1, kBlockFloats});
    AscendC::PipeBarrier<PIPE_V>();
  }

  uint32_t head_dim_ = 0;
  uint32_t half_ = 0;
  float epsilon_ = 0;
  uint8_t stride_ = 0;  // blocks of a row
  AscendC::TBuf<AscendC::TPosition::VECCALC> work_buffer_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> column_buffer_;
  AscendC::LocalTensor<float> by_cos_;
  AscendC::LocalTensor<float> by_sin_;
  AscendC::LocalTensor<float> means_;
  AscendC::LocalTensor<float> roots_;
};

}  // namespace paged_ops
