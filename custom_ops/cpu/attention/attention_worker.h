// One thread's part of paged_attention: it takes tasks one after the other, in memory of its own.
#pragma once

#include <type_traits>
#include <vector>

#include "cpu/attention/attention_plan.h"
#include "cpu/attention/attention_tile.h"
#include "cpu/attention/softmax.h"
#include "op/attention_call.h"

namespace paged_ops {

// A thread's working memory, kept from call to call.
struct WorkerMemory {
  KeptFloats queries;
  KeptFloats scores;
  KeptFloats partition;
  KeptFloats total;
  KeptFloats panels;
  std::vector<int64_t> contexts;

  void Reserve(const Plan& plan, int64_t stride) {
    queries.Reserve(plan.max_queries * stride);
    scores.Reserve(plan.max_queries * kPartitionTokens);
    partition.Reserve(Softmax::FloatCount(plan.max_queries, stride));
    total.Reserve(Softmax::FloatCount(plan.max_queries, stride));
    if (plan.has_panels) panels.Reserve(PanelFloats(stride));
    contexts.resize(plan.max_queries);
  }
};

inline WorkerMemory& ThisThreadsMemory() {
  thread_local WorkerMemory memory;
  return memory;
}

class Worker {
 public:
  Worker(const AttentionCall& call, Plan& plan)
      : call_(call), plan_(plan), group_(call.group()), stride_(QueryStride(call)), memory_(ThisThreadsMemory()) {
    memory_.Reserve(plan, stride_);
  }

  // Tasks as long as there are any.
  void Run() {
    const Task* task = plan_.Take();
    while (task) {
      const Task* ahead = plan_.TakeAhead();
      Run(*task, ahead);
      task = ahead ? ahead : plan_.Take();
    }
  }

 private:
  // All partitions of a unit are joined at once. Where they are the work of several tasks, they wait for the last.
  void Run(const Task& task, const Task* next) {
    const Unit& unit = plan_.units[task.unit];
    TakeQueries(unit);
    if (task.end_partition - task.first_partition == unit.partitions()) {
      AttendWhole(task, next);
      return;
    }
    for (int64_t p = task.first_partition; p < task.end_partition; ++p) {
      AttendPartition(task, p, next, ResultOf(task.unit, p));
    }
    if (--plan_.open_tasks[task.unit] == 0) JoinResults(task.unit);
  }

  void AttendWhole(const Task& task, const Task* next) {
    const Unit& unit = plan_.units[task.unit];
    const Softmax total = Softmax::In(memory_.total.Get(), unit.queries(), stride_);
    const Softmax partition = Softmax::In(memory_.partition.Get(), unit.queries(), stride_);
    AttendPartition(task, task.first_partition, next, total);
    BeginJoin(total, unit.queries(), stride_);
    for (int64_t p = task.first_partition + 1; p < task.end_partition; ++p) {
      AttendPartition(task, p, next, partition);
      JoinPartition(unit, p, partition, total);
    }
    WriteOutput(unit, total);
  }

  void JoinResults(int64_t index) {
    const Unit& unit = plan_.units[index];
    const int64_t first = unit.first_partition();
    const Softmax total = ResultOf(index, first);
    BeginJoin(total, unit.queries(), stride_);
    for (int64_t p = first + 1; p < unit.end_partition(); ++p) JoinPartition(unit, p, ResultOf(index, p), total);
    WriteOutput(unit, total);
  }

  Softmax ResultOf(int64_t index, int64_t partition) const {
    const Unit& unit = plan_.units[index];
    float* results = plan_.results.Get() + plan_.result_offsets[index];
    const int64_t before = (partition - unit.first_partition()) * Softmax::FloatCount(unit.queries(), stride_);
    return Softmax::In(results + before, unit.queries(), stride_);
  }

  void TakeQueries(const Unit& unit) {
    for (int64_t q = 0; q < unit.queries_per_head; ++q) {
      memory_.contexts[q] = call_.context(unit.first_token + q / group_);
    }
    const int64_t head_dim = call_.pages.head_dim;
    WithFloatType(call_.query.dtype, [&](auto* type) {
      const auto* queries = call_.query.as<std::remove_pointer_t<decltype(type)>>();
      EachQuery(unit, [&](int64_t q, int64_t, int64_t offset) {
        const auto* source = queries + offset;
        float* target = memory_.queries.Get() + q * stride_;
        int64_t d = 0;
        for (; d + kLanes <= head_dim; d += kLanes) Store(target + d, Load(source + d) * call_.scale);
        if (d < head_dim) Store(target + d, LoadPart(source + d, head_dim - d) * call_.scale);
      });
    });
  }

