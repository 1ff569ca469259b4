// x W^T for 1 to some hundred tokens: what every linear layer of a model computes.
//
// Four rows of W at a time (a panel), a chunk of columns at a time: the chunk is unpacked into the nearest cache if it
// is not made of floats, then every token's products with it are added to vectors of partial sums. Those are the same
// additions in the same order for any number of tokens, threads and chunks, so a token's result is bitwise the same
// whatever else is in the batch.
#pragma once

#include <algorithm>
#include <vector>

#include "threads.h"
#include "weights.h"

namespace paged_ops {

constexpr int kPanel = 4;  // rows of W that share one load of x

// Tokens that share one load of W: with a panel's four rows, as many sums as stay in registers.
#if defined(PAGED_OPS_AVX512)
constexpr int kTileTokens = 6;
#else
constexpr int kTileTokens = 3;
#endif

constexpr int64_t kChunkColumns = 1536;  // a panel's chunk fits in the nearest cache, 24 KB
constexpr int64_t kBlockTokens = 16 * kTileTokens;  // these tokens' chunks of x fit in the next: 295 or 590 KB

// Partial sums of a block of tokens and a panel between two chunks of columns: none before the first chunk, and after
// the last their lanes are summed instead.
struct Carry {
  Vec* sums;  // [T][kPanel]
  bool is_first, is_last;
};

// products[t][n] = x[t] . panel[n], for kTokens tokens and a panel, over `count` columns; if these are not all, sums go
// on from and to `carry`. kAhead: what stands `ahead` weights further on is multiplied next, and fetched meanwhile.
template <int kTokens, bool kAhead, typename T>
void MultiplyTile(const float* x, int64_t x_stride, const T* const panel[kPanel], int64_t count, int64_t ahead,
                  const Carry& carry, float (*products)[kPanel]) {
  Vec partial[kTokens][kPanel];
  PAGED_OPS_UNROLL_TILE
  for (int t = 0; t < kTokens; ++t) {
    PAGED_OPS_UNROLL_TILE
    for (int n = 0; n < kPanel; ++n) partial[t][n] = carry.is_first ? Vec{} : carry.sums[t * kPanel + n];
  }
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Vec tokens[kTokens];
    PAGED_OPS_UNROLL_TILE
    for (int t = 0; t < kTokens; ++t) tokens[t] = InRegister(Load(x + t * x_stride + i));
    PAGED_OPS_UNROLL_TILE
    for (int n = 0; n < kPanel; ++n) {
      const Vec row = InRegister(Load(panel[n] + i));
      if (kAhead) __builtin_prefetch(panel[n] + i + ahead);
      PAGED_OPS_UNROLL_TILE
      for (int t = 0; t < kTokens; ++t) partial[t][n] = MulAdd(tokens[t], row, partial[t][n]);
    }
  }
  if (i < count) {
    PAGED_OPS_UNROLL_TILE
    for (int n = 0; n < kPanel; ++n) {
      const Vec row = LoadPart(panel[n] + i, count - i);
      PAGED_OPS_UNROLL_TILE
      for (int t = 0; t < kTokens; ++t) {
        partial[t][n] = MulAdd(LoadPart(x + t * x_stride + i, count - i), row, partial[t][n]);
      }
    }
  }
  PAGED_OPS_UNROLL_TILE
  for (int t = 0; t < kTokens; ++t) {
    if (carry.is_last) {
      SumLanes(partial[t], products[t]);
    } else {
      PAGED_OPS_UNROLL_TILE
      for (int n = 0; n < kPanel; ++n) carry.sums[t * kPanel + n] = partial[t][n];
    }
  }
}

