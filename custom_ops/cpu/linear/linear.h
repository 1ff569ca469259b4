// x W^T, plus a bias and what adapters add where there are any, for 1 to some hundred tokens: what every linear layer of a model computes.
//
// W stands in panels of 16 rows (panels.h). A sum belongs to one token and row, and takes its products in the same order
// for any number of tokens, threads and chunks. So a token's result is bitwise the same whatever else is in the batch.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>

#include "cpu/linear/panel_worker.h"
#include "cpu/runtime/threads.h"

namespace paged_ops {

// Adds a panel's biases to its sums.
inline void AddBias(const Panel& panel, int64_t num_tokens, Sums sums) {
  alignas(kLineBytes) float biases[kPanelRows] = {};
  std::memcpy(biases, panel.weights.bias + panel.index * kPanelRows, panel.num_rows() * sizeof(float));
  for (int64_t t = 0; t < num_tokens; ++t) {
    PAGED_OPS_UNROLL_TILE
    for (int n = 0; n < kPanelRows; n += kLanes) Store(sums[t] + n, Load(sums[t] + n) + Load(biases + n));
  }
}

// What is added to a panel's sums, of tokens from `token` on.
inline void AddToSums(const Panel& panel, int64_t token, int64_t num_tokens, Sums sums) {
  if (panel.weights.bias != nullptr) AddBias(panel, num_tokens, sums);
  if (!panel.weights.low_rank.is_absent()) AddUp(panel.weights.low_rank, panel.index, token, num_tokens, sums);
}

// A weight whose products with x, plus what is added to them, go to
// consume(first_token, num_tokens, first_row, num_rows, products [tokens][16]).
template <typename Consume>
struct Product {
  Weights weights;
  Consume consume;

  int64_t num_panels() const { return weights.num_panels(); }
  int64_t products(int64_t num_tokens) const { return weights.products(num_tokens); }
  const char* panel(int64_t index) const { return weights.panel(index); }

  // One panel, or two if there may be so many; returns how many it was.
  int64_t Run(PanelWorker& worker, const LinearTokens& tokens, int64_t token, int64_t panel, int64_t most) const {
    alignas(kLineBytes) float products[kPanelsTogether][kBlockTokens][kPanelRows];
    if (most == 1) {
      worker.Multiply(tokens, {weights, panel}, products[0]);
    } else {
      worker.Multiply(tokens, {weights, panel}, products[0], {weights, panel + 1}, products[1]);
    }
    const int64_t done = std::min<int64_t>(most, kPanelsTogether);
    for (int64_t i = 0; i < done; ++i) {
      AddToSums({weights, panel + i}, token, tokens.num_tokens, products[i]);
      consume(token, tokens.num_tokens, (panel + i) * kPanelRows, weights.rows_of(panel + i), products[i]);
    }
    return done;
  }
};

template <typename Consume>
Product(Weights, Consume) -> Product<Consume>;

// Two weights of one shape, whose products go together to consume(…, num_rows, of the first, of the second).
template <typename Consume>
struct ProductOfTwo {
  Weights first, second;
  Consume consume;

  int64_t num_panels() const { return first.num_panels(); }
  int64_t products(int64_t num_tokens) const { return 2 * first.products(num_tokens); }
  const char* panel(int64_t index) const { return first.panel(index); }

