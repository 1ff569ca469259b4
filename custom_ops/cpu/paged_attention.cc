// paged_attention: every token attends to the first context_lens[t] tokens of its row, through the block table.
//
//   query                   [T, H, D] float32, float16 or bfloat16
//   key_cache, value_cache  [NB, BS, K, D]; query head h reads KV head h / (H / K)
//   block_table             [R, M] int32: the blocks of a row, in order; entries behind its context are not looked at
//   rows                    [T] int32; -1 = padding, with context length 0
//   context_lens            [T] int32
//   scale                   float32 scalar
//   output                  [T, H, D] of the query's type; zeros where the context length is 0

#include <omp.h>

#include <vector>

#include "attention_call.h"
#include "attention_plan.h"
#include "attention_worker.h"

namespace paged_ops {
namespace {

int64_t CacheBytes(const AttentionCall& call) {
  int64_t tokens = 0;
  for (int64_t t = 0; t < call.num_tokens(); ++t) tokens += call.context(t);
  return 2 * tokens * call.pages.token_stride() * ByteSize(call.pages.keys.dtype);
}

void Attend(const AttentionCall& call) {
  const int threads = CacheBytes(call) > kParallelBytes ? omp_get_max_threads() : 1;
  Plan plan = MakePlan(call, threads);
  std::vector<Worker> workers;
  for (int i = 0; i < threads; ++i) workers.emplace_back(call, plan.MaxQueries());
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic, 1)
  for (size_t i = 0; i < plan.tasks.size(); ++i) workers[omp_get_thread_num()].Run(plan.tasks[i], plan);
}

}  // namespace
}  // namespace paged_ops

PAGED_OPS_EXPORT int PagedAttention(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                    void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  const AttentionCall call = ParseCall(Arguments(kPagedAttention, 8, nparam, params, ndims, shapes, dtypes));
  RequireTokens(call);
  Attend(call);
  return 0;
}