// products[n] = x . panel[n] for one token and rows of blocks, unpacked in registers on their way: the same additions as
// those of MultiplyTile. Rows are `row_bytes` apart.
template <typename Block>
void MultiplyBlocks(const float* x, const char* rows, int64_t row_bytes, int64_t num_blocks, float products[kPanel]) {
  Vec partial[kPanel] = {};
  for (int64_t b = 0; b < num_blocks; ++b) {
    PAGED_OPS_UNROLL_TILE
    for (int n = 0; n < kPanel; ++n) {
      const Block& block = reinterpret_cast<const Block*>(rows + n * row_bytes)[b];
      PrefetchWeights(&block);
      Vec weights[kBlockVecs];
      UnpackBlock(block, weights);
      PAGED_OPS_UNROLL_TILE
      for (int v = 0; v < kBlockVecs; ++v) {
        partial[n] = MulAdd(Load(x + b * kBlockWeights + v * kLanes), weights[v], partial[n]);
      }
    }
  }
  SumLanes(partial, products);
}

// One thread's working memory.
class PanelWorker {
 public:
  PanelWorker() : unpacked_(kPanel * kChunkColumns), carried_(kBlockTokens * kPanel) {}

  // products[t][n] = x[t] . W[first_row + n], for up to kBlockTokens tokens. Of the last panel, rows that W does not
  // have repeat its last.
  void Multiply(const float* x, int64_t num_tokens, const Weights& weights, int64_t first_row,
                float (*products)[kPanel]) {
    if (num_tokens == 1 && first_row + kPanel <= weights.num_rows && MultiplyOne(x, weights, first_row, products)) {
      return;
    }
    for (int64_t column = 0; column < weights.num_columns; column += kChunkColumns) {
      const int64_t count = std::min(kChunkColumns, weights.num_columns - column);
      const float* panel[kPanel];
      for (int n = 0; n < kPanel; ++n) {
        panel[n] = Floats(weights, std::min(first_row + n, weights.num_rows - 1), column, count, n);
      }
      const bool is_last = column + count == weights.num_columns;
      Tokens<kTileTokens>(x + column, num_tokens, weights, panel, count, {carried_.data(), column == 0, is_last},
                          products);
    }
  }

 private:
  // All tokens, kTokens at a time, and then the rest.
  template <int kTokens>
  static void Tokens(const float* x, int64_t num_tokens, const Weights& weights, const float* const panel[kPanel],
                     int64_t count, Carry carry, float (*products)[kPanel]) {
    const int64_t stride = weights.num_columns;
    int64_t t = 0;
    if (weights.kind == WeightKind::kFloat32 && num_tokens >= kTokens) {  // the first reads memory
      MultiplyTile<kTokens, true>(x, stride, panel, count, kPanel * stride, carry, products);
      t = kTokens;
    }
    const auto from = [&](int64_t token) { return Carry{carry.sums + token * kPanel, carry.is_first, carry.is_last}; };
    for (; t + kTokens <= num_tokens; t += kTokens) {
      MultiplyTile<kTokens, false>(x + t * stride, stride, panel, count, 0, from(t), products + t);
    }
    if constexpr (kTokens > 1) {
      if (t < num_tokens && t > 0) {
        Rest<kTokens - 1>(x + t * stride, num_tokens - t, stride, panel, count, from(t), products + t);
      } else if (t < num_tokens) {
        Tokens<kTokens - 1>(x, num_tokens, weights, panel, count, carry, products);
      }
    }
  }

  template <int kTokens>
  static void Rest(const float* x, int64_t num_tokens, int64_t stride, const float* const panel[kPanel], int64_t count,
                   const Carry& carry, float (*products)[kPanel]) {
    if constexpr (kTokens > 0) {
      if (num_tokens == kTokens) return MultiplyTile<kTokens, false>(x, stride, panel, count, 0, carry, products);
      Rest<kTokens - 1>(x, num_tokens, stride, panel, count, carry, products);
    }
  }

  // One token's products with weights that are unpacked on their way: true if W is of those.
  static bool MultiplyOne(const float* x, const Weights& weights, int64_t row, float (*products)[kPanel]) {
    const char* rows = weights.row<char>(row);
    const int64_t num_blocks = weights.num_columns / kBlockWeights;
    switch (weights.kind) {
      case WeightKind::kQ4_0: MultiplyBlocks<Q4_0>(x, rows, weights.row_bytes, num_blocks, products[0]); return true;
      case WeightKind::kQ4_1: MultiplyBlocks<Q4_1>(x, rows, weights.row_bytes, num_blocks, products[0]); return true;
      case WeightKind::kQ8_0: MultiplyBlocks<Q8_0>(x, rows, weights.row_bytes, num_blocks, products[0]); return true;
      case WeightKind::kBFloat16: MultiplyNarrow<BFloat16>(x, weights, row, products); return true;
      case WeightKind::kFloat16: MultiplyNarrow<Half>(x, weights, row, products); return true;
      default: return false;
    }
  }

