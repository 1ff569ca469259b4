// Products of tokens with a panel of floats.
//
// A tile of tokens takes a chunk of columns from one end to the other; each sum takes its products in the order of the
// columns.
#pragma once

#include <algorithm>

#include "linear_input.h"
#include "panels.h"
#include "token_tiles.h"

namespace paged_ops {

// A chunk of columns is read by many tiles and stays in the nearest cache. Of few tokens it is short, because memory is
// what they wait for, and their tiles fetch one chunk while they take the one before.
constexpr int64_t kChunkColumns = 192, kShortChunkColumns = 96;
constexpr int64_t kShortChunkTokens = 32;

// What weights are fetched while a tile of several tokens is multiplied: a line every so many columns, so that the
// tiles of a chunk fetch the next one together, each its share.
struct Ahead {
  const char* lines;
  int64_t columns;
};

// sums[t] += x[t] . panel, for `columns` columns of floats; x's tokens are `stride` apart.
template <int kTokens, typename T>
void MultiplyTile(const float* x, int64_t stride, const T* panel, int64_t columns, bool is_first, Ahead ahead,
                  float (*sums)[kPanelRows]) {
  Vec tile[kTokens][kRowVecs];
  LoadSums<kTokens>(sums, is_first, tile);
  const auto multiply = [&](int64_t k) {
    Vec weights[kRowVecs];
    LoadColumn(panel + k * kPanelRows, weights);
    PAGED_OPS_UNROLL_TILE
    for (int t = 0; t < kTokens; ++t) {
      const Vec token = InRegister(BroadcastFrom(x + t * stride + k));
      PAGED_OPS_UNROLL_TILE
      for (int v = 0; v < kRowVecs; ++v) tile[t][v] = MulAdd(token, weights[v], tile[t][v]);
    }
  };
  if constexpr (kTokens == 1) {
    for (int64_t k = 0; k < columns; ++k) {
      __builtin_prefetch(reinterpret_cast<const char*>(panel + k * kPanelRows) + kPrefetchBytes);
      multiply(k);
    }
  } else {
    for (int64_t first = 0; first < columns; first += ahead.columns) {
      __builtin_prefetch(ahead.lines + first * kPanelRows * sizeof(T), 0, 2);  // not into the nearest cache
      for (int64_t k = first; k < std::min(columns, first + ahead.columns); ++k) multiply(k);
    }
  }
  StoreSums<kTokens>(tile, sums);
}

// sums[t][n] = x[t] . panel row n
template <typename T>
void MultiplyFloats(const LinearTokens& tokens, const T* panel, float (*sums)[kPanelRows]) {
  const int64_t columns = tokens.num_columns;
  const bool is_one_tile = tokens.num_tokens <= kTileTokens, is_short = tokens.num_tokens <= kShortChunkTokens;
  const int64_t chunk = is_one_tile ? columns : is_short ? kShortChunkColumns : kChunkColumns;
  const int64_t ahead_bytes = is_one_tile ? kPrefetchBytes : chunk * kPanelRows * sizeof(T);
  constexpr int64_t kColumnsOfLine = std::max<int64_t>(1, kLineBytes / (kPanelRows * sizeof(T)));
  for (int64_t first = 0; first < columns; first += chunk) {
    const T* weights = panel + first * kPanelRows;
    const char* ahead = reinterpret_cast<const char*>(weights) + ahead_bytes;
    InTiles<kTileTokens>(tokens.num_tokens, [&](int64_t token, auto count, int64_t tile, int64_t num_tiles) {
      MultiplyTile<count.value>(tokens.floats + token * columns + first, columns, weights,
                                std::min(chunk, columns - first), first == 0,
                                {ahead + tile * kLineBytes, num_tiles * kColumnsOfLine}, sums + token);
    });
  }
}

}  // namespace paged_ops
