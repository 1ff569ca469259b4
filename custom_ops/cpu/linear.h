// x W^T for 1 to some hundred tokens: what every linear layer of a model computes.
//
// W stands in panels of 16 rows (panels.h). A sum belongs to one token and row, and takes its products in the same order
// for any number of tokens, threads and chunks. So a token's result is bitwise the same whatever else is in the batch.
// Blocks are multiplied as whole numbers with the whole numbers of the tokens, 32 columns exactly, and then scaled.
#pragma once

#include <algorithm>

#include "linear_floats.h"
#if defined(PAGED_OPS_VNNI)
#include "linear_quads.h"
#else
#include "linear_pairs.h"
#endif
#include "threads.h"

namespace paged_ops {

constexpr int64_t kBlockTokens = 96;  // that share a panel's weights while these are unpacked, and 6 KB of sums
static_assert(kBlockTokens % 8 == 0);  // whole groups of TokenNumbers

// One thread's working memory.
class PanelWorker {
 public:
  // sums[t][n] = x[t] . W[16 panel + n], for up to kBlockTokens tokens; zeros for rows that W does not have.
  void Multiply(const LinearInput& tokens, const Weights& weights, int64_t panel, float (*sums)[kPanelRows]) {
    const char* data = arranged_.Of(weights, panel);
    WithKind(weights.kind, [&](auto of) {
      using T = decltype(of);
      if constexpr (kIsBlock<T>) {
        blocks_.Multiply(tokens, reinterpret_cast<const typename PanelBlock<T>::Type*>(data), tiles_, sums);
      } else {
        MultiplyFloats(tokens, reinterpret_cast<const T*>(data), sums);
      }
    });
  }

  // After the last of some panels.
  void Release() { tiles_.Release(); }

 private:
  ArrangedPanel arranged_;
  BlockWorker blocks_;
  Tiles tiles_;
};

// A weight whose products with x go to consume(first_token, num_tokens, first_row, num_rows, products [tokens][16]).
template <typename Consume>
struct Product {
  Weights weights;
  Consume consume;

  void Run(PanelWorker& worker, const LinearInput& tokens, int64_t token, int64_t count, int64_t panel) const {
    alignas(kLineBytes) float products[kBlockTokens][kPanelRows];
    worker.Multiply(tokens.Part(token, count), weights, panel, products);
    consume(token, count, panel * kPanelRows, weights.rows_of(panel), products);
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

// Products of the same tokens, all panels of all weights shared among the threads.
template <typename... Consume>
void Multiply(const LinearInput& tokens, const Product<Consume>&... products) {
  const int64_t num_tokens = tokens.num_tokens;
  const int64_t num_panels = (products.weights.num_panels() + ...);
  const int64_t num_blocks = (num_tokens + kBlockTokens - 1) / kBlockTokens;
  Threads& threads = Threads::Get();
  const int64_t wanted = std::max<int64_t>(1, kChunksOfThread * threads.size() / std::max<int64_t>(1, num_blocks));
  const int64_t panels_of_chunk = std::max<int64_t>(1, num_panels / wanted);
  const int64_t chunks_of_block = (num_panels + panels_of_chunk - 1) / panels_of_chunk;
  const bool alone = (products.weights.products(num_tokens) + ...) < kParallelProducts;
  threads.For(num_blocks * chunks_of_block, alone, [&](int64_t chunk, int) {
    PanelWorker& worker = ThisThreadsWorker();
    const int64_t token = chunk / chunks_of_block * kBlockTokens;
    const int64_t count = std::min(kBlockTokens, num_tokens - token);
    const int64_t first = chunk % chunks_of_block * panels_of_chunk;
    for (int64_t p = first; p < std::min(num_panels, first + panels_of_chunk); ++p) {
      int64_t panel = p;  // of the product that has it
      const auto run = [&](const auto& product) {
        const bool has = panel >= 0 && panel < product.weights.num_panels();
        if (has) product.Run(worker, tokens, token, count, panel);
        panel = has ? -1 : panel - product.weights.num_panels();
      };
      (run(products), ...);
    }
    worker.Release();
  });
}

}  // namespace paged_ops