  template <typename T>
  static void MultiplyNarrow(const float* x, const Weights& weights, int64_t row, float (*products)[kPanel]) {
    const T* panel[kPanel];
    for (int n = 0; n < kPanel; ++n) panel[n] = weights.row<T>(row + n);
    const int64_t columns = weights.num_columns;
    MultiplyTile<1, true>(x, columns, panel, columns, kPanel * columns, {nullptr, true, true}, products);
  }

  const float* Floats(const Weights& weights, int64_t row, int64_t column, int64_t count, int n) {
    if (weights.kind == WeightKind::kFloat32) return weights.row<float>(row) + column;
    float* target = &unpacked_[n * kChunkColumns];
    Unpack(weights, row, column, count, target);
    return target;
  }

  std::vector<float> unpacked_;
  std::vector<Vec> carried_;
};

// A weight whose products with x go to consume(first_token, num_tokens, first_row, num_rows, products).
template <typename Consume>
struct Product {
  Weights weights;
  Consume consume;

  int64_t num_panels() const { return (weights.num_rows + kPanel - 1) / kPanel; }

  void Run(PanelWorker& worker, const float* x, int64_t token, int64_t count, int64_t panel) const {
    float products[kBlockTokens][kPanel];
    const int64_t row = panel * kPanel;
    worker.Multiply(x + token * weights.num_columns, count, weights, row, products);
    consume(token, count, row, std::min<int64_t>(kPanel, weights.num_rows - row), products);
  }
};

template <typename Consume>
Product(Weights, Consume) -> Product<Consume>;

// The calling thread's working memory, kept from call to call.
inline PanelWorker& ThisThreadsWorker() {
  thread_local PanelWorker worker;
  return worker;
}

constexpr int64_t kChunksOfThread = 8;  // enough for a thread that is slower, or late, to be helped out
constexpr int64_t kParallelProducts = 128 * 1024;  // that are worth waking the other threads for: tens of microseconds

// Products of the same x [num_tokens, columns], all panels of all weights shared among the threads.
template <typename... Consume>
void Multiply(const float* x, int64_t num_tokens, const Product<Consume>&... products) {
  const int64_t num_panels = (products.num_panels() + ...);
  const int64_t num_blocks = (num_tokens + kBlockTokens - 1) / kBlockTokens;
  Threads& threads = Threads::Get();
  const int64_t wanted = std::max<int64_t>(1, kChunksOfThread * threads.size() / std::max<int64_t>(1, num_blocks));
  const int64_t panels_of_chunk = std::max<int64_t>(1, num_panels / wanted);
  const int64_t chunks_of_block = (num_panels + panels_of_chunk - 1) / panels_of_chunk;
  const bool alone = num_tokens * ((products.weights.num_rows * products.weights.num_columns) + ...) < kParallelProducts;
  threads.For(num_blocks * chunks_of_block, alone, [&](int64_t chunk, int) {
    PanelWorker& worker = ThisThreadsWorker();
    const int64_t token = chunk / chunks_of_block * kBlockTokens;
    const int64_t count = std::min(kBlockTokens, num_tokens - token);
    const int64_t first = chunk % chunks_of_block * panels_of_chunk;
    for (int64_t p = first; p < std::min(num_panels, first + panels_of_chunk); ++p) {
      int64_t panel = p;  // of the product that has it
      const auto run = [&](const auto& product) {
        const bool has = panel >= 0 && panel < product.num_panels();
        if (has) product.Run(worker, x, token, count, panel);
        panel = has ? -1 : panel - product.num_panels();
      };
      (run(products), ...);
    }
  });
}

}  // namespace paged_ops
