// Brings rows of numbers from GM into UB, in another type if need be. Double buffered.
#pragma once

#include "kernel_operator.h"

namespace paged_ops {

// Through float32 where the two types have no direct conversion; rounded to nearest, ties to even.
template <typename From, typename To>
class RowReader {
 public:
  // `most` is the largest number of elements that one Read is asked for.
  __aicore__ inline void Init(AscendC::TPipe* pipe, uint32_t most) {
    pipe->InitBuffer(loaded_, 2, most * sizeof(From));
    pipe->InitBuffer(converted_, 2, most * sizeof(To));
    if constexpr (!kFromFloat) pipe->InitBuffer(wide_, most * sizeof(float));
  }

  // The caller frees what it gets, when it has stored it.
  __aicore__ inline AscendC::LocalTensor<To> Read(const AscendC::GlobalTensor<From>& rows, uint32_t count) {
    AscendC::LocalTensor<From> loading = loaded_.template AllocTensor<From>();
    AscendC::DataCopy(loading, rows, count);
    loaded_.EnQue(loading);
    AscendC::LocalTensor<From> loaded = loaded_.template DeQue<From>();
    AscendC::LocalTensor<To> converting = converted_.template AllocTensor<To>();
    Convert(converting, loaded, count);
    loaded_.FreeTensor(loaded);
    converted_.EnQue(converting);
    return converted_.template DeQue<To>();
  }

  __aicore__ inline void Free(AscendC::LocalTensor<To>& rows) { converted_.FreeTensor(rows); }

 private:
  static constexpr bool kFromFloat = AscendC::IsSameType<From, float>::value;

  __aicore__ inline void Convert(const AscendC::LocalTensor<To>& target, const AscendC::LocalTensor<From>& source,
                                 uint32_t count) {
    if constexpr (kFromFloat) {
      AscendC::Cast(target, source, AscendC::RoundMode::CAST_RINT, count);
    } else {
      AscendC::LocalTensor<float> wide = wide_.Get<float>();
      AscendC::PipeBarrier<PIPE_V>();  // the rows before may still be on their way out of `wide`
      AscendC::Cast(wide, source, AscendC::RoundMode::CAST_NONE, count);
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Cast(target, wide, AscendC::RoundMode::CAST_RINT, count);
    }
  }

  AscendC::TQue<AscendC::TPosition::VECIN, 1> loaded_;
  AscendC::TQue<AscendC::TPosition::VECOUT, 1> converted_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> wide_;
};

// The same type on both sides: what was loaded is stored, the vector unit has no part in it.
template <typename T>
class RowReader<T, T> {
 public:
  __aicore__ inline void Init(AscendC::TPipe* pipe, uint32_t most) {
    pipe->InitBuffer(buffers_, 2, most * sizeof(T));
  }

  __aicore__ inline AscendC::LocalTensor<T> Read(const AscendC::GlobalTensor<T>& rows, uint32_t count) {
    AscendC::LocalTensor<T> loading = buffers_.template AllocTensor<T>();
    AscendC::DataCopy(loading, rows, count);
    buffers_.EnQue(loading);
    return buffers_.template DeQue<T>();
  }

  __aicore__ inline void Free(AscendC::LocalTensor<T>& rows) { buffers_.FreeTensor(rows); }

 private:
  AscendC::TQueBind<AscendC::TPosition::VECIN, AscendC::TPosition::VECOUT, 1> buffers_;
};

}  // namespace paged_ops
