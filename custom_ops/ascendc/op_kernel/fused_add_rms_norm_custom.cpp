// fused_add_rms_norm: what a half of a layer gives is added to the residual stream, in place, and the sum is normed for
// the next half. vLLM's fused_add_rms_norm is the same but for the two options.
//
//   x            [T, C] float32, float16 or bfloat16: the residual stream, x += added * residual_scale
//   added        [T, C] of the same type; with kNormOfAdded normed before, norm(added) * added_weight
//   added_weight [C] of the same type, read with kNormOfAdded alone
//   weight       [C] of the same type
//   normed       [T, C]: x / sqrt(mean(x^2) + epsilon) * weight, from the sum before it is rounded
//
// Without kNormAdds x is normed as it is, and neither added nor x is touched. C is a multiple of 16.
// Work is cut by tokens: a core keeps a row as floats in UB.

#include "core_share.h"
#include "fused_add_rms_norm_tiling.h"
#include "kernel_operator.h"
#include "rms_norm_row.h"
#include "wide_rows.h"

#ifndef DTYPE_X
#define DTYPE_X half
#endif

namespace paged_ops {

template <typename T>
class FusedAddRmsNorm {
 public:
  __aicore__ inline void Init(AscendC::TPipe* pipe, GM_ADDR x, GM_ADDR added, GM_ADDR added_weight, GM_ADDR weight,
                              GM_ADDR normed, const FusedAddRmsNormTiling& tiling) {
    tiling_ = tiling;
    const uint64_t elements = static_cast<uint64_t>(tiling.num_tokens) * tiling.width;
    x_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(x), elements);
    added_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(added), elements);
    added_weight_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(added_weight), tiling.width);
    weight_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(weight), tiling.width);
    normed_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(normed), elements);
    reader_.Init(pipe);
    writer_.Init(pipe);
    norm_.Init(pipe, tiling.width, tiling.epsilon);
    pipe->InitBuffer(row_buffer_, tiling.width * sizeof(float));
    pipe->InitBuffer(other_buffer_, kWidePiece * sizeof(float));
    row_ = row_buffer_.Get<float>();
    other_ = other_buffer_.Get<float>();
  }

  __aicore__ inline void Process() {
    const CoreShare share = ShareOfThisCore(tiling_.num_tokens);
    for (uint64_t token = share.begin; token < share.end; ++token) {
      const uint64_t first = token * tiling_.width;
      MakeRow(first);
      norm_.Divide(row_);
      for (uint32_t column = 0; column < tiling_.width; column += kWidePiece) WriteNormed(first, column);
    }
  }

 private:
  __aicore__ inline uint32_t Piece(uint32_t column) const {
    return tiling_.width - column < kWidePiece ? tiling_.width - column : kWidePiece;
  }

  // row = x, the sum if there is something to add; the sum is written to x.
  __aicore__ inline void MakeRow(uint64_t first) {
    const bool adds = (tiling_.options & kNormAdds) != 0;
    const AscendC::GlobalTensor<T>& source = adds ? added_ : x_;
    for (uint32_t column = 0; column < tiling_.width; column += kWidePiece) {
      reader_.Read(row_[column], source[first + column], Piece(column));
    }
    if (!adds) return;
    if ((tiling_.options & kNormOfAdded) != 0) norm_.Divide(row_);
    for (uint32_t column = 0; column < tiling_.width; column += kWidePiece) AddPiece(first, column);
  }

  __aicore__ inline void AddPiece(uint64_t first, uint32_t column) {
    const uint32_t piece = Piece(column);
    const int32_t count = static_cast<int32_t>(piece);
    const AscendC::LocalTensor<float> row = row_[column];
    if ((tiling_.options & kNormOfAdded) != 0) {
      reader_.Read(other_, added_weight_[column], piece);
      AscendC::Mul(row, row, other_, count);
      AscendC::PipeBarrier<PIPE_V>();
    }
    AscendC::Muls(row, row, tiling_.residual_scale, count);
    reader_.Read(other_, x_[first + column], piece);  // it ends with a barrier
    AscendC::Add(row, row, other_, count);
    AscendC::PipeBarrier<PIPE_V>();
    writer_.Write(x_[first + column], row, piece);
  }

  __aicore__ inline void WriteNormed(uint64_t first, uint32_t column) {
    const uint32_t piece = Piece(column);
    const AscendC::LocalTensor<float> row = row_[column];
    reader_.Read(other_, weight_[column], piece);
    AscendC::Mul(row, row, other_, static_cast<int32_t>(piece));
    AscendC::PipeBarrier<PIPE_V>();
    writer_.Write(normed_[first + column], row, piece);
  }

  FusedAddRmsNormTiling tiling_;
  AscendC::GlobalTensor<T> x_;
  AscendC::GlobalTensor<T> added_;
  AscendC::GlobalTensor<T> added_weight_;
  AscendC::GlobalTensor<T> weight_;
  AscendC::GlobalTensor<T> normed_;
  WideReader<T> reader_;
  WideWriter<T> writer_;
  RmsNormRow norm_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> row_buffer_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> other_buffer_;
  AscendC::LocalTensor<float> row_;
  AscendC::LocalTensor<float> other_;
};

}  // namespace paged_ops

extern "C" __global__ __aicore__ void fused_add_rms_norm_custom(GM_ADDR x, GM_ADDR added, GM_ADDR added_weight,
                                                                GM_ADDR weight, GM_ADDR normed, GM_ADDR workspace,
                                                                GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  REGISTER_TILING_DEFAULT(FusedAddRmsNormTiling);
  GET_TILING_DATA(tiling_data, tiling);
  AscendC::TPipe pipe;
  paged_ops::FusedAddRmsNorm<DTYPE_X> op;
  op.Init(&pipe, x, added, added_weight, weight, normed, tiling_data);
  op.Process();
}
