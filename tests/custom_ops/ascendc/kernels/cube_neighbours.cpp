// Declares no kernel type, so that the tests can launch it as several.
// Every vector core leaves its input in the workspace and, when its neighbours have too, takes theirs as its output.
#include "cube_neighbours_tiling.h"
#include "kernel_operator.h"

extern "C" __global__ __aicore__ void cube_neighbours(GM_ADDR in, GM_ADDR out, GM_ADDR workspace, GM_ADDR tiling) {
  using namespace AscendC;
  REGISTER_TILING_DEFAULT(CubeNeighboursTiling);
  GET_TILING_DATA(plan, tiling);
  if ASCEND_IS_AIC {
    return;
  }
  constexpr uint32_t count = 16;
  const uint32_t self = GetBlockIdx();
  const uint32_t neighbour = plan.inside_block != 0 ? (self ^ 1) : (self + 1) % plan.cores;
  TPipe pipe;
  TBuf<TPosition::VECCALC> buffer;
  pipe.InitBuffer(buffer, count * sizeof(float));
  LocalTensor<float> values = buffer.Get<float>();
  GlobalTensor<float> in_gm;
  GlobalTensor<float> out_gm;
  GlobalTensor<float> shared_gm;
  in_gm.SetGlobalBuffer((__gm__ float*)in, plan.cores * count);
  out_gm.SetGlobalBuffer((__gm__ float*)out, plan.cores * count);
  shared_gm.SetGlobalBuffer((__gm__ float*)workspace, plan.cores * count);

  DataCopy(values, in_gm[self * count], count);
  SetFlag<HardEvent::MTE2_MTE3>(EVENT_ID0);
  WaitFlag<HardEvent::MTE2_MTE3>(EVENT_ID0);
  DataCopy(shared_gm[self * count], values, count);
  SetFlag<HardEvent::MTE3_MTE2>(EVENT_ID0);
  WaitFlag<HardEvent::MTE3_MTE2>(EVENT_ID0);
  if (plan.inside_block != 0) {
    CrossCoreSetFlag<1, PIPE_MTE3>(0);
  } else {
    CrossCoreSetFlag<0, PIPE_MTE3>(0);
  }
  CrossCoreWaitFlag(0);
  DataCopy(values, shared_gm[neighbour * count], count);
  SetFlag<HardEvent::MTE2_MTE3>(EVENT_ID0);
  WaitFlag<HardEvent::MTE2_MTE3>(EVENT_ID0);
  DataCopy(out_gm[self * count], values, count);
}
