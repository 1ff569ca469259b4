// How one call of paged_attention is cut into tasks for the threads. Nothing here changes a result.
#pragma once

#include <algorithm>
#include <atomic>
#include <vector>

#include "cpu/attention/attention_tile.h"
#include "cpu/attention/softmax.h"
#include "op/attention_call.h"

namespace paged_ops {

// Floats from one query to the next in working memory: head_dim, filled up to whole vectors.
inline int64_t QueryStride(const AttentionCall& call) { return (call.pages.head_dim + kLanes - 1) / kLanes * kLanes; }

// Tokens of one row that stand together share its pages, up to this many queries of a KV head; a single token may have
// more.
constexpr int64_t kMaxHeadQueries = 192;
// From this many on, laying out the pages in panels is worth its time.
constexpr int64_t kMinPanelQueries = 32;
// Fewer take several heads at a time, up to this many queries in all.
constexpr int64_t kMaxUnitQueries = 64;

// Tokens of one row that stand together, with some neighbouring KV heads.
struct Unit {
  int64_t first_token;
  int64_t num_tokens;
  int64_t first_head;  // KV heads
  int64_t num_heads;
  int64_t queries_per_head;
  int64_t first_seen;  // position: of what any of the tokens sees
  int64_t longest_context;

  bool in_panels() const { return queries_per_head >= kMinPanelQueries; }
  int64_t queries() const { return num_heads * queries_per_head; }
  int64_t first_partition() const { return first_seen / kPartitionTokens; }
  // At least one: also a unit without tokens has an output, of zeros.
  int64_t partitions() const {
    return std::max<int64_t>(1, (longest_context + kPartitionTokens - 1) / kPartitionTokens - first_partition());
  }
  int64_t end_partition() const { return first_partition() + partitions(); }
  int64_t cost() const { return (longest_context - first_seen) * queries(); }
};

// What one thread takes at a time: some partitions of a unit.
struct Task {
  int64_t unit;
  int64_t first_partition;
  int64_t end_partition;
};

// Kept from call to call, for its memory.
struct Plan {
  std::vector<Unit> tiles;  // the units before they are cut into heads
  std::vector<Unit> units;
  std::vector<Task> tasks;
  std::vector<int64_t> result_offsets;       // of each unit that is split: where its partitions wait to be joined
  std::vector<std::atomic<int>> open_tasks;  // of each unit: whoever brings it to 0 joins the partitions
  KeptFloats results;
  std::atomic<int64_t> taken;  // tasks
  int64_t threads;
  int64_t max_queries;  // of a unit
  bool has_panels;

  // Null if there is none left. The last tokens of a row have the most to do: they go first, so that the threads end
  // together.
  const Task* Take() {
    const int64_t index = taken.fetch_add(1, std::memory_order_relaxed), count = tasks.size();
    return index < count ? &tasks[count - 1 - index] : nullptr;
  }

