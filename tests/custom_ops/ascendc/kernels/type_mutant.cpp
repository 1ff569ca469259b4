// Instructions on types that the chip does not have them for. CANN's own headers refuse to compile these.
#include "kernel_operator.h"
#include "mutants.h"

extern "C" __global__ __aicore__ void type_mutant(GM_ADDR x, GM_ADDR y, GM_ADDR workspace, GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  GET_TILING_DATA_WITH_STRUCT(MutantTiling, sizes, tiling);
  AscendC::TPipe pipe;
  AscendC::TBuf<AscendC::TPosition::VECCALC> buffer;
  pipe.InitBuffer(buffer, 1024);
  const AscendC::LocalTensor<half> halves = buffer.Get<half>();
  const AscendC::LocalTensor<bfloat16_t> brains = halves[128].ReinterpretCast<bfloat16_t>();
  AscendC::Duplicate(halves, half(1), 256);
  AscendC::PipeBarrier<PIPE_V>();
  if (sizes.mutant == kWrongCastPair) AscendC::Cast(brains, halves, AscendC::RoundMode::CAST_RINT, 64);
  if (sizes.mutant == kWrongType) AscendC::Add(brains, brains, brains, 64);
}
