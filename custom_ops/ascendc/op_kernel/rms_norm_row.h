// A row of floats in UB divided by the root of its mean square (Zhang and Sennrich 2019, "Root Mean Square Layer
// Normalization"). Right without automatic synchronisation.
#pragma once

#include "kernel_operator.h"
#include "wide_rows.h"

namespace paged_ops {

class RmsNormRow {
 public:
  __aicore__ inline void Init(AscendC::TPipe* pipe, uint32_t width, float epsilon) {
    width_ = width;
    epsilon_ = epsilon;
    pipe->InitBuffer(squares_buffer_, kWidePiece * sizeof(float));
    pipe->InitBuffer(column_buffer_, (kPartials + kBlockFloats + kLanes) * sizeof(float));
    squares_ = squares_buffer_.Get<float>();
    partials_ = column_buffer_.Get<float>();
    mean_ = partials_[kPartials];
    root_ = mean_[kBlockFloats];
  }

  // row [width], width a multiple of 16. Behind it a barrier is due before the row is read.
  __aicore__ inline void Divide(const AscendC::LocalTensor<float>& row) {
    SumSquares(row);
    FindRoot();
    for (uint32_t column = 0; column < width_; column += kWidePiece) {
      const uint32_t count = width_ - column < kWidePiece ? width_ - column : kWidePiece;
      const uint32_t repeats = count / kLanes, rest = count % kLanes;
      const AscendC::BinaryRepeatParams strides(1, 1, 0, kRepeatBlocks, kRepeatBlocks, 0);  // the root for all of them
      if (repeats > 0) {
        AscendC::Div(row[column], row[column], root_, kLanes, static_cast<uint8_t>(repeats), strides);
      }
      if (rest > 0) {
        const uint32_t last = column + repeats * kLanes;
        AscendC::Div(row[last], row[last], root_, rest, 1, strides);
      }
    }
  }

 private:
  static constexpr uint32_t kLanes = 64;       // of a vector repeat
  static constexpr uint32_t kBlockFloats = 8;  // of a block of 32 bytes
  static constexpr uint8_t kRepeatBlocks = 8;
  static constexpr uint32_t kPartials = kWidePiece / kLanes;

  // squares[i]: the squares of columns i, i + kWidePiece, …
  __aicore__ inline void SumSquares(const AscendC::LocalTensor<float>& row) {
    AscendC::Duplicate(squares_, 0.0f, static_cast<int32_t>(kWidePiece));
    AscendC::Duplicate(mean_, 0.0f, static_cast<int32_t>(kBlockFloats));
    AscendC::PipeBarrier<PIPE_V>();
    for (uint32_t column = 0; column < width_; column += kWidePiece) {
      const uint32_t count = width_ - column < kWidePiece ? width_ - column : kWidePiece;
      AscendC::MulAddDst(squares_, row[column], row[column], static_cast<int32_t>(count));
      AscendC::PipeBarrier<PIPE_V>();
    }
  }

  __aicore__ inline void FindRoot() {
    AscendC::WholeReduceSum<float>(partials_, squares_, static_cast<int32_t>(kLanes), kPartials, 1, 1, kRepeatBlocks);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::WholeReduceSum<float>(mean_, partials_, static_cast<int32_t>(kPartials), 1, 1, 1, kRepeatBlocks);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Muls(mean_, mean_, 1.0f / static_cast<float>(width_), static_cast<int32_t>(kBlockFloats));
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Adds(mean_, mean_, epsilon_, static_cast<int32_t>(kBlockFloats));
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Sqrt(mean_, mean_, static_cast<int32_t>(kBlockFloats));
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Brcb(root_, mean_, 1, {1, kRepeatBlocks});
    AscendC::PipeBarrier<PIPE_V>();
  }

  uint32_t width_ = 0;
  float epsilon_ = 0;
  AscendC::TBuf<AscendC::TPosition::VECCALC> squares_buffer_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> column_buffer_;
  AscendC::LocalTensor<float> squares_;
  AscendC::LocalTensor<float> partials_;
  AscendC::LocalTensor<float> mean_;  // the first of eight is it
  AscendC::LocalTensor<float> root_;  // eight times, and behind it what the others of `mean_` become
};

}  // namespace paged_ops
