// paged_attention on arguments that are checked: the work shared among the threads.
#pragma once

#include <vector>

#include "attention_call.h"
#include "attention_plan.h"
#include "attention_worker.h"
#include "op_times.h"
#include "threads.h"

namespace paged_ops {

inline void Attend(const AttentionCall& call) {
  int64_t tokens = 0;
  for (int64_t t = 0; t < call.num_tokens(); ++t) tokens += call.context(t);
  const int64_t numbers = 2 * tokens * call.pages.token_stride();
  const int64_t bytes = numbers * ByteSize(call.pages.keys.dtype);
  const OpTimer timer(kTimeAttention, bytes, numbers * call.group());
  Threads& team = Threads::Get();
  const int threads = bytes > kParallelBytes ? team.size() : 1;
  Plan plan = MakePlan(call, threads);
  std::vector<Worker> workers;
  for (int i = 0; i < (threads == 1 ? 1 : team.capacity()); ++i) workers.emplace_back(call, plan.MaxQueries());
  team.For(plan.tasks.size(), threads == 1,
           [&](int64_t task, int thread) { workers[thread].Run(plan.tasks[task], plan); });
}

}  // namespace paged_ops
