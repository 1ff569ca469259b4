// A list of int32 in GM that the scalar unit reads through a small window in UB.
#pragma once

#include "kernel_operator.h"
#include "pipe_order.h"

namespace paged_ops {

// 4 KiB. Even, so that a pair never lies on two windows.
constexpr uint32_t kIndexWindow = 1024;

class IndexWindow {
 public:
  __aicore__ inline void Init(AscendC::TPipe* pipe, GM_ADDR indices, uint32_t count) {
    indices_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(indices), count);
    count_ = count;
    pipe->InitBuffer(buffer_, kIndexWindow * sizeof(int32_t));
    window_ = buffer_.Get<int32_t>();
  }

  // Entry i, which must be below the count. Meant for rising i: another window is loaded whenever i lies outside.
  __aicore__ inline int32_t Get(uint32_t i) {
    if (i < first_ || i >= end_) Load(i);
    return window_.GetValue(i - first_);
  }

 private:
  __aicore__ inline void Load(uint32_t first) {
    const uint32_t left = count_ - first;
    const uint32_t loaded = left < kIndexWindow ? left : kIndexWindow;
    const uint32_t bytes = loaded * static_cast<uint32_t>(sizeof(int32_t));
    OrderPipes<AscendC::HardEvent::S_MTE2>();
    AscendC::DataCopyPad(window_, indices_[first], AscendC::DataCopyExtParams(1, bytes, 0, 0, 0),
                         AscendC::DataCopyPadExtParams<int32_t>(false, 0, 0, 0));
    OrderPipes<AscendC::HardEvent::MTE2_S>();
    first_ = first;
    end_ = first + loaded;
  }

  AscendC::GlobalTensor<int32_t> indices_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> buffer_;
  AscendC::LocalTensor<int32_t> window_;
  uint32_t count_ = 0;
  uint32_t first_ = 0;
  uint32_t end_ = 0;
};

}  // namespace paged_ops
