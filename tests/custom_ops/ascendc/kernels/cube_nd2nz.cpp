// Copies `background` to L1, `source` over it in fractals, and L1 back to GM.
#include "cube_nd2nz_tiling.h"
#include "kernel_operator.h"

#ifndef DTYPE_A
#define DTYPE_A half
#endif

extern "C" __global__ __aicore__ void cube_nd2nz(GM_ADDR source, GM_ADDR background, GM_ADDR shown, GM_ADDR tiling) {
  using namespace AscendC;
  REGISTER_TILING_DEFAULT(CubeNd2NzTiling);
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
  GET_TILING_DATA(plan, tiling);
  TPipe pipe;
  TBuf<TPosition::A1> buffer;
  pipe.InitBuffer(buffer, plan.shown * sizeof(DTYPE_A));
  LocalTensor<DTYPE_A> l1 = buffer.Get<DTYPE_A>();
  GlobalTensor<DTYPE_A> source_gm;
  GlobalTensor<DTYPE_A> background_gm;
  GlobalTensor<DTYPE_A> shown_gm;
  source_gm.SetGlobalBuffer((__gm__ DTYPE_A*)source, plan.elements);
  background_gm.SetGlobalBuffer((__gm__ DTYPE_A*)background, plan.shown);
  shown_gm.SetGlobalBuffer((__gm__ DTYPE_A*)shown, plan.shown);

  DataCopy(l1, background_gm, plan.shown);
  PipeBarrier<PIPE_MTE2>();
  Nd2NzParams params(plan.nd_num, plan.n_value, plan.d_value, plan.src_nd_matrix_stride, plan.src_d_value,
                     plan.dst_nz_c0_stride, plan.dst_nz_n_stride, plan.dst_nz_matrix_stride);
  DataCopy(l1, source_gm, params);
  SetFlag<HardEvent::MTE2_MTE3>(EVENT_ID0);
  WaitFlag<HardEvent::MTE2_MTE3>(EVENT_ID0);
  DataCopy(shown_gm, l1, plan.shown);
}
