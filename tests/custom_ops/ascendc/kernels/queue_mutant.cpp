// y = exp(x) / sum(exp(x)) over each row of 256, half in and out, float inside: double-buffered queues.
#include "kernel_operator.h"
#include "mutants.h"

using AscendC::DataCopy;
using AscendC::GlobalTensor;
using AscendC::LocalTensor;
using AscendC::PipeBarrier;
using AscendC::RoundMode;
using AscendC::TPosition;

class QueueMutant {
 public:
  __aicore__ inline QueueMutant(AscendC::TPipe& pipe, int32_t mutant) : pipe_(pipe), mutant_(mutant) {}

  __aicore__ inline void Init(GM_ADDR x, GM_ADDR y, int32_t elements) {
    rows_ = elements / kRow;
    x_.SetGlobalBuffer((__gm__ half*)x + AscendC::GetBlockIdx() * elements, elements);
    y_.SetGlobalBuffer((__gm__ half*)y + AscendC::GetBlockIdx() * elements, elements);
    pipe_.InitBuffer(in_, 2, kRow * sizeof(half));
    pipe_.InitBuffer(out_, 2, kRow * sizeof(half));
    pipe_.InitBuffer(wide_, kRow * sizeof(float));
    pipe_.InitBuffer(sums_, 192 * sizeof(float));
    if (mutant_ == kUbOverflow) pipe_.InitBuffer(big_, 191 * 1024);
    if (mutant_ == kSelectScratchTaken) pipe_.InitBuffer(big_, 184 * 1024);
    if (mutant_ == kTooManyBuffers) {
      for (int32_t i = 0; i < 64; ++i) pipe_.InitBuffer(big_, 32);
    }
  }

  __aicore__ inline void Process() {
    for (int32_t row = 0; row < rows_; ++row) {
      Load(row);
      Compute();
      Store(row);
    }
    if (mutant_ == kFlagsExhausted) {
      for (int32_t i = 0; i < 9; ++i) pipe_.AllocEventID<AscendC::HardEvent::S_V>();
    }
  }

 private:
  static constexpr int32_t kRow = 256;

  __aicore__ inline void Load(int32_t row) {
    LocalTensor<half> x = in_.AllocTensor<half>();
    if (mutant_ == kTooManyAllocated) {
      in_.AllocTensor<half>();
      in_.AllocTensor<half>();
    }
    GlobalTensor<half> from = x_[row * kRow];
    if (mutant_ == kGmPastEnd) from = x_[rows_ * kRow * AscendC::GetBlockNum() - 16];
    if (mutant_ == kGmBeforeBegin) from.SetGlobalBuffer((__gm__ half*)x_.GetPhyAddr() - 16, kRow);
    if (mutant_ == kGmUnknown) from.SetGlobalBuffer((__gm__ half*)nullptr, kRow);
    DataCopy(x, from, mutant_ == kOddCopyLength ? kRow - 1 : mutant_ == kReadUnwritten ? kRow - 16 : kRow);
    if (mutant_ == kMisalignedCopy) DataCopy(x[1], from, 16);
    if (mutant_ != kEnqueueMissing) in_.EnQue(x);
    if (mutant_ == kFlagIdOfQueue) AscendC::SetFlag<AscendC::HardEvent::MTE2_V>(EVENT_ID0);
    if (mutant_ == kForeignTensor) out_.EnQue(x);
    if (mutant_ == kStaysInQueue && row == rows_ - 1) in_.EnQue(in_.AllocTensor<half>());
  }

