// paged_attention: every token attends to the first context_lens[t] tokens of its row, through the block table, or
// to the last of these.
//
//   query                   [T, H, D] float32, float16 or bfloat16
//   key_cache, value_cache  [NB, BS, K, D], int8: [NB, BS, K, D + 4] (aot_op.h); query head h reads KV head h / (H / K)
//   block_table             [R, M] int32: the blocks of a row, in order; entries behind its context are not looked at
//   rows                    [T] int32; -1 = padding, with context length 0
//   context_lens            [T] int32
//   scale                   float32 scalar
//   window                  int64 scalar: a token sees the last so many tokens of its context, 0 = all; blocks of the
//                           row that hold none of them are not looked at
//   output                  [T, H, D] of the query's type; zeros where the context length is 0

#include "cpu/attention/attention.h"

PAGED_OPS_EXPORT int PagedAttention(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                    void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  const AttentionCall call = ParseCall(Arguments(kPagedAttention, 9, nparam, params, ndims, shapes, dtypes));
  RequireTokens(call);
  Attend(call);
  return 0;
}
