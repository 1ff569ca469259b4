// y = x + x[0] in place of a TBuf, then once more through global memory: explicit flags only.
#include "kernel_operator.h"
#include "mutants.h"

using AscendC::DataCopy;
using AscendC::GlobalTensor;
using AscendC::HardEvent;
using AscendC::LocalTensor;
using AscendC::PipeBarrier;
using AscendC::SetFlag;
using AscendC::WaitFlag;

template <HardEvent event>
__aicore__ inline void Order(bool really) {
  if (!really) return;
  SetFlag<event>(EVENT_ID0);
  WaitFlag<event>(EVENT_ID0);
}

// Twice: y = f(x), y = f(y), with f(v) = v + v[0].
__aicore__ inline void AddFirst(const GlobalTensor<float>& from, const GlobalTensor<float>& to,
                                const LocalTensor<float>& values, int32_t elements, int32_t mutant) {
  DataCopy(values, from, elements);
  if (mutant == kNoBarrierBetweenLoads) DataCopy(values, from, elements);
  if (mutant == kNoFlagAfterLoad) AscendC::Adds(values, values, 0.0f, elements);
  Order<HardEvent::MTE2_S>(mutant != kNoFlagBeforeScalar);
  const float first = values.GetValue(0);
  Order<HardEvent::S_V>(mutant != kNoFlagAfterScalar);
  AscendC::Adds(values, values, first, elements);
  Order<HardEvent::V_MTE3>(mutant != kNoFlagBeforeStore);
  DataCopy(to, values, elements);
  if (mutant == kNoBarrierInGm) DataCopy(to, values, elements);
}

__aicore__ inline void MisuseFlags(int32_t mutant) {
  if (mutant == kFlagSetTwice) {
    SetFlag<HardEvent::V_MTE3>(EVENT_ID1);
    SetFlag<HardEvent::V_MTE3>(EVENT_ID1);
  }
  if (mutant == kFlagNeverSet) WaitFlag<HardEvent::V_MTE3>(EVENT_ID1);
  if (mutant == kFlagLeftSet) SetFlag<HardEvent::V_MTE3>(EVENT_ID1);
  if (mutant == kFlagOfCube) SetFlag<HardEvent::M_FIX>(EVENT_ID1);
  if (mutant == kFlagIdTooLarge) SetFlag<HardEvent::V_MTE3>(8);
}

__aicore__ inline void Pad(const GlobalTensor<float>& from, const LocalTensor<float>& values, int32_t mutant) {
  AscendC::DataCopyExtParams blocks(mutant == kPadTooManyBlocks ? 4096 : 1,
                                    mutant == kPadTooWide ? 2097152 : 3 * sizeof(float), 0, 0, 0);
  AscendC::DataCopyPadExtParams<float> padding(false, 0, mutant == kPadRandomRead ? 5 : 0, 0.0f);
  AscendC::DataCopyPad(values, from, blocks, padding);
  Order<HardEvent::MTE2_V>(true);
  AscendC::Adds(values, values, 1.0f, 8);
}

extern "C" __global__ __aicore__ void flag_mutant(GM_ADDR x, GM_ADDR y, GM_ADDR workspace, GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  REGISTER_TILING_DEFAULT(MutantTiling);
  GET_TILING_DATA(sizes, tiling);
  AscendC::TPipe pipe;
  AscendC::TBuf<AscendC::TPosition::VECCALC> buffer;
  AscendC::TBuf<AscendC::TPosition::VECCALC> padded;
  pipe.InitBuffer(buffer, sizes.elements * sizeof(float));
  pipe.InitBuffer(padded, 32);
  GlobalTensor<float> from;
  GlobalTensor<float> to;
  from.SetGlobalBuffer((__gm__ float*)x + AscendC::GetBlockIdx() * sizes.elements, sizes.elements);
  to.SetGlobalBuffer((__gm__ float*)y + AscendC::GetBlockIdx() * sizes.elements, sizes.elements);
  const LocalTensor<float> values = buffer.Get<float>();
  MisuseFlags(sizes.mutant);
  Pad(from, padded.Get<float>(), sizes.mutant);
  AddFirst(from, to, values, sizes.elements, sizes.mutant);
  Order<HardEvent::MTE3_MTE2>(sizes.mutant != kNoFlagAfterStore && sizes.mutant != kNoFlagThroughGm);
  if (sizes.mutant == kNoFlagThroughGm) {
    DataCopy(padded.Get<float>(), to, 8);
    return;
  }
  if (sizes.mutant == kNoFlagBeforeLoad) {
    PipeBarrier<PIPE_V>();
    Order<HardEvent::MTE3_V>(true);
    AscendC::Adds(values, values, 0.0f, sizes.elements);
    DataCopy(values, from, sizes.elements);
  }
  AddFirst(to, to, values, sizes.elements, sizes.mutant);
}
