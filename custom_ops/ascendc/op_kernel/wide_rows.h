// Numbers of any type in GM as floats in UB, and back. Double buffered; right without automatic synchronisation: behind
// each call the floats may be read or written by any vector instruction.
#pragma once

#include "kernel_operator.h"

namespace paged_ops {

// Floats of a piece: what one Read or Write takes at the most.
constexpr uint32_t kWidePiece = 2048;

template <typename From>
class WideReader {
 public:
  __aicore__ inline void Init(AscendC::TPipe* pipe) { pipe->InitBuffer(loaded_, 2, kWidePiece * sizeof(From)); }

  // `count`: a multiple of 16.
  __aicore__ inline void Read(const AscendC::LocalTensor<float>& target, const AscendC::GlobalTensor<From>& source,
                              uint32_t count) {
    AscendC::LocalTensor<From> loading = loaded_.template AllocTensor<From>();
    AscendC::DataCopy(loading, source, count);
    loaded_.EnQue(loading);
    AscendC::LocalTensor<From> loaded = loaded_.template DeQue<From>();
    if constexpr (AscendC::IsSameType<From, float>::value) {
      AscendC::Muls(target, loaded, 1.0f, static_cast<int32_t>(count));
    } else {
      AscendC::Cast(target, loaded, AscendC::RoundMode::CAST_NONE, count);
    }
    loaded_.FreeTensor(loaded);
    AscendC::PipeBarrier<PIPE_V>();
  }

 private:
  AscendC::TQue<AscendC::TPosition::VECIN, 1> loaded_;
};

template <typename To>
class WideWriter {
 public:
  __aicore__ inline void Init(AscendC::TPipe* pipe) { pipe->InitBuffer(stored_, 2, kWidePiece * sizeof(To)); }

  // Rounded to nearest, ties to even. `count`: a multiple of 16.
  __aicore__ inline void Write(const AscendC::GlobalTensor<To>& target, const AscendC::LocalTensor<float>& source,
                               uint32_t count) {
    AscendC::LocalTensor<To> storing = stored_.template AllocTensor<To>();
    if constexpr (AscendC::IsSameType<To, float>::value) {
      AscendC::Muls(storing, source, 1.0f, static_cast<int32_t>(count));
    } else {
      AscendC::Cast(storing, source, AscendC::RoundMode::CAST_RINT, count);
    }
    stored_.EnQue(storing);
    AscendC::LocalTensor<To> stored = stored_.template DeQue<To>();
    AscendC::DataCopy(target, stored, count);
    stored_.FreeTensor(stored);
    AscendC::PipeBarrier<PIPE_V>();
  }

 private:
  AscendC::TQue<AscendC::TPosition::VECOUT, 1> stored_;
};

}  // namespace paged_ops
