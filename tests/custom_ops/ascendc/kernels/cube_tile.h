// One matrix product on one AI Core's cube unit, GM -> L1 -> L0A/L0B -> L0C -> GM, with every flag written out.
// Two halves of each memory alternate, so that the loads of one product overlap the arithmetic of the one before.
#pragma once

#include "kernel_operator.h"

namespace cube_tile {

using namespace AscendC;

constexpr uint32_t kFractalSide = 16;
constexpr uint32_t kFractalElements = kFractalSide * kFractalSide;
constexpr uint32_t kMaxRows = 16;    // of A and C
constexpr uint32_t kMaxColumns = 128;  // of C, and the largest inner dimension
// TPipe itself keeps M_MTE1 events 0 to 2 set from its construction to its destruction.
constexpr int32_t kFirstMToMte1Event = 3;

__aicore__ inline uint32_t CeilFractals(uint32_t n) { return (n + kFractalSide - 1) / kFractalSide; }
__aicore__ inline uint32_t Min(uint32_t a, uint32_t b) { return a < b ? a : b; }

// Which product: C[m,n] = A[m,k] * B, B being [n,k] (transposed) or [k,n]; k is taken k_step at a time.
struct Shape {
  uint32_t m;
  uint32_t n;
  uint32_t k;
  uint32_t k_step;
  bool b_is_transposed;
};

template <typename T>
class CubeTile {
 public:
  using Accumulator = float;

  __aicore__ inline void Init(TPipe& pipe) {
    pipe.InitBuffer(a1_buffer_, 2 * kMaxRows * kMaxColumns * sizeof(T));
    pipe.InitBuffer(b1_buffer_, 2 * kMaxColumns * kMaxColumns * sizeof(T));
    pipe.InitBuffer(a2_buffer_, 2 * kMaxRows * kMaxColumns * sizeof(T));
    pipe.InitBuffer(b2_buffer_, 2 * kMaxColumns * kMaxColumns * sizeof(T));
    pipe.InitBuffer(c_buffer_, 2 * kMaxRows * kMaxColumns * sizeof(float));
    for (int32_t half = 0; half < 2; ++half) {
      SetFlag<HardEvent::MTE1_MTE2>(half);
      SetFlag<HardEvent::M_MTE1>(kFirstMToMte1Event + half);
      SetFlag<HardEvent::FIX_M>(half);
    }
  }

  __aicore__ inline void Finish() {
    for (int32_t half = 0; half < 2; ++half) {
      WaitFlag<HardEvent::MTE1_MTE2>(half);
      WaitFlag<HardEvent::M_MTE1>(kFirstMToMte1Event + half);
      WaitFlag<HardEvent::FIX_M>(half);
    }
  }

  template <typename C>
  __aicore__ inline void Multiply(const GlobalTensor<C>& c, const GlobalTensor<T>& a, const GlobalTensor<T>& b,
                                  const Shape& shape) {
    const int32_t half = products_ % 2;
    LocalTensor<T> a1 = a1_buffer_.template Get<T>()[half * kMaxRows * kMaxColumns];
    LocalTensor<T> b1 = b1_buffer_.template Get<T>()[half * kMaxColumns * kMaxColumns];
    LocalTensor<Accumulator> c0 = c_buffer_.template Get<Accumulator>()[half * kMaxRows * kMaxColumns];

    WaitFlag<HardEvent::MTE1_MTE2>(half);
    CopyA(a1, a, shape);
    CopyB(b1, b, shape);
    SetFlag<HardEvent::MTE2_MTE1>(half);
    WaitFlag<HardEvent::MTE2_MTE1>(half);
    WaitFlag<HardEvent::FIX_M>(half);
    for (uint32_t k = 0; k < shape.k; k += shape.k_step) {
      Accumulate(c0, a1, b1, shape, k);
    }
    SetFlag<HardEvent::MTE1_MTE2>(half);
    SetFlag<HardEvent::M_FIX>(half);
    WaitFlag<HardEvent::M_FIX>(half);
    CopyOut(c, c0, shape);
    SetFlag<HardEvent::FIX_M>(half);
    ++products_;
  }

 private:
  __aicore__ inline void CopyA(const LocalTensor<T>& a1, const GlobalTensor<T>& a, const Shape& shape) {
    if (shape.m == 1) {  // the cube unit reads a single row as a plain vector
      DataCopy(a1, a, shape.k);
      return;
    }
    CopyNdToNz(a1, a, shape.m, shape.k);
  }