  // One to do after the present one, unless so few are left that it should go to whoever is done first.
  const Task* TakeAhead() {
    const int64_t left = static_cast<int64_t>(tasks.size()) - taken.load(std::memory_order_relaxed);
    return left > 2 * threads ? Take() : nullptr;
  }
};

// So many tokens a tile that there are some tasks for each thread: of a KV head and a partition each, if need be.
inline int64_t MaxTileTokens(const AttentionCall& call, int64_t threads) {
  int64_t parts = 0;
  for (int64_t t = 0; t < call.num_tokens(); ++t) {
    parts += 1 + (call.context(t) - call.first_seen(t)) / kPartitionTokens;
  }
  const int64_t tokens = parts * call.pages.num_kv_heads / (4 * threads);
  return std::max<int64_t>(1, std::clamp(tokens * call.group(), kMinPanelQueries, kMaxHeadQueries) / call.group());
}

// The tokens as units of all KV heads; those of a row in equal parts.
inline void PlanTiles(const AttentionCall& call, Plan& plan) {
  const int64_t max_tokens = MaxTileTokens(call, plan.threads), group = call.group();
  plan.tiles.clear();
  for (int64_t first = 0; first < call.num_tokens();) {
    int64_t row_end = first + 1;
    while (row_end < call.num_tokens() && call.row(row_end) == call.row(first)) ++row_end;
    for (int64_t tiles_left = (row_end - first + max_tokens - 1) / max_tokens; tiles_left > 0; --tiles_left) {
      const int64_t tokens = (row_end - first + tiles_left - 1) / tiles_left;
      int64_t shortest = 0, longest = 0;  // of those that see anything
      for (int64_t t = first; t < first + tokens; ++t) {
        const int64_t context = call.context(t);
        longest = std::max(longest, context);
        if (shortest == 0 || (context > 0 && context < shortest)) shortest = context;
      }
      const int64_t first_seen = FirstSeen(shortest, call.window);
      plan.tiles.push_back({first, tokens, 0, call.pages.num_kv_heads, tokens * group, first_seen, longest});
      first += tokens;
    }
  }
}

// Many heads a unit read the cache in the order in which it lies in memory, at twice the speed of one head that leaps
// from token to token. Fewer where the queries would outgrow the core's own cache, or where threads would stand idle.
inline void PlanUnits(const AttentionCall& call, Plan& plan) {
  PlanTiles(call, plan);
  int64_t tasks_a_head = 0;
  for (const Unit& tile : plan.tiles) tasks_a_head += tile.partitions();
  plan.units.clear();
  for (const Unit& tile : plan.tiles) {
    const int64_t all = tile.num_heads;
    int64_t heads = tile.in_panels() ? 1 : std::clamp<int64_t>(kMaxUnitQueries / tile.queries_per_head, 1, all);
    while (heads > 1 && tasks_a_head * ((all + heads - 1) / heads) < 2 * plan.threads) heads = (heads + 1) / 2;
    for (int64_t head = 0; head < all; head += heads) {
      Unit unit = tile;
      unit.first_head = head;
      unit.num_heads = std::min(heads, all - head);
      plan.units.push_back(unit);
    }
  }
}

// A unit that alone is more than a quarter of a thread's share is split over its context, so that no thread waits long
// for another. At most 4 units a thread are, which bounds the memory for their results.
inline void MakePlan(const AttentionCall& call, int64_t threads, Plan& plan) {
  plan.threads = threads;
  PlanUnits(call, plan);
  const int64_t num_units = plan.units.size();
  int64_t total_cost = 0;
  plan.max_queries = 0;
  plan.has_panels = false;
  for (const Unit& unit : plan.units) {
    total_cost += unit.cost();
    plan.max_queries = std::max(plan.max_queries, unit.queries());
    plan.has_panels |= unit.in_panels();
  }
  const auto partitions_a_task = [&](const Unit& unit) {
    if (threads == 1) return unit.partitions();
    return std::max<int64_t>(1, total_cost / (4 * threads * kPartitionTokens * unit.queries()));
  };

  plan.tasks.clear();
  plan.result_offsets.resize(num_units);
  if (plan.open_tasks.size() < plan.units.size()) plan.open_tasks = std::vector<std::atomic<int>>(num_units);
  int64_t floats = 0;
  for (int64_t u = 0; u < num_units; ++u) {
    const Unit& unit = plan.units[u];
    const int64_t end = unit.end_partition(), step = partitions_a_task(unit);
    int open_tasks = 0;
    for (int64_t first = unit.first_partition(); first < end; first += step, ++open_tasks) {
      plan.tasks.push_back({u, first, std::min(first + step, end)});
    }
    plan.open_tasks[u].store(open_tasks, std::memory_order_relaxed);
    plan.result_offsets[u] = floats;
    if (open_tasks > 1) floats += unit.partitions() * Softmax::FloatCount(unit.queries(), QueryStride(call));
  }
  plan.results.Reserve(floats);
  plan.taken.store(0, std::memory_order_relaxed);
}

}  // namespace paged_ops
