// Cast in its three forms between any two types; 256 elements.
#include "casting.h"

#include "kernel_operator.h"

template <typename To, typename From>
__aicore__ inline void Run(GM_ADDR x, GM_ADDR y, const CastingTiling& t) {
  constexpr uint32_t kElements = 256;
  AscendC::TPipe pipe;
  AscendC::TBuf<AscendC::TPosition::VECCALC> source;
  AscendC::TBuf<AscendC::TPosition::VECCALC> target;
  pipe.InitBuffer(source, kElements * sizeof(From));
  pipe.InitBuffer(target, kElements * sizeof(To));
  const AscendC::LocalTensor<From> from = source.Get<From>();
  const AscendC::LocalTensor<To> to = target.Get<To>();
  AscendC::GlobalTensor<From> x_gm;
  AscendC::GlobalTensor<To> y_gm;
  x_gm.SetGlobalBuffer((__gm__ From*)x);
  y_gm.SetGlobalBuffer((__gm__ To*)y);
  AscendC::DataCopy(from, x_gm, kElements);
  AscendC::DataCopy(to, y_gm, kElements);
  AscendC::PipeBarrier<PIPE_ALL>();
  const auto mode = static_cast<AscendC::RoundMode>(t.mode);
  constexpr uint32_t kWidest = sizeof(To) > sizeof(From) ? sizeof(To) : sizeof(From);
  constexpr uint8_t kToStride = 8 * sizeof(To) / kWidest, kFromStride = 8 * sizeof(From) / kWidest;
  const AscendC::UnaryRepeatParams strides(1, 1, kToStride, kFromStride);
  const uint8_t repeats = static_cast<uint8_t>(kElements * kWidest / 256);
  const uint64_t bits[2] = {0x5555555555555555, 0};
  if (t.form == 0) AscendC::Cast(to, from, mode, kElements);
  if (t.form == 1) AscendC::Cast(to, from, mode, uint64_t{32}, repeats, strides);
  if (t.form == 2) AscendC::Cast(to, from, mode, bits, repeats, strides);
  AscendC::PipeBarrier<PIPE_ALL>();
  AscendC::DataCopy(y_gm, to, kElements);
}

extern "C" __global__ __aicore__ void casting(GM_ADDR x, GM_ADDR y, GM_ADDR unused, GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  REGISTER_TILING_DEFAULT(CastingTiling);
  GET_TILING_DATA(t, tiling);
  int32_t pair = 0;
#define CAST_PAIR(to, from) \
  if (t.pair == pair++) Run<to, from>(x, y, t);
  CAST_PAIRS(CAST_PAIR)
#undef CAST_PAIR
}