  int64_t Run(PanelWorker& worker, const LinearTokens& tokens, int64_t token, int64_t panel, int64_t /*most*/) const {
    alignas(kLineBytes) float products[2][kBlockTokens][kPanelRows];
    worker.Multiply(tokens, {first, panel}, products[0], {second, panel}, products[1]);
    AddToSums({first, panel}, token, tokens.num_tokens, products[0]);
    AddToSums({second, panel}, token, tokens.num_tokens, products[1]);
    consume(token, tokens.num_tokens, panel * kPanelRows, first.rows_of(panel), products[0], products[1]);
    return 1;
  }
};

template <typename Consume>
ProductOfTwo(Weights, Weights, Consume) -> ProductOfTwo<Consume>;

// The calling thread's working memory, kept from call to call.
inline PanelWorker& ThisThreadsWorker() {
  thread_local PanelWorker worker;
  return worker;
}

constexpr int64_t kChunksOfThread = 8;  // enough for a thread that is slower, or late, to be helped out
constexpr int64_t kParallelProducts = 128 * 1024;  // that are worth waking the other threads for: tens of microseconds

// Chunks that stand together, and are taken in order by one thread, until others have nothing to do but help.
struct alignas(kLineBytes) ChunkRange {
  std::atomic<int64_t> next;
  int64_t end;
};

// body(chunk) for each of `count`. A thread goes on where it was: it reads weights straight on, and of many tokens it
// keeps those that it has made ready.
template <typename Body>
void ForChunksInOrder(int64_t count, bool alone, Body&& body) {
  constexpr int64_t kMostRanges = 64;
  Threads& threads = Threads::Get();
  const int64_t num_ranges = std::min<int64_t>({threads.size(), count, kMostRanges});
  ChunkRange ranges[kMostRanges];
  for (int64_t r = 0; r < num_ranges; ++r) {
    ranges[r].next.store(count * r / num_ranges, std::memory_order_relaxed);
    ranges[r].end = count * (r + 1) / num_ranges;
  }
  threads.For(num_ranges, alone, [&](int64_t own, int) {
    for (int64_t r = 0; r < num_ranges; ++r) {
      ChunkRange& range = ranges[(own + r) % num_ranges];
      for (int64_t chunk; (chunk = range.next.fetch_add(1, std::memory_order_relaxed)) < range.end;) body(chunk);
    }
  });
}

inline std::atomic<uint64_t> linear_calls{0};

// Where the panel of this number begins, if those of all the products are counted on.
template <typename... AnyProduct>
const char* PanelOf(int64_t number, const AnyProduct&... products) {
  const char* panel = nullptr;
  const auto look = [&](const auto& product) {
    if (number >= 0 && number < product.num_panels()) panel = product.panel(number);
    number -= product.num_panels();
  };
  (look(products), ...);
  return panel;
}

// Products of the same tokens, all panels of all weights shared among the threads.
template <typename... AnyProduct>
void Multiply(const LinearInput& input, const AnyProduct&... products) {
  const uint64_t call = linear_calls.fetch_add(1, std::memory_order_relaxed) + 1;
  const int64_t num_tokens = input.num_tokens;
  const int64_t num_panels = (products.num_panels() + ...);
  const int64_t num_blocks = (num_tokens + kBlockTokens - 1) / kBlockTokens;
  const int64_t wanted = kChunksOfThread * Threads::Get().size();  // chunks, of each block of tokens
  const int64_t panels_of_chunk = (num_panels / wanted + kPanelsTogether) / kPanelsTogether * kPanelsTogether;
  const int64_t chunks_of_block = (num_panels + panels_of_chunk - 1) / panels_of_chunk;
  const bool alone = (products.products(num_tokens) + ...) < kParallelProducts;
  ForChunksInOrder(num_blocks * chunks_of_block, alone, [&](int64_t chunk) {
    PanelWorker& worker = ThisThreadsWorker();
    const int64_t token = chunk / chunks_of_block * kBlockTokens, count = std::min(kBlockTokens, num_tokens - token);
    const int64_t first = chunk % chunks_of_block * panels_of_chunk, end = std::min(num_panels, first + panels_of_chunk);
    const LinearTokens& tokens = worker.Take(call, input, token, count, PanelOf(first, products...));
    for (int64_t p = first; p < end;) {
      int64_t panel = p, done = 0;  // its number within the product that has it
      const auto run = [&](const auto& product) {
        const int64_t left = product.num_panels() - panel;
        if (done == 0 && left > 0) done = product.Run(worker, tokens, token, panel, std::min(end - p, left));
        panel -= product.num_panels();
      };
      (run(products), ...);
      p += done;
    }
    worker.Release();
  });
}

}  // namespace paged_ops
