// C[i] = A[i] B[i]^T or A[i] B[i] for a batch of small matrices, on cube cores alone.
#include "cube_matmul_tiling.h"
#include "cube_tile.h"

#ifndef DTYPE_A
#define DTYPE_A half
#endif
#ifndef DTYPE_C
#define DTYPE_C float
#endif

extern "C" __global__ __aicore__ void cube_matmul(GM_ADDR a, GM_ADDR b, GM_ADDR c, GM_ADDR tiling) {
  using namespace AscendC;
  REGISTER_TILING_DEFAULT(CubeMatmulTiling);
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
  GET_TILING_DATA(plan, tiling);
  const cube_tile::Shape shape{plan.m, plan.n, plan.k, plan.k_step, plan.b_is_transposed != 0};

  TPipe pipe;
  cube_tile::CubeTile<DTYPE_A> tile;
  tile.Init(pipe);
  GlobalTensor<DTYPE_A> a_gm;
  GlobalTensor<DTYPE_A> b_gm;
  GlobalTensor<DTYPE_C> c_gm;
  a_gm.SetGlobalBuffer((__gm__ DTYPE_A*)a, plan.batch * plan.m * plan.k);
  b_gm.SetGlobalBuffer((__gm__ DTYPE_A*)b, plan.batch * plan.k * plan.n);
  c_gm.SetGlobalBuffer((__gm__ DTYPE_C*)c, plan.batch * plan.m * plan.n);
  for (uint32_t i = GetBlockIdx(); i < plan.batch; i += GetBlockNum()) {
    tile.Multiply(c_gm[i * plan.m * plan.n], a_gm[i * plan.m * plan.k], b_gm[i * plan.k * plan.n], shape);
  }
  tile.Finish();
}