  template <typename Cache>
  RowCache<Cache> CacheOf(const Unit& unit) const {
    const Pages& pages = call_.pages;
    const float *key_scales = nullptr, *value_scales = nullptr;
    if constexpr (std::is_same_v<Cache, int8_t>) {
      key_scales = pages.scales(pages.keys.as<int8_t>(), 0) + unit.first_head;
      value_scales = pages.scales(pages.values.as<int8_t>(), 0) + unit.first_head;
    }
    const int64_t head_offset = unit.first_head * pages.head_dim;
    return {pages.keys.as<Cache>() + head_offset,
            pages.values.as<Cache>() + head_offset,
            call_.blocks(call_.row(unit.first_token)),
            pages.block_size,
            pages.block_stride(),
            pages.token_stride(),
            pages.head_dim,
            key_scales,
            value_scales};
  }

  // The first keys of what is read after a partition: of the next one, or of the next task.
  template <typename Cache>
  ComingTokens<Cache> KeysAfter(const Task& task, int64_t partition, const Task* next) const {
    const bool goes_on = partition + 1 < task.end_partition;
    if (!goes_on && next == nullptr) return {nullptr, 0};
    const Unit& unit = plan_.units[goes_on ? task.unit : next->unit];
    const int64_t following = goes_on ? partition + 1 : next->first_partition;
    const RowCache<Cache> cache = CacheOf<Cache>(unit);
    return cache.Coming(cache.keys, FirstChunk(following, unit.first_seen), unit.longest_context);
  }

  void AttendPartition(const Task& task, int64_t partition, const Task* next, Softmax result) {
    const Unit& unit = plan_.units[task.unit];
    const QueryTile tile{memory_.queries.Get(), memory_.contexts.data(), unit.num_heads, unit.queries_per_head,
                         stride_, unit.first_seen, call_.window};
    WithCacheType(call_.pages.keys.dtype, [&](auto* type) {
      using Cache = std::remove_pointer_t<decltype(type)>;
      const RowCache<Cache> cache = CacheOf<Cache>(unit);
      PartitionAttention<Cache>(cache, tile, partition, memory_.scores.Get(),
                                unit.in_panels() ? memory_.panels.Get() : nullptr,
                                KeysAfter<Cache>(task, partition, next), result)
          .Run();
    });
  }

  // Only the queries that have tokens in this partition: for the others it must be as if there were none.
  void JoinPartition(const Unit& unit, int64_t index, Softmax partition, Softmax total) {
    EachQuery(unit, [&](int64_t q, int64_t context, int64_t) {
      if (context <= index * kPartitionTokens) return;
      if (FirstSeen(context, call_.window) >= (index + 1) * kPartitionTokens) return;
      Join(total.OfQuery(q, stride_), partition.OfQuery(q, stride_), stride_);
    });
  }

  void WriteOutput(const Unit& unit, Softmax total) {
    const int64_t head_dim = call_.pages.head_dim;
    WithFloatType(call_.output.dtype, [&](auto* type) {
      auto* output = call_.output.as<std::remove_pointer_t<decltype(type)>>();
      EachQuery(unit, [&](int64_t q, int64_t context, int64_t offset) {
        auto* target = output + offset;
        const float* values = total.values + q * stride_;
        const float divisor = context == 0 ? 1.0f : total.sum[q];  // nothing to attend to: zeros
        int64_t d = 0;
        for (; d + kLanes <= head_dim; d += kLanes) Store(target + d, Load(values + d) / divisor);
        if (d < head_dim) StorePart(target + d, Load(values + d) / divisor, head_dim - d);
      });
    });
  }

  // Calls body(its number in the unit, its context, where it lies in `query` and `output`, [T, H, D]) for each query.
  // They are numbered [KV head][token][head of the group].
  template <typename Body>
  void EachQuery(const Unit& unit, Body body) const {
    const int64_t head_dim = call_.pages.head_dim, token_width = call_.num_heads() * head_dim;
    int64_t q = 0;
    for (int64_t kv_head = unit.first_head; kv_head < unit.first_head + unit.num_heads; ++kv_head) {
      for (int64_t token = unit.first_token; token < unit.first_token + unit.num_tokens; ++token) {
        const int64_t context = call_.context(token), offset = token * token_width + kv_head * group_ * head_dim;
        for (int64_t head = 0; head < group_; ++head, ++q) body(q, context, offset + head * head_dim);
      }
    }
  }

  const AttentionCall& call_;
  Plan& plan_;
  const int64_t group_;
  const int64_t stride_;
  WorkerMemory& memory_;
};

}  // namespace paged_ops
