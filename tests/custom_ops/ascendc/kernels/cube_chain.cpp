// half(A B^T) D^T without a way through GM: Fixpipe leaves the first product in L1. Written with queues.
#include "cube_chain_tiling.h"
#include "kernel_operator.h"

namespace {

using namespace AscendC;

constexpr uint32_t kSide = 16;
constexpr uint32_t kFractal = kSide * kSide;
constexpr uint32_t kMaxElements = 64 * 64;

__aicore__ inline uint32_t RoundUp(uint32_t n) { return (n + kSide - 1) / kSide * kSide; }

class Chain {
 public:
  __aicore__ inline Chain(TPipe& pipe) {
    pipe.InitBuffer(left_l1_, 1, kMaxElements * sizeof(half));
    pipe.InitBuffer(right_l1_, 1, kMaxElements * sizeof(half));
    pipe.InitBuffer(left_l0_, 1, kMaxElements * sizeof(half));
    pipe.InitBuffer(right_l0_, 1, kMaxElements * sizeof(half));
    pipe.InitBuffer(result_l0_, 1, kMaxElements * sizeof(float));
    pipe.InitBuffer(between_, kMaxElements * sizeof(half));
  }

  __aicore__ inline void Run(const GlobalTensor<half>& a, const GlobalTensor<half>& b, const GlobalTensor<half>& d,
                             const GlobalTensor<float>& out, const CubeChainTiling& plan) {
    LocalTensor<half> between = between_.Get<half>();
    LocalTensor<half> left = left_l1_.AllocTensor<half>();
    CopyIn(left, a, plan.m, plan.k);
    left_l1_.EnQue(left);
    left = left_l1_.DeQue<half>();
    Multiply(left, b, plan.m, plan.n, plan.k);
    left_l1_.FreeTensor(left);

    LocalTensor<float> product = result_l0_.DeQue<float>();
    FixpipeParamsV220 to_l1(plan.n, plan.m, RoundUp(plan.m), RoundUp(plan.m), false);
    to_l1.quantPre = QuantMode_t::F322F16;
    Fixpipe<half, float, CFG_NZ>(between, product, to_l1);
    result_l0_.FreeTensor(product);
    SetFlag<HardEvent::FIX_MTE1>(EVENT_ID0);
    WaitFlag<HardEvent::FIX_MTE1>(EVENT_ID0);

    Multiply(between, d, plan.m, plan.p, plan.n);
    product = result_l0_.DeQue<float>();
    Fixpipe(out, product, FixpipeParamsV220(plan.p, plan.m, RoundUp(plan.m), plan.p, false));
    result_l0_.FreeTensor(product);
  }

 private:
  __aicore__ inline void CopyIn(const LocalTensor<half>& to, const GlobalTensor<half>& from, uint32_t rows,
                                uint32_t columns) {
    DataCopy(to, from, Nd2NzParams(1, rows, columns, 0, columns, RoundUp(rows), 1, 0));
  }

  // Puts left [m,k] (in L1) times right [n,k] transposed (in GM) into result_l0_.
  __aicore__ inline void Multiply(const LocalTensor<half>& left_l1, const GlobalTensor<half>& right_gm, uint32_t m,
                                  uint32_t n, uint32_t k) {
    LocalTensor<half> right_l1 = right_l1_.AllocTensor<half>();
    CopyIn(right_l1, right_gm, n, k);
    right_l1_.EnQue(right_l1);
    right_l1 = right_l1_.DeQue<half>();
    LocalTensor<half> left = left_l0_.AllocTensor<half>();
    for (uint32_t row = 0; row < RoundUp(m) / kSide; ++row) {
      LoadData(left[row * (k / kSide) * kFractal], left_l1[row * kFractal],
               LoadData2DParams(0, k / kSide, RoundUp(m) / kSide, 0, 0, false, 0));
    }
    left_l0_.EnQue(left);
    LocalTensor<half> right = right_l0_.AllocTensor<half>();
    LoadData(right, right_l1, LoadData2DParams(0, n / kSide * (k / kSide), 1, 0, 0, false, 0));
    right_l0_.EnQue(right);
    right_l1_.FreeTensor(right_l1);

    left = left_l0_.DeQue<half>();
    right = right_l0_.DeQue<half>();
    LocalTensor<float> result = result_l0_.AllocTensor<float>();
    Mmad(result, left, right, MmadParams(m, n, k, 0, false, true));
    result_l0_.EnQue(result);
    left_l0_.FreeTensor(left);
    right_l0_.FreeTensor(right);
  }

  TQue<TPosition::A1, 1> left_l1_;
  TQue<TPosition::B1, 1> right_l1_;
  TQue<TPosition::A2, 1> left_l0_;
  TQue<TPosition::B2, 1> right_l0_;
  TQue<TPosition::CO1, 1> result_l0_;
  TBuf<TPosition::A1> between_;
};

}  // namespace

extern "C" __global__ __aicore__ void cube_chain(GM_ADDR a, GM_ADDR b, GM_ADDR d, GM_ADDR out, GM_ADDR tiling) {
  REGISTER_TILING_DEFAULT(CubeChainTiling);
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
  GET_TILING_DATA(plan, tiling);
  GlobalTensor<half> a_gm;
  GlobalTensor<half> b_gm;
  GlobalTensor<half> d_gm;
  GlobalTensor<float> out_gm;
  a_gm.SetGlobalBuffer((__gm__ half*)a, plan.m * plan.k);
  b_gm.SetGlobalBuffer((__gm__ half*)b, plan.n * plan.k);
  d_gm.SetGlobalBuffer((__gm__ half*)d, plan.p * plan.n);
  out_gm.SetGlobalBuffer((__gm__ float*)out, plan.m * plan.p);
  TPipe pipe;
  Chain(pipe).Run(a_gm, b_gm, d_gm, out_gm, plan);
}
