// The output of the ops that write into the caches: one int32, always 0, for later operators to depend on.
#pragma once

#include "kernel_operator.h"
#include "pipe_order.h"

namespace paged_ops {

class DoneOutput {
 public:
  // Block 0 writes the output; for the other blocks this does nothing.
  __aicore__ inline void Write(AscendC::TPipe* pipe, GM_ADDR done) {
    if (AscendC::GetBlockIdx() != 0) return;
    pipe->InitBuffer(buffer_, kBufferBytes);
    done_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(done), 1);
    AscendC::LocalTensor<int32_t> zeros = buffer_.Get<int32_t>();
    AscendC::Duplicate(zeros, 0, static_cast<int32_t>(kBufferBytes / sizeof(int32_t)));
    OrderPipes<AscendC::HardEvent::V_MTE3>();
    AscendC::DataCopyPad(done_, zeros, AscendC::DataCopyExtParams(1, sizeof(int32_t), 0, 0, 0));
  }

 private:
  static constexpr uint32_t kBufferBytes = 32;

  AscendC::GlobalTensor<int32_t> done_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> buffer_;
};

}  // namespace paged_ops
