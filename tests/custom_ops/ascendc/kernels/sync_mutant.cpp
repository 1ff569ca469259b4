// y = the sum over all blocks' rows of x, through a workspace: every block writes its own row, meets the others, and
// sums its share. The scalar unit leaves the number of blocks in y's last cache line.
#include "kernel_operator.h"
#include "mutants.h"

using AscendC::CacheLine;
using AscendC::DataCopy;
using AscendC::DcciDst;
using AscendC::GlobalTensor;
using AscendC::HardEvent;
using AscendC::LocalTensor;
using AscendC::PipeBarrier;
using AscendC::SetFlag;
using AscendC::WaitFlag;

template <HardEvent event>
__aicore__ inline void Order() {
  SetFlag<event>(EVENT_ID0);
  WaitFlag<event>(EVENT_ID0);
}

__aicore__ inline void Clean(const GlobalTensor<float>& tensor) {
  AscendC::DataCacheCleanAndInvalid<float, CacheLine::ENTIRE_DATA_CACHE, DcciDst::CACHELINE_OUT>(tensor);
}

extern "C" __global__ __aicore__ void sync_mutant(GM_ADDR x, GM_ADDR y, GM_ADDR workspace, GM_ADDR tiling) {
  REGISTER_TILING_DEFAULT(MutantTiling);
  GET_TILING_DATA(sizes, tiling);
  const int32_t mutant = sizes.mutant;
  if (mutant == kSyncWithoutScheduler) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  } else {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIV_1_0);
  }
  const int32_t block = AscendC::GetBlockIdx();
  const int32_t blocks = AscendC::GetBlockNum();
  const int32_t share = sizes.elements / blocks;
  AscendC::TPipe pipe;
  AscendC::TBuf<AscendC::TPosition::VECCALC> row_buffer;
  AscendC::TBuf<AscendC::TPosition::VECCALC> sum_buffer;
  pipe.InitBuffer(row_buffer, sizes.elements * sizeof(float));
  pipe.InitBuffer(sum_buffer, share * sizeof(float));
  const LocalTensor<float> row = row_buffer.Get<float>();
  const LocalTensor<float> sum = sum_buffer.Get<float>();
  GlobalTensor<float> from, rows, to;
  from.SetGlobalBuffer((__gm__ float*)x);
  rows.SetGlobalBuffer((__gm__ float*)workspace);
  to.SetGlobalBuffer((__gm__ float*)y);

  DataCopy(row, from[block * sizes.elements], sizes.elements);
  Order<HardEvent::MTE2_MTE3>();
  DataCopy(rows[(mutant == kOverlappingBlocks ? 0 : block) * sizes.elements], row,
           mutant == kWorkspaceUnwritten ? sizes.elements - 8 : sizes.elements);
  Order<HardEvent::MTE3_MTE2>();
  if (mutant == kLeavesBeforeSync && block == 0) return;
  if (mutant != kNoSync) AscendC::SyncAll();

  AscendC::Duplicate(sum, 0.0f, share);
  PipeBarrier<PIPE_V>();
  for (int32_t other = 0; other < blocks; ++other) {
    DataCopy(row, rows[other * sizes.elements + block * share], share);
    Order<HardEvent::MTE2_V>();
    AscendC::Add(sum, sum, row, share);
    PipeBarrier<PIPE_V>();
    Order<HardEvent::V_MTE2>();
  }
  Order<HardEvent::V_MTE3>();
  if (mutant == kWriteWhileRead) DataCopy(rows[block * sizes.elements], sum, share);
  DataCopy(to[block * share], sum, share);

  if (mutant == kScalarStale) {
    AscendC::SyncAll();
    to.GetValue(0);
  }
  if (block == 0) {
    to.SetValue(sizes.elements, static_cast<float>(blocks));
    if (mutant == kScalarNotCleaned) {
      Order<HardEvent::S_MTE2>();
      DataCopy(row, to[sizes.elements], 16);
    }
    if (mutant != kScalarLeftDirty) Clean(to);
  }
}
