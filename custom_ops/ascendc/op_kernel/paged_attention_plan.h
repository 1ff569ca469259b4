// Which core does which part of a paged_attention call: the same answer on every core, from rows and context_lens.
//
// Tokens of one row that stand together form runs of at most max_run_tokens: they share each load of KV.
// A task is a run and a KV head; its KV, from the first token that any of them sees, is cut into tiles. All tiles stand
// in one line, and each core gets an equal piece of it, whatever the lengths:
//
//   tasks      |---- run 0, head 0 ----|---- run 0, head 1 ----|-- run 1, head 0 --|-- run 1, head 1 --|
//   cores      |      0      |      1      |      2      |      3      |      4      |      5      |
//
// A core whose piece begins inside a task leaves what it has of it, unfinished, in its workspace slot; the core that
// has the task's first tile collects it from those after it (FlashDecoding's combination by log-sum-exp).
// Source: Dao et al. 2023, "Flash-Decoding for long-context inference"; Osama et al. 2023, "Stream-K".
#pragma once

#include "kernel_operator.h"
#include "paged_attention_tiling.h"

namespace paged_attention {

__aicore__ inline uint32_t Least(uint32_t a, uint32_t b) { return a < b ? a : b; }

// Consecutive tokens of one row. The last has the longest context.
struct Run {
  uint32_t first_token;
  uint32_t num_tokens;
  int32_t row;
  uint32_t first_seen;  // position: of what the first token sees
  uint32_t context;     // of the last token; 0 for padding
  uint32_t num_tiles;   // a KV head
};

// A tile of a task, and where it stands in the line.
struct Tile {
  Run run;
  uint32_t kv_head;
  uint32_t index;  // in its task
  uint64_t place;  // in the line of all tiles

  __aicore__ inline uint64_t TaskBegin() const { return place - index; }
  __aicore__ inline uint64_t TaskEnd() const { return TaskBegin() + run.num_tiles; }

  // The position where it begins.
  __aicore__ inline uint32_t First(uint32_t tile_tokens) const { return run.first_seen + index * tile_tokens; }

  // Its tokens among the first `context` of the row.
  __aicore__ inline uint32_t TokensWithin(uint32_t context, uint32_t tile_tokens) const {
    const uint32_t first = First(tile_tokens);
    if (context <= first) return 0;
    return context - first < tile_tokens ? context - first : tile_tokens;
  }
};

// The queries of a task that one vector core works on: some heads of some tokens, a query for each, token by token.
struct Part {
  uint32_t first_token;
  uint32_t num_tokens;
  uint32_t first_head;
  uint32_t num_heads;

  __aicore__ inline uint32_t NumQueries() const { return num_tokens * num_heads; }
};

class Plan {
  static constexpr uint32_t kTileLengths = 3;  // that are tried, each half as long as the one before

