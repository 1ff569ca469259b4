// How one call of paged_attention is cut into tasks for the threads. Nothing here changes a result.
#pragma once

#include <algorithm>
#include <atomic>
#include <vector>

#include "attention_call.h"
#include "attention_tile.h"
#include "softmax.h"

namespace paged_ops {

// Tokens of one row that stand together share the loads of its pages, up to this many queries of a KV head,
constexpr int64_t kMaxHeadQueries = 16;
// and up to this many queries in all; a single token may have more.
constexpr int64_t kMaxUnitQueries = 64;

// Tokens of one row that stand together, with some neighbouring KV heads.
struct Unit {
  int64_t first_token;
  int64_t num_tokens;
  int64_t first_head;  // KV heads
  int64_t num_heads;
  int64_t queries_per_head;
  int64_t longest_context;

  int64_t queries() const { return num_heads * queries_per_head; }
  int64_t partitions() const { return (longest_context + kPartitionTokens - 1) / kPartitionTokens; }
  int64_t cost() const { return longest_context * queries(); }
};

// What one thread takes at a time: some partitions of a unit.
struct Task {
  int64_t unit;
  int64_t first_partition;
  int64_t end_partition;
};

struct Plan {
  std::vector<Unit> units;
  std::vector<Task> tasks;
  std::vector<float*> results;               // of each unit that is split: where its partitions wait to be joined
  std::vector<std::atomic<int>> open_tasks;  // of each unit: whoever brings it to 0 joins the partitions
  Floats result_memory{nullptr, &std::free};

  int64_t MaxQueries() const {
    int64_t queries = 0;
    for (const Unit& unit : units) queries = std::max(queries, unit.queries());
    return queries;
  }
};

// The tokens as units of all KV heads.
inline std::vector<Unit> PlanTiles(const AttentionCall& call) {
  const int64_t tile_tokens = std::max<int64_t>(1, kMaxHeadQueries / call.group());
  std::vector<Unit> tiles;
  for (int64_t first = 0, end; first < call.num_tokens(); first = end) {
    int64_t longest = 0;
    for (end = first; end < call.num_tokens() && end < first + tile_tokens && call.row(end) == call.row(first); ++end) {
      longest = std::max(longest, call.context(end));
    }
    tiles.push_back({first, end - first, 0, call.pages.num_kv_heads, (end - first) * call.group(), longest});
  }
  return tiles;
}

// Many heads a unit read the cache in the order in which it lies in memory, at twice the speed of one head that leaps
// from token to token. Fewer where the queries would outgrow the core's own cache, or where threads would stand idle.
inline std::vector<Unit> PlanUnits(const AttentionCall& call, int64_t threads) {
  const std::vector<Unit> tiles = PlanTiles(call);
  int64_t tasks_a_head = 0;
  for (const Unit& tile : tiles) tasks_a_head += tile.partitions();
  std::vector<Unit> units;
  for (const Unit& tile : tiles) {
    const int64_t all = tile.num_heads;
    int64_t heads = std::clamp<int64_t>(kMaxUnitQueries / tile.queries_per_head, 1, all);
    while (heads > 1 && tasks_a_head * ((all + heads - 1) / heads) < 2 * threads) heads = (heads + 1) / 2;
    for (int64_t head = 0; head < all; head += heads) {
      Unit unit = tile;
      unit.first_head = head;
      unit.num_heads = std::min(heads, all - head);
      units.push_back(unit);
    }
  }
  return units;
}

// A unit that alone is more than a quarter of a thread's share is split over its context, so that no thread waits long
// for another. At most 4 units a thread are, which bounds the memory for their results.
inline Plan MakePlan(const AttentionCall& call, int64_t threads) {
  Plan plan;
  plan.units = PlanUnits(call, threads);
  int64_t total_cost = 0;
  for (const Unit& unit : plan.units) total_cost += unit.cost();
  const auto partitions_a_task = [&](const Unit& unit) {
    if (threads == 1) return unit.partitions();
    return std::max<int64_t>(1, total_cost / (4 * threads * kPartitionTokens * unit.queries()));
  };
  const auto result_floats = [&](const Unit& unit) { return Softmax::FloatCount(unit.queries(), call.stride()); };

  const int64_t num_units = plan.units.size();
  plan.open_tasks = std::vector<std::atomic<int>>(num_units);
  std::vector<int64_t> result_offsets(num_units);
  int64_t floats = 0;
  for (int64_t u = 0; u < num_units; ++u) {
    const Unit& unit = plan.units[u];
    const int64_t step = partitions_a_task(unit);
    int64_t first = 0;
    do {  // also once for a unit without a partition: its output is to be zeros
      plan.tasks.push_back({u, first, std::min(first + step, unit.partitions())});
      ++plan.open_tasks[u];
      first += step;
    } while (first < unit.partitions());
    result_offsets[u] = floats;
    if (plan.open_tasks[u] > 1) floats += unit.partitions() * result_floats(unit);
  }
  plan.result_memory = AllocateFloats(floats);
  for (int64_t offset : result_offsets) plan.results.push_back(plan.result_memory.get() + offset);
  return plan;
}

}  // namespace paged_ops
