// Copies bytes from GM to GM through two buffers in UB: the second is loaded while the first is stored.
#pragma once

#include "kernel_operator.h"

namespace paged_ops {

class ByteMover {
 public:
  // `most` is the largest number of bytes that one Move is asked for.
  __aicore__ inline void Init(AscendC::TPipe* pipe, uint32_t most) { pipe->InitBuffer(buffers_, 2, most); }

  // A multiple of 32 bytes. Nothing here orders a load after the store of an earlier Move.
  __aicore__ inline void Move(const AscendC::GlobalTensor<uint8_t>& target,
                              const AscendC::GlobalTensor<uint8_t>& source, uint32_t bytes) {
    AscendC::LocalTensor<uint8_t> loaded = buffers_.AllocTensor<uint8_t>();
    AscendC::DataCopy(loaded, source, bytes);
    buffers_.EnQue(loaded);
    AscendC::LocalTensor<uint8_t> stored = buffers_.DeQue<uint8_t>();
    AscendC::DataCopy(target, stored, bytes);
    buffers_.FreeTensor(stored);
  }

 private:
  AscendC::TQueBind<AscendC::TPosition::VECIN, AscendC::TPosition::VECOUT, 1> buffers_;
};

}  // namespace paged_ops