  __aicore__ inline void CopyB(const LocalTensor<T>& b1, const GlobalTensor<T>& b, const Shape& shape) {
    if (shape.b_is_transposed) {
      CopyNdToNz(b1, b, shape.n, shape.k);
    } else {
      CopyNdToNz(b1, b, shape.k, shape.n);
    }
  }

  __aicore__ inline void CopyNdToNz(const LocalTensor<T>& to, const GlobalTensor<T>& from, uint32_t rows,
                                    uint32_t columns) {
    Nd2NzParams params;
    params.ndNum = 1;
    params.nValue = rows;
    params.dValue = columns;
    params.srcDValue = columns;
    params.dstNzC0Stride = CeilFractals(rows) * kFractalSide;
    params.dstNzNStride = 1;
    DataCopy(to, from, params);
  }

  __aicore__ inline void Accumulate(const LocalTensor<Accumulator>& c0, const LocalTensor<T>& a1,
                                    const LocalTensor<T>& b1, const Shape& shape, uint32_t k) {
    const int32_t half = steps_ % 2;
    const uint32_t depth = Min(shape.k_step, shape.k - k);
    LocalTensor<T> a2 = a2_buffer_.template Get<T>()[half * kMaxRows * kMaxColumns];
    LocalTensor<T> b2 = b2_buffer_.template Get<T>()[half * kMaxColumns * kMaxColumns];

    WaitFlag<HardEvent::M_MTE1>(kFirstMToMte1Event + half);
    LoadA(a2, a1, shape, k, depth);
    LoadB(b2, b1, shape, k, depth);
    SetFlag<HardEvent::MTE1_M>(half);
    WaitFlag<HardEvent::MTE1_M>(half);
    MmadParams params;
    params.m = shape.m;
    params.n = shape.n;
    params.k = depth;
    params.cmatrixInitVal = (k == 0);
    Mmad(c0, a2, b2, params);
    PipeBarrier<PIPE_M>();
    SetFlag<HardEvent::M_MTE1>(kFirstMToMte1Event + half);
    ++steps_;
  }

  __aicore__ inline void LoadA(const LocalTensor<T>& a2, const LocalTensor<T>& a1, const Shape& shape, uint32_t k,
                               uint32_t depth) {
    LoadData2DParams params;
    params.srcStride = 1;
    if (shape.m == 1) {
      params.repeatTimes = (depth + kFractalElements - 1) / kFractalElements;
      LoadData(a2, a1[k], params);
      return;
    }
    params.startIndex = k / kFractalSide;
    params.repeatTimes = CeilFractals(depth);
    LoadData(a2, a1, params);
  }

  __aicore__ inline void LoadB(const LocalTensor<T>& b2, const LocalTensor<T>& b1, const Shape& shape, uint32_t k,
                               uint32_t depth) {
    const uint32_t n_fractals = CeilFractals(shape.n);
    LoadData2DParams params;
    if (shape.b_is_transposed) {  // nZ of [n,k] holds the same bytes as zN of [k,n]
      params.startIndex = (k / kFractalSide) * n_fractals;
      params.repeatTimes = CeilFractals(depth) * n_fractals;
      params.srcStride = 1;
      LoadData(b2, b1, params);
      return;
    }
    params.repeatTimes = n_fractals;
    params.srcStride = CeilFractals(shape.k);
    params.ifTranspose = true;
    for (uint32_t row = 0; row < CeilFractals(depth); ++row) {
      params.startIndex = k / kFractalSide + row;
      LoadData(b2[row * n_fractals * kFractalElements], b1, params);
    }
  }

  template <typename C>
  __aicore__ inline void CopyOut(const GlobalTensor<C>& c, const LocalTensor<Accumulator>& c0, const Shape& shape) {
    FixpipeParamsV220 params;
    params.nSize = shape.n;
    params.mSize = shape.m;
    params.srcStride = kMaxRows;
    params.dstStride = shape.n;
    if constexpr (IsSameType<C, half>::value) {
      params.quantPre = QuantMode_t::F322F16;
    } else if constexpr (IsSameType<C, bfloat16_t>::value) {
      params.quantPre = QuantMode_t::F322BF16;
    }
    Fixpipe(c, c0, params);
  }

  TBuf<TPosition::A1> a1_buffer_;
  TBuf<TPosition::B1> b1_buffer_;
  TBuf<TPosition::A2> a2_buffer_;
  TBuf<TPosition::B2> b2_buffer_;
  TBuf<TPosition::CO1> c_buffer_;
  int32_t products_ = 0;
  int32_t steps_ = 0;
};

}  // namespace cube_tile
