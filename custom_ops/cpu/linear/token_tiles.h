// Tiles of tokens that share a load of weights, their sums in registers.
#pragma once

#include <type_traits>

#include "cpu/linear/weights.h"

namespace paged_ops {

// Tokens that share one load of weights: as many as have room in the registers for their sums.
#if defined(PAGED_OPS_AVX512)
constexpr int kTileTokens = 8;
#elif defined(PAGED_OPS_AVX2) || defined(__aarch64__)
constexpr int kTileTokens = 6;
#else
constexpr int kTileTokens = 2;
#endif

constexpr int64_t kPrefetchBytes = 8192;  // weights are fetched by this much before their use by one tile alone
constexpr int64_t kLineBytes = 64;

// The cache line `bytes` behind `weights`, not into the nearest cache: a core has many more lines on their way to the
// second one, and reads memory by a sixth faster.
inline void Fetch(const void* weights, int64_t bytes) {
  __builtin_prefetch(static_cast<const char*>(weights) + bytes, 0, 2);
}

inline Vec BroadcastFrom(const float* source) {
#if defined(PAGED_OPS_AVX512)
  return (Vec)_mm512_set1_ps(*source);
#elif defined(PAGED_OPS_AVX2)
  return (Vec)_mm256_broadcast_ss(source);
#else
  return Broadcast(*source);
#endif
}

template <int kTokens>
void LoadSums(const float (*sums)[kPanelRows], bool is_first, Vec tile[kTokens][kRowVecs]) {
  PAGED_OPS_UNROLL_TILE
  for (int t = 0; t < kTokens; ++t) {
    PAGED_OPS_UNROLL_TILE
    for (int v = 0; v < kRowVecs; ++v) tile[t][v] = is_first ? Vec{} : Load(sums[t] + v * kLanes);
  }
}

template <int kTokens>
void StoreSums(const Vec tile[kTokens][kRowVecs], float (*sums)[kPanelRows]) {
  PAGED_OPS_UNROLL_TILE
  for (int t = 0; t < kTokens; ++t) {
    PAGED_OPS_UNROLL_TILE
    for (int v = 0; v < kRowVecs; ++v) Store(sums[t] + v * kLanes, tile[t][v]);
  }
}

// Calls body with `count`, 1 to kMost, as a constant.
template <int kMost, typename Body>
void WithTokens(int64_t count, Body&& body) {
  if constexpr (kMost > 1) {
    if (count < kMost) return WithTokens<kMost - 1>(count, body);
  }
  body(std::integral_constant<int, kMost>{});
}

// Calls body(first token, number of tokens as a constant, tile, num_tiles) for tiles of nearly the same size: one of
// few tokens would be slow, because each sum waits for the one before.
template <int kMost, typename Body>
void InTiles(int64_t num_tokens, Body&& body) {
  if (num_tokens <= kMost) return WithTokens<kMost>(num_tokens, [&](auto tokens) { body(0, tokens, 0, 1); });
  const int64_t num_tiles = (num_tokens + kMost - 1) / kMost;
  for (int64_t tile = 0, token = 0; tile < num_tiles; ++tile) {
    const int64_t count = num_tokens / num_tiles + (tile < num_tokens % num_tiles);
    WithTokens<kMost>(count, [&](auto tokens) { body(token, tokens, tile, num_tiles); });
    token += count;
  }
}

// Calls body(how many lines each of num_passes passes fetches, so that they fetch kLines, as a constant).
template <int kLines, typename Body>
void WithLinesOfPass(int64_t num_passes, Body&& body) {
  if constexpr (kLines > 1) {
    if (num_passes > 1) return WithLinesOfPass<(kLines + 1) / 2>((num_passes + 1) / 2, body);
  }
  body(std::integral_constant<int, kLines>());
}

}  // namespace paged_ops
