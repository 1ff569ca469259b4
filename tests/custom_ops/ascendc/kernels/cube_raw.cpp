// One Mmad whose operands the host lays out in fractals itself: it shows which bytes the instructions take for what.
#include "cube_raw_tiling.h"
#include "kernel_operator.h"

#ifndef DTYPE_A
#define DTYPE_A half
#endif
#ifndef DTYPE_C
#define DTYPE_C float
#endif

namespace {

using namespace AscendC;

constexpr uint32_t kOperandBytes = 32 * 1024;

__aicore__ inline void Load(const LocalTensor<DTYPE_A>& to, const LocalTensor<DTYPE_A>& from,
                            const CubeRawOperand& operand) {
  for (uint32_t i = 0; i < operand.outer; ++i) {
    if (operand.load == kLoadWithTranspose) {
      LoadData2dTransposeParams params(operand.start_index, operand.repeat, operand.src_stride, operand.dst_gap,
                                       operand.dst_frac_gap);
      LoadDataWithTranspose(to[i * operand.dst_step], from[i * operand.src_step], params);
    } else {
      LoadData2DParams params(operand.start_index, operand.repeat, operand.src_stride, 0, operand.dst_gap,
                              operand.load == kLoadIfTranspose, 0);
      LoadData(to[i * operand.dst_step], from[i * operand.src_step], params);
    }
  }
}

}  // namespace

extern "C" __global__ __aicore__ void cube_raw(GM_ADDR a, GM_ADDR b, GM_ADDR c, GM_ADDR tiling) {
  REGISTER_TILING_DEFAULT(CubeRawTiling);
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
  GET_TILING_DATA(plan, tiling);
  TPipe pipe;
  TBuf<TPosition::A1> a1_buffer;
  TBuf<TPosition::B1> b1_buffer;
  TBuf<TPosition::A2> a2_buffer;
  TBuf<TPosition::B2> b2_buffer;
  TBuf<TPosition::CO1> c_buffer;
  pipe.InitBuffer(a1_buffer, kOperandBytes);
  pipe.InitBuffer(b1_buffer, kOperandBytes);
  pipe.InitBuffer(a2_buffer, kOperandBytes);
  pipe.InitBuffer(b2_buffer, kOperandBytes);
  pipe.InitBuffer(c_buffer, kOperandBytes);
  LocalTensor<DTYPE_A> a1 = a1_buffer.Get<DTYPE_A>();
  LocalTensor<DTYPE_A> b1 = b1_buffer.Get<DTYPE_A>();
  LocalTensor<DTYPE_A> a2 = a2_buffer.Get<DTYPE_A>();
  LocalTensor<DTYPE_A> b2 = b2_buffer.Get<DTYPE_A>();
  LocalTensor<DTYPE_C> c0 = c_buffer.Get<DTYPE_C>();
  GlobalTensor<DTYPE_A> a_gm;
  GlobalTensor<DTYPE_A> b_gm;
  GlobalTensor<DTYPE_C> c_gm;
  a_gm.SetGlobalBuffer((__gm__ DTYPE_A*)a, plan.a.elements);
  b_gm.SetGlobalBuffer((__gm__ DTYPE_A*)b, plan.b.elements);
  c_gm.SetGlobalBuffer((__gm__ DTYPE_C*)c);

  DataCopy(a1, a_gm, plan.a.elements);
  DataCopy(b1, b_gm, plan.b.elements);
  SetFlag<HardEvent::MTE2_MTE1>(EVENT_ID0);
  WaitFlag<HardEvent::MTE2_MTE1>(EVENT_ID0);
  Load(a2, a1, plan.a);
  Load(b2, b1, plan.b);
  SetFlag<HardEvent::MTE1_M>(EVENT_ID0);
  WaitFlag<HardEvent::MTE1_M>(EVENT_ID0);
  MmadParams mmad;
  mmad.m = plan.m;
  mmad.n = plan.n;
  mmad.k = plan.k;
  mmad.kDirectionAlign = plan.k_direction_align != 0;
  Mmad(c0, a2, b2, mmad);
  SetFlag<HardEvent::M_FIX>(EVENT_ID0);
  WaitFlag<HardEvent::M_FIX>(EVENT_ID0);
  FixpipeParamsV220 fixpipe(plan.n, plan.m, plan.src_stride, plan.dst_stride, false);
  if (plan.nz_out != 0) {
    Fixpipe<DTYPE_C, DTYPE_C, CFG_NZ>(c_gm, c0, fixpipe);
  } else {
    Fixpipe(c_gm, c0, fixpipe);
  }
}
