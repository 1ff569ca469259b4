// paged_attention: each token attends to the first context_lens[t] tokens of its row, through block_table; with a window,
// to the last of these, and no block before them is looked at.
//
//   query                   [T, H, D] float, half or bfloat16_t
//   key_cache, value_cache  [NB, BS, K, D] half or bfloat16_t; H % K == 0, BS and D multiples of 16, D <= 256; or
//                           [NB, BS, K, D + 4] int8_t: values and then scales, page by page; D a multiple of 32, D <= 128
//   block_table             [R, M] int32
//   rows                    [T] int32, -1 for padding; tokens of a row stand together, in order of position
//   context_lens            [T] int32, 0 for padding; either of the two makes a token padding, whatever the other says
//   attention               [T, H, D] of the query's type, zeros for padding
//
// Indices are trusted: whoever calls has checked them, there is no way to report a wrong one from here.

#include "kernel_operator.h"
#include "paged_attention_cube.h"
#include "paged_attention_either.h"
#include "paged_attention_tiling.h"
#include "paged_attention_vector.h"

#ifndef DTYPE_QUERY
#define DTYPE_QUERY half
#endif
#ifndef DTYPE_KEY_CACHE
#define DTYPE_KEY_CACHE half
#endif

extern "C" __global__ __aicore__ void paged_attention_custom(GM_ADDR query, GM_ADDR key_cache, GM_ADDR value_cache,
                                                             GM_ADDR block_table, GM_ADDR rows, GM_ADDR context_lens,
                                                             GM_ADDR attention, GM_ADDR workspace, GM_ADDR tiling_gm) {
  REGISTER_TILING_DEFAULT(PagedAttentionTiling);
  GET_TILING_DATA(tiling, tiling_gm);
  const paged_attention::Arguments arguments{query, key_cache,    value_cache, block_table,
                                             rows,  context_lens, attention,   AscendC::GetUserWorkspace(workspace)};
  AscendC::TPipe pipe;
  if (TILING_KEY_IS(1)) {
    KERNEL_TASK_TYPE(1, KERNEL_TYPE_MIX_AIV_1_0);
    paged_attention::VectorAttention<DTYPE_QUERY, DTYPE_KEY_CACHE> attend;
    attend.Init(pipe, tiling, arguments, AscendC::GetBlockIdx(), AscendC::GetBlockNum());
    attend.Process();
  } else if (TILING_KEY_IS(2)) {
    KERNEL_TASK_TYPE(2, KERNEL_TYPE_MIX_AIC_1_2);
    if constexpr (sizeof(DTYPE_QUERY) == sizeof(half)) {
      paged_attention::CubeAttention<DTYPE_QUERY, DTYPE_KEY_CACHE> attend;
      attend.Init(pipe, tiling, arguments);
      attend.Process();
    }
  } else if (TILING_KEY_IS(3)) {
    KERNEL_TASK_TYPE(3, KERNEL_TYPE_MIX_AIC_1_2);
    if constexpr (sizeof(DTYPE_QUERY) == sizeof(half)) {
      paged_attention::AttendEither<DTYPE_QUERY, DTYPE_KEY_CACHE>(pipe, tiling, arguments);
    }
  }
}