  __aicore__ inline void Compute() {
    LocalTensor<half> y = out_.AllocTensor<half>();
    LocalTensor<half> x = mutant_ == kDequeueMissing ? y : in_.DeQue<half>();
    LocalTensor<float> wide = wide_.Get<float>();
    LocalTensor<float> sums = sums_.Get<float>();
    AscendC::Cast(wide, x, mutant_ == kWrongRoundMode ? RoundMode::CAST_RINT : RoundMode::CAST_NONE,
                  mutant_ == kZeroCount ? 0 : mutant_ == kCountPastTensor ? kRow + 64 : kRow);
    if (mutant_ == kUsedAfterFree) in_.FreeTensor(x);
    if (mutant_ != kNoBarrierAfterCast) PipeBarrier<PIPE_V>();
    AscendC::Exp(wide, wide, kRow);
    PipeBarrier<PIPE_V>();
    Break(wide, sums);
    const LocalTensor<float> total = sums[64];
    const LocalTensor<float> spread = sums[128];
    AscendC::Duplicate(sums, 0.0f, 128);
    PipeBarrier<PIPE_V>();
    AscendC::WholeReduceSum(sums, wide, 64, kRow / 64, 1, 1, 8);
    PipeBarrier<PIPE_V>();
    AscendC::WholeReduceSum(total, sums, 64, 1, 1, 1, 8);
    PipeBarrier<PIPE_V>();
    AscendC::Brcb(spread, total, 1, {1, 8});
    PipeBarrier<PIPE_V>();
    uint64_t mask = 64;
    AscendC::Div(wide, wide, spread, mask, kRow / 64, {1, 1, 0, 8, 8, 0});
    if (mutant_ != kNoBarrierBeforeCast) PipeBarrier<PIPE_V>();
    AscendC::Cast(y, wide, RoundMode::CAST_RINT, kRow);
    PipeBarrier<PIPE_V>();
    if (mutant_ != kFreeMissing && mutant_ != kUsedAfterFree) in_.FreeTensor(x);
    if (mutant_ == kUsedAfterFree) AscendC::Cast(wide, x, RoundMode::CAST_NONE, kRow);
    out_.EnQue(y);
    if (mutant_ == kQueueDepthExceeded) {
      LocalTensor<half> more = out_.AllocTensor<half>();
      AscendC::Duplicate(more, half(0), kRow);
      out_.EnQue(more);
      out_.EnQue(more);
    }
  }

  // Single instructions that the chip would get wrong.
  __aicore__ inline void Break(LocalTensor<float>& wide, LocalTensor<float>& sums) {
    uint64_t mask = mutant_ == kZeroMask ? 0 : mutant_ == kTooLargeMask ? 65 : 64;
    uint64_t no_bits[2] = {0, 0};
    const AscendC::UnaryRepeatParams along(1, 1, 8, 8);
    switch (mutant_) {
      case kZeroMask:
      case kTooLargeMask:
        return AscendC::Exp(wide, wide, mask, 4, along);
      case kZeroRepeats:
        return AscendC::Exp(wide, wide, mask, 0, along);
      case kTooManyRepeats:
        return AscendC::WholeReduceSum(sums, wide, 64, 256, 0, 0, 0);
      case kZeroBits:
        return AscendC::Exp(wide, wide, no_bits, 4, along);
      case kZeroBlockStride:
        return AscendC::Exp(sums, wide, mask, 1, {0, 1, 8, 8});
      case kMisalignedVector:
        return AscendC::Exp(wide[1], wide[1], 64);
      case kPartialOverlap:
        return AscendC::Exp(wide[8], wide, 64);
      case kRepeatReadsOwnOutput:
        return AscendC::Exp(wide[64], wide, mask, 3, along);
      case kCompareCount:
        return AscendC::CompareScalar(sums.ReinterpretCast<uint8_t>(), wide, 0.0f, AscendC::CMPMODE::GT, 60);
      case kSelectScratchTaken:
        AscendC::CompareScalar(sums.ReinterpretCast<uint8_t>(), wide, 0.0f, AscendC::CMPMODE::GT, 64);
        PipeBarrier<PIPE_V>();
        return AscendC::Select(wide, sums.ReinterpretCast<uint8_t>(), wide, 0.0f,
                               AscendC::SELMODE::VSEL_TENSOR_SCALAR_MODE, 64);
      default:
        return;
    }
  }

  __aicore__ inline void Store(int32_t row) {
    LocalTensor<half> y = out_.DeQue<half>();
    DataCopy(mutant_ == kGmReadOnly ? x_[row * kRow] : y_[row * kRow], y, kRow);
    out_.FreeTensor(y);
  }

  AscendC::TPipe& pipe_;
  int32_t mutant_;
  int32_t rows_ = 0;
  AscendC::TQue<TPosition::VECIN, 2> in_;
  AscendC::TQue<TPosition::VECOUT, 2> out_;
  AscendC::TBuf<TPosition::VECCALC> wide_;
  AscendC::TBuf<TPosition::VECCALC> sums_;
  AscendC::TBuf<TPosition::VECCALC> big_;
  GlobalTensor<half> x_;
  GlobalTensor<half> y_;
};

extern "C" __global__ __aicore__ void queue_mutant(GM_ADDR x, GM_ADDR y, GM_ADDR workspace, GM_ADDR tiling) {
  REGISTER_TILING_DEFAULT(MutantTiling);
  GET_TILING_DATA(sizes, tiling);
  if (sizes.mutant == kWrongKernelType) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIV_1_0);
  } else {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  }
  AscendC::TPipe pipe;
  QueueMutant kernel(pipe, sizes.mutant);
  kernel.Init(x, y, sizes.elements);
  kernel.Process();
}
