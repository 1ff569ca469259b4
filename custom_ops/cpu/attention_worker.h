// One thread's part of paged_attention: it takes tasks one after the other, in memory of its own.
#pragma once

#include <type_traits>
#include <vector>

#include "attention_call.h"
#include "attention_plan.h"
#include "attention_tile.h"
#include "softmax.h"

namespace paged_ops {

class Worker {
 public:
  Worker(const AttentionCall& call, int64_t max_queries, bool with_panels)
      : call_(call),
        stride_(call.stride()),
        queries_(AllocateFloats(max_queries * stride_)),
        scores_(AllocateFloats(max_queries * kPartitionTokens)),
        partition_(AllocateFloats(Softmax::FloatCount(max_queries, stride_))),
        total_(AllocateFloats(Softmax::FloatCount(max_queries, stride_))),
        panels_(AllocateFloats(with_panels ? PanelFloats(stride_) : 0)),
        contexts_(max_queries) {}

  // All partitions of a unit are joined at once. Where they are the work of several tasks, they wait for the last.
  void Run(const Task& task, Plan& plan) {
    const Unit& unit = plan.units[task.unit];
    float* const results = plan.results[task.unit];
    TakeQueries(unit);
    if (task.end_partition - task.first_partition == unit.partitions()) {
      AttendWhole(unit);
      return;
    }
    for (int64_t p = task.first_partition; p < task.end_partition; ++p) {
      AttendPartition(unit, p, ResultOf(unit, p, results));
    }
    if (--plan.open_tasks[task.unit] == 0) JoinResults(unit, results);
  }

 private:
  void AttendWhole(const Unit& unit) {
    const Softmax partition = Softmax::In(partition_.get(), unit.queries(), stride_);
    StartTotal(unit);
    for (int64_t p = 0; p < unit.partitions(); ++p) {
      AttendPartition(unit, p, partition);
      JoinToTotal(unit, p, partition);
    }
    WriteOutput(unit);
  }

  void JoinResults(const Unit& unit, float* results) {
    StartTotal(unit);
    for (int64_t p = 0; p < unit.partitions(); ++p) JoinToTotal(unit, p, ResultOf(unit, p, results));
    WriteOutput(unit);
  }

  Softmax ResultOf(const Unit& unit, int64_t partition, float* results) const {
    float* floats = results + partition * Softmax::FloatCount(unit.queries(), stride_);
    return Softmax::In(floats, unit.queries(), stride_);
  }

  void TakeQueries(const Unit& unit) {
    for (int64_t q = 0; q < unit.queries_per_head; ++q) {
      contexts_[q] = call_.context(unit.first_token + q / call_.group());
    }
    const int64_t head_dim = call_.pages.head_dim;
    WithFloatType(call_.query.dtype, [&](auto* type) {
      for (int64_t q = 0; q < unit.queries(); ++q) {
        const auto* source = call_.query.as<std::remove_pointer_t<decltype(type)>>() + QueryOffset(unit, q);
        float* target = queries_.get() + q * stride_;
        int64_t d = 0;
        for (; d + kLanes <= head_dim; d += kLanes) Store(target + d, Load(source + d) * call_.scale);
        if (d < head_dim) Store(target + d, LoadPart(source + d, head_dim - d) * call_.scale);
      }
    });
  }

  void AttendPartition(const Unit& unit, int64_t partition, Softmax result) {
    const QueryTile tile{queries_.get(), contexts_.data(), unit.num_heads, unit.queries_per_head, stride_};
    const Pages& pages = call_.pages;
    WithCacheType(pages.keys.dtype, [&](auto* type) {
      using Cache = std::remove_pointer_t<decltype(type)>;
      const float *key_scales = nullptr, *value_scales = nullptr;
      if constexpr (std::is_same_v<Cache, int8_t>) {
        key_scales = pages.scales(pages.keys.as<int8_t>(), 0) + unit.first_head;
        value_scales = pages.scales(pages.values.as<int8_t>(), 0) + unit.first_head;
      }
      const int64_t head_offset = unit.first_head * pages.head_dim;
      const RowCache<Cache> cache{pages.keys.as<Cache>() + head_offset,
                                  pages.values.as<Cache>() + head_offset,
                                  call_.blocks(call_.row(unit.first_token)),
                                  pages.block_size,
                                  pages.block_stride(),
                                  pages.token_stride(),
                                  pages.head_dim,
                                  key_scales,
                                  value_scales};
      PartitionAttention<Cache>(cache, tile, partition, scores_.get(),
                                unit.in_panels() ? panels_.get() : nullptr, result)
          .Run();
    });
  }

  void StartTotal(const Unit& unit) {
    const Softmax total = Softmax::In(total_.get(), unit.queries(), stride_);
    std::fill_n(total.values, unit.queries() * stride_, 0.0f);
    std::fill_n(total.max, unit.queries(), kMinusInfinity);
    std::fill_n(total.sum, unit.queries(), 0.0f);
  }

  // Only the queries that have tokens in this partition: for the others it must be as if there were none.
  void JoinToTotal(const Unit& unit, int64_t index, Softmax partition) {
    const Softmax total = Softmax::In(total_.get(), unit.queries(), stride_);
    for (int64_t q = 0; q < unit.queries(); ++q) {
      if (Context(unit, q) <= index * kPartitionTokens) continue;
      Join(total.OfQuery(q, stride_), partition.OfQuery(q, stride_), stride_);
    }
  }

  void WriteOutput(const Unit& unit) {
    const int64_t head_dim = call_.pages.head_dim;
    WithFloatType(call_.output.dtype, [&](auto* type) {
      for (int64_t q = 0; q < unit.queries(); ++q) {
        auto* target = call_.output.as<std::remove_pointer_t<decltype(type)>>() + QueryOffset(unit, q);
        const Softmax total = Softmax::In(total_.get(), unit.queries(), stride_).OfQuery(q, stride_);
        const float divisor = Context(unit, q) == 0 ? 1.0f : *total.sum;  // nothing to attend to: zeros
        int64_t d = 0;
        for (; d + kLanes <= head_dim; d += kLanes) Store(target + d, Load(total.values + d) / divisor);
        if (d < head_dim) StorePart(target + d, Load(total.values + d) / divisor, head_dim - d);
      }
    });
  }

  // Queries of a unit are numbered [KV head][token][head of the group].
  int64_t Context(const Unit& unit, int64_t query) const { return contexts_[query % unit.queries_per_head]; }

  // Where a query lies in `query` and `output`, [T, H, D].
  int64_t QueryOffset(const Unit& unit, int64_t query) const {
    const int64_t kv_head = unit.first_head + query / unit.queries_per_head;
    const int64_t token = unit.first_token + query % unit.queries_per_head / call_.group();
    const int64_t head = kv_head * call_.group() + query % call_.group();
    return (token * call_.num_heads() + head) * call_.pages.head_dim;
  }

  const AttentionCall& call_;
  const int64_t stride_;
  Floats queries_;
  Floats scores_;
  Floats partition_;
  Floats total_;
  Floats panels_;
  std::vector<int64_t> contexts_;
};

}  // namespace paged_ops
