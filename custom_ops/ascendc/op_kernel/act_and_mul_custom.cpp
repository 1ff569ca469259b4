// act_and_mul: act(gate) * up, what a gated MLP does between its products (Shazeer 2020, "GLU Variants Improve
// Transformer"); vLLM's silu_and_mul and gelu_tanh_and_mul.
//
//   gate_up [T, 2 N] float32, float16 or bfloat16: gate, and behind it up
//   bias    [2 N] of the same type, added before anything else; read where there is one
//   gated   [T, N]
//
//   silu(a) = a / (1 + e^-a)     gelu(a) = a / (1 + e^(-2 u)), u = sqrt(2 / pi) (a + 0.044715 a^3), the tanh form
//
// N is a multiple of 16. Work is cut into parts of rows.

#include "act_and_mul_tiling.h"
#include "core_share.h"
#include "kernel_operator.h"
#include "wide_rows.h"

#ifndef DTYPE_GATE_UP
#define DTYPE_GATE_UP half
#endif

namespace paged_ops {

constexpr float kGeluCubic = 0.044715f;
constexpr float kMinusTwoRootOfTwoOverPi = -1.5957691216057308f;

template <typename T>
class ActAndMul {
 public:
  __aicore__ inline void Init(AscendC::TPipe* pipe, GM_ADDR gate_up, GM_ADDR bias, GM_ADDR gated,
                              const ActAndMulTiling& tiling) {
    tiling_ = tiling;
    const uint64_t elements = static_cast<uint64_t>(tiling.num_tokens) * tiling.width;
    gate_up_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(gate_up), 2 * elements);
    bias_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(bias), 2 * static_cast<uint64_t>(tiling.width));
    gated_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(gated), elements);
    reader_.Init(pipe);
    writer_.Init(pipe);
    pipe->InitBuffer(buffer_, 3 * kActMostPart * sizeof(float));
    gate_ = buffer_.Get<float>();
    up_ = gate_[kActMostPart];
    work_ = up_[kActMostPart];
  }

  __aicore__ inline void Process() {
    const CoreShare share = ShareOfThisCore(static_cast<uint64_t>(tiling_.num_tokens) * tiling_.parts);
    for (uint64_t unit = share.begin; unit < share.end; ++unit) {
      const uint64_t token = unit / tiling_.parts;
      const uint32_t column = static_cast<uint32_t>(unit % tiling_.parts) * tiling_.part_width;
      const uint32_t left = tiling_.width - column;
      const uint32_t count = left < tiling_.part_width ? left : tiling_.part_width;
      Load(gate_, token, column, count);
      Load(up_, token, tiling_.width + column, count);
      Activate(static_cast<int32_t>(count));
      AscendC::Mul(gate_, gate_, up_, static_cast<int32_t>(count));
      AscendC::PipeBarrier<PIPE_V>();
      writer_.Write(gated_[token * tiling_.width + column], gate_, count);
    }
  }

 private:
  __aicore__ inline void Load(const AscendC::LocalTensor<float>& target, uint64_t token, uint32_t column,
                              uint32_t count) {
    reader_.Read(target, gate_up_[2 * token * tiling_.width + column], count);
    if (tiling_.has_bias == 0) return;
    reader_.Read(work_, bias_[column], count);
    AscendC::Add(target, target, work_, static_cast<int32_t>(count));
    AscendC::PipeBarrier<PIPE_V>();
  }

  // gate /= 1 + e^exponent
  __aicore__ inline void Activate(int32_t count) {
    if (tiling_.activation == kActSilu) {
      AscendC::Muls(work_, gate_, -1.0f, count);
    } else {
      AscendC::Mul(work_, gate_, gate_, count);
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Muls(work_, work_, kGeluCubic, count);
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Adds(work_, work_, 1.0f, count);
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Mul(work_, work_, gate_, count);
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Muls(work_, work_, kMinusTwoRootOfTwoOverPi, count);
    }
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Exp(work_, work_, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Adds(work_, work_, 1.0f, count);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Div(gate_, gate_, work_, count);
    AscendC::PipeBarrier<PIPE_V>();
  }

  ActAndMulTiling tiling_;
  AscendC::GlobalTensor<T> gate_up_;
  AscendC::GlobalTensor<T> bias_;
  AscendC::GlobalTensor<T> gated_;
  WideReader<T> reader_;
  WideWriter<T> writer_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> buffer_;
  AscendC::LocalTensor<float> gate_;
  AscendC::LocalTensor<float> up_;
  AscendC::LocalTensor<float> work_;
};

}  // namespace paged_ops

extern "C" __global__ __aicore__ void act_and_mul_custom(GM_ADDR gate_up, GM_ADDR bias, GM_ADDR gated,
                                                         GM_ADDR workspace, GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  REGISTER_TILING_DEFAULT(ActAndMulTiling);
  GET_TILING_DATA(tiling_data, tiling);
  AscendC::TPipe pipe;
  paged_ops::ActAndMul<DTYPE_GATE_UP> op;
  op.Init(&pipe, gate_up, bias, gated, tiling_data);
  op.Process();
}
