// paged_attention for one or two query heads a KV head: decode steps on the vector cores alone, steps with a prompt's
// tokens with the cube cores too. Which a step is, only its rows tell; all cores read the same of them.
#pragma once

#include "kernel_operator.h"
#include "paged_attention_cube.h"
#include "paged_attention_vector.h"

namespace paged_attention {

template <typename Query, typename Cache>
__aicore__ inline void AttendEither(AscendC::TPipe& pipe, const PagedAttentionTiling& tiling,
                                    const Arguments& arguments) {
  Plan plan;
  plan.Init(tiling, tiling.cut, arguments.rows, arguments.context_lens, 0, AscendC::GetBlockNum());
  if (plan.longest_run() * tiling.group >= kCubeLeastQueries) {
    CubeAttention<Query, Cache> attend;
    attend.Init(pipe, tiling, arguments);
    attend.Process();
    return;
  }
  if ASCEND_IS_AIV {
    VectorAttention<Query, Cache> attend;
    attend.Init(pipe, tiling, arguments, AscendC::GetBlockIdx(), AscendC::GetBlockNum() * kCubeVectorCores);
    attend.Process();
  }
}

}  // namespace paged_attention