 public:
  __aicore__ inline void Init(const PagedAttentionTiling& tiling, const PagedAttentionCut& cut, GM_ADDR rows,
                              GM_ADDR context_lens, uint32_t core, uint32_t num_cores) {
    num_tokens_ = tiling.num_tokens;
    num_kv_heads_ = tiling.num_kv_heads;
    max_run_tokens_ = cut.max_run_tokens;
    window_ = tiling.window;
    rows_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(rows), num_tokens_);
    context_lens_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(context_lens), num_tokens_);
    const uint64_t total = ChooseTile(cut, num_cores);
    begin_ = share_ * core < total ? share_ * core : total;
    end_ = begin_ + share_ < total ? begin_ + share_ : total;
    has_cut_tasks_ = total > share_ && HasCutTasks();
  }

  // Whether any task is cut: if not, no core has anything for another, and none need wait.
  __aicore__ inline bool has_cut_tasks() const { return has_cut_tasks_; }

  // KV tokens of a tile.
  __aicore__ inline uint32_t tile_tokens() const { return tile_tokens_; }

  // Tokens of the longest run.
  __aicore__ inline uint32_t longest_run() const { return longest_run_; }

  // Of the tile's keys, `token` may see those from `first` on that stand before `end`; there may be none.
  struct Sight {
    uint32_t first;
    uint32_t end;
  };
  __aicore__ inline Sight Visible(const Tile& tile, uint32_t token) const {
    const uint32_t context = static_cast<uint32_t>(Context(token));
    return {tile.TokensWithin(FirstSeen(context), tile_tokens_), tile.TokensWithin(context, tile_tokens_)};
  }

  // Keys of the tile that any token of its run may see.
  __aicore__ inline uint32_t Loaded(const Tile& tile) const { return tile.TokensWithin(tile.run.context, tile_tokens_); }

  // How the tile's task lies in this core's piece.
  __aicore__ inline bool IsFirstHere(const Tile& tile) const { return tile.index == 0 || tile.place == begin_; }
  __aicore__ inline bool BeginsBefore(const Tile& tile) const { return tile.TaskBegin() < begin_; }
  __aicore__ inline bool EndsAfter(const Tile& tile) const { return tile.TaskEnd() > end_; }
  __aicore__ inline bool IsLastHere(const Tile& tile) const {
    return tile.place + 1 == end_ || tile.place + 1 == tile.TaskEnd();
  }

  // This core's piece of the line.
  __aicore__ inline uint64_t begin() const { return begin_; }
  __aicore__ inline uint64_t end() const { return end_; }
  __aicore__ inline uint32_t CoreOf(uint64_t place) const { return static_cast<uint32_t>(place / share_); }

  __aicore__ inline int32_t Context(uint32_t token) const { return context_lens_.GetValue(token); }
  __aicore__ inline bool IsPadding(uint32_t token) const { return rows_.GetValue(token) < 0 || Context(token) <= 0; }

  // The run that starts at `first_token`, which must exist. A padding token is a run of its own, without tiles.
  __aicore__ inline Run RunAt(uint32_t first_token) const {
    if (IsPadding(first_token)) return {first_token, 1, -1, 0, 0, 0};
    const uint32_t last = LastOfRun(first_token);
    const uint32_t first_seen = FirstSeen(static_cast<uint32_t>(Context(first_token)));
    const uint32_t context = static_cast<uint32_t>(Context(last));
    const uint32_t num_tiles = (context - first_seen + tile_tokens_ - 1) / tile_tokens_;
    return {first_token, last + 1 - first_token, rows_.GetValue(first_token), first_seen, context, num_tiles};
  }

  // The first tile of this core; there must be one.
  __aicore__ inline Tile First() const {
    uint64_t place = 0;
    Run run = RunAt(0);
    while (place + TilesOf(run) <= begin_) {
      place += TilesOf(run);
      run = RunAt(run.first_token + run.num_tokens);
    }
    const uint64_t inside = begin_ - place;
    return {run, static_cast<uint32_t>(inside / run.num_tiles), static_cast<uint32_t>(inside % run.num_tiles), begin_};
  }

  // The tile after `tile`; it must exist.
  __aicore__ inline Tile Next(const Tile& tile) const {
    Tile next = tile;
    ++next.place;
    if (++next.index < tile.run.num_tiles) return next;
    next.index = 0;
    if (++next.kv_head < num_kv_heads_) return next;
    next.kv_head = 0;
    do next.run = RunAt(next.run.first_token + next.run.num_tokens);
    while (next.run.num_tiles == 0);
    return next;
  }

 private:
  __aicore__ inline uint32_t FirstSeen(uint32_t context) const {
    return window_ > 0 && context > window_ ? context - window_ : 0;
  }

  __aicore__ inline uint32_t LastOfRun(uint32_t first_token) const {
    const int32_t row = rows_.GetValue(first_token);
    const uint32_t farthest = first_token + max_run_tokens_ - 1;
    // Most runs are chunks of a prompt: tokens without a gap, which need not be looked at one by one.
    if (farthest < num_tokens_ && rows_.GetValue(farthest) == row &&
        Context(farthest) - Context(first_token) == static_cast<int32_t>(max_run_tokens_ - 1)) {
      return farthest;
    }
    uint32_t last = first_token;
    while (last < farthest && last + 1 < num_tokens_ && Follows(last + 1, row)) ++last;
    return last;
  }

  // What a run loads has no token that none of it sees.
  __aicore__ inline bool Follows(uint32_t token, int32_t row) const {
    if (rows_.GetValue(token) != row) return false;
    const int32_t context = Context(token), before = Context(token - 1);
    return context >= before && FirstSeen(static_cast<uint32_t>(context)) <= static_cast<uint32_t>(before);
  }

  __aicore__ inline uint64_t TilesOf(const Run& run) const { return static_cast<uint64_t>(run.num_tiles) * num_kv_heads_; }

  // Sets the length of a tile, and how many a core gets, such that the core with the most is done first; gives the number
  // of all tiles.
  __aicore__ inline uint64_t ChooseTile(const PagedAttentionCut& cut, uint32_t num_cores) {
    uint64_t totals[kTileLengths] = {};
    tile_tokens_ = cut.tile_tokens;
    for (uint32_t token = 0; token < num_tokens_;) {
      const Run run = RunAt(token);
      if (run.num_tiles > 0 && run.num_tokens > longest_run_) longest_run_ = run.num_tokens;
      for (uint32_t i = 0; i < kTileLengths; ++i) {
        const uint32_t length = cut.tile_tokens >> i;
        totals[i] += static_cast<uint64_t>((run.context - run.first_seen + length - 1) / length) * num_kv_heads_;
      }
      token += run.num_tokens;
    }
    uint64_t total = 0, least_cost = ~0ull;
    for (uint32_t i = 0; i < kTileLengths && cut.tile_tokens >> i >= cut.least_tile_tokens; ++i) {
      const uint32_t length = cut.tile_tokens >> i;
      const uint64_t least = (kMinTokensPerCore + length - 1) / length;
      uint64_t share = (totals[i] + num_cores - 1) / num_cores;
      if (share < least) share = least;
      const uint64_t cost = share * (length + cut.tile_overhead);
      if (cost >= least_cost) continue;
      least_cost = cost;
      total = totals[i];
      share_ = share;
      tile_tokens_ = length;
    }
    return total;
  }

  __aicore__ inline bool HasCutTasks() const {
    uint64_t left = share_;  // of the piece that the next task begins in
    for (uint32_t token = 0; token < num_tokens_;) {
      const Run run = RunAt(token);
      for (uint32_t head = 0; head < num_kv_heads_; ++head) {
        if (run.num_tiles > left) return true;
        left -= run.num_tiles;
        if (left == 0) left = share_;
      }
      token += run.num_tokens;
    }
    return false;
  }

  AscendC::GlobalTensor<int32_t> rows_;
  AscendC::GlobalTensor<int32_t> context_lens_;
  uint32_t num_tokens_ = 0;
  uint32_t num_kv_heads_ = 0;
  uint32_t tile_tokens_ = 0;
  uint32_t longest_run_ = 0;
  uint32_t max_run_tokens_ = 0;
  uint32_t window_ = 0;
  uint64_t share_ = 1;
  uint64_t begin_ = 0;
  uint64_t end_ = 0;
  bool has_cut_tasks_ = false;
};

}  // namespace paged_attention
