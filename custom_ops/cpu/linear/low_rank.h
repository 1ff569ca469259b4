// What an adapter adds to a product with x: B (A x), of the tokens that have one. Source: Hu et al. 2021, "LoRA".
//
// A token's sums take A's and B's products in the same order whoever else is in the batch, as those of W are taken.
#pragma once

#include <algorithm>

#include "cpu/runtime/simd.h"
#include "cpu/runtime/threads.h"

namespace paged_ops {

constexpr int64_t kRanksTogether = 4;

// The adapters of one weight. They lie apart by `stride` floats; those of a lower rank than `rank` have zeros.
struct LowRank {
  const int32_t* adapters = nullptr;  // [T], the number of each token's, -1 = none; null: no token has one
  const float* down = nullptr;        // A of the first, [rank, columns]
  const float* up = nullptr;          // B of the first, in panels of 16 rows: [panels, rank, 16]
  int64_t stride = 0;
  int64_t rank = 0;        // a multiple of kRanksTogether
  float* inner = nullptr;  // [T, rank], A x: working memory

  bool is_absent() const { return adapters == nullptr; }
};

// [rank] of A x, of one token.
inline void MultiplyDown(const float* down, const float* x, int64_t rank, int64_t columns, float* inner) {
  for (int64_t r = 0; r < rank; r += kRanksTogether) {
    Vec sums[kRanksTogether] = {};
    int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) {
      const Vec part = Load(x + c);
      for (int64_t i = 0; i < kRanksTogether; ++i) {
        sums[i] = MulAdd(part, Load(down + (r + i) * columns + c), sums[i]);
      }
    }
    if (c < columns) {
      const Vec part = LoadPart(x + c, columns - c);
      for (int64_t i = 0; i < kRanksTogether; ++i) {
        sums[i] = MulAdd(part, LoadPart(down + (r + i) * columns + c, columns - c), sums[i]);
      }
    }
    SumLanes(sums, inner + r);
  }
}

// A x of all tokens that have an adapter, for weights that are multiplied with the same x [T, columns]; before that.
template <typename... OneOfWeights>
void ApplyDown(const float* x, int64_t num_tokens, const OneOfWeights&... weights) {
  constexpr int64_t kAloneProducts = 128 * 1024;  // as of Multiply
  int64_t products = 0;
  ((products += weights.low_rank.is_absent() ? 0 : num_tokens * weights.low_rank.rank * weights.num_columns), ...);
  if (products == 0) return;
  constexpr int64_t kNumWeights = sizeof...(weights);
  Threads::Get().For(num_tokens * kNumWeights, products < kAloneProducts, [&](int64_t chunk, int) {
    const int64_t token = chunk / kNumWeights;
    int64_t number = chunk % kNumWeights;
    const auto apply = [&](const auto& of) {
      const LowRank& low = of.low_rank;
      if (number-- != 0 || low.is_absent() || low.adapters[token] < 0) return;
      MultiplyDown(low.down + low.adapters[token] * low.stride, x + token * of.num_columns, low.rank, of.num_columns,
                   low.inner + token * low.rank);
    };
    (apply(weights), ...);
  });
}

// Adds B (A x) to a panel's sums of num_tokens tokens from `token` on.
template <int kRows>
void AddUp(const LowRank& low, int64_t panel, int64_t token, int64_t num_tokens, float (*sums)[kRows]) {
  for (int64_t t = 0; t < num_tokens; ++t) {
    const int64_t adapter = low.adapters[token + t];
    if (adapter < 0) continue;
    const float* up = low.up + adapter * low.stride + panel * low.rank * kRows;
    const float* inner = low.inner + (token + t) * low.rank;
    for (int n = 0; n < kRows; n += kLanes) {
      Vec sum = Load(sums[t] + n);
      for (int64_t r = 0; r < low.rank; ++r) sum = MulAdd(Broadcast(inner[r]), Load(up + r * kRows + n), sum);
      Store(sums[t] + n, sum);
    }
  }
}

}  // namespace paged_ops
