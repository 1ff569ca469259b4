// paged_attention on arguments that are checked: the work shared among the threads.
#pragma once

#include <algorithm>

#include "cpu/attention/attention_plan.h"
#include "cpu/attention/attention_worker.h"
#include "cpu/runtime/op_times.h"
#include "cpu/runtime/threads.h"
#include "op/attention_call.h"

namespace paged_ops {

// The keys and values, times the queries that meet them, that are worth sharing: some microseconds' work, because in a
// step the other threads have just ended a product and are awake.
constexpr int64_t kParallelAttentionBytes = 128 * 1024;

inline void Attend(const AttentionCall& call) {
  int64_t pairs = 0, held = 0;  // of a query and a token that it attends to; tokens of the rows, each read once at least
  int64_t first = 0;            // token of the row
  for (int64_t t = 0; t < call.num_tokens(); ++t) {
    pairs += call.context(t) - call.first_seen(t);
    if (t + 1 < call.num_tokens() && call.row(t + 1) == call.row(t)) continue;
    held += call.context(t) - call.first_seen(first);
    first = t + 1;
  }
  const Tensor& keys = call.pages.keys;
  const int64_t token_bytes = 2 * keys.shape[2] * keys.shape[3] * ByteSize(keys.dtype);
  const OpTimer timer(kTimeAttention, held * token_bytes, pairs * 2 * call.pages.token_stride() * call.group());
  Threads& team = Threads::Get();
  const int threads = pairs * call.group() * token_bytes > kParallelAttentionBytes ? team.size() : 1;
  thread_local Plan plan;
  MakePlan(call, threads, plan);
  const int64_t workers = std::min<int64_t>(threads, plan.tasks.size());
  team.For(workers, threads == 1, [&call, &plan = plan](int64_t, int) { Worker(call, plan).Run(); });
}

}  // namespace paged_ops
