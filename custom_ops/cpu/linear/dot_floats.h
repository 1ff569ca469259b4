// Products of tokens with a panel of floats, of floats or of bfloat16.
//
// A tile of tokens takes a chunk of columns from one end to the other; each sum takes its products in the order of the
// columns.
#pragma once

#include <algorithm>

#include "cpu/linear/linear_input.h"
#include "cpu/linear/panels.h"
#include "cpu/linear/token_tiles.h"

namespace paged_ops {

// A chunk of columns is read by many tiles and stays in the nearest cache. Of few tokens it is short, because memory is
// what they wait for, and their tiles fetch one chunk while they take the one before.
constexpr int64_t kChunkColumns = 192, kShortChunkColumns = kRowVecs == 1 ? 48 : 96;
constexpr int64_t kShortChunkTokens = 32;

// Panels whose sums, of a tile of tokens, have room in the registers together: then loads of tokens are no limit.
constexpr int kPanelsOfTile = kRowVecs == 1 ? 2 : 1;

// What weights are fetched while a tile of several tokens is multiplied: from `bytes` behind the panel on, a line every
// so many loads, so that the tiles of a chunk fetch the next one together, each its share.
struct Ahead {
  int64_t bytes;
  int64_t loads;
};

// One load of weights widened to floats, and a column of a token at a time.
template <typename T>
struct FloatProducts {
  using Token = float;
  static constexpr int kColumns = kColumnsOfLoad<T>, kSteps = kColumns;

  static void Weights(const T* source, Vec weights[kSteps][kRowVecs]) { LoadColumns(source, weights); }
  static Vec Numbers(const float* token) { return BroadcastFrom(token); }
  static Vec Add(Vec token, Vec weights, Vec sum) { return MulAdd(token, weights, sum); }
};

#if defined(PAGED_OPS_AVX512_BF16)

// A load of two columns as it is, and both of a token. A product is exact; a sum takes the one of the second column,
// then that of the first. Source: VDPBF16PS in Intel's Software Developer's Manual.
struct BFloat16Products {
  using Token = BFloat16Pair;
  static constexpr int kColumns = 2, kSteps = 1;

  static void Weights(const BFloat16Pair* source, Vec weights[1][1]) {
    weights[0][0] = InRegister((Vec)_mm512_loadu_si512(source));
  }
  static Vec Numbers(const BFloat16Pair* token) {
    int32_t both;
    std::memcpy(&both, token, sizeof both);
    return (Vec)_mm512_set1_epi32(both);
  }
  static Vec Add(Vec token, Vec weights, Vec sum) {
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)token, (__m512bh)weights);
  }
};

#endif

// sums[panel][t] += x[t] . panel, for num_loads loads of weights; x's tokens are `stride` numbers, or pairs, apart.
template <int kTokens, int kPanels, typename Products, typename T>
void MultiplyTile(const typename Products::Token* x, int64_t stride, const T* const panels[kPanels], int64_t num_loads,
                  bool is_first, Ahead ahead, float (*const sums[kPanels])[kPanelRows]) {
  constexpr int kSteps = Products::kSteps;
  Vec tile[kPanels][kTokens][kRowVecs];
  PAGED_OPS_UNROLL_TILE
  for (int p = 0; p < kPanels; ++p) LoadSums<kTokens>(sums[p], is_first, tile[p]);
  const T *first_panel = panels[0], *last_panel = panels[kPanels - 1];
  const auto panel_of = [=](int p) { return p == 0 ? first_panel : last_panel; };
  const auto multiply = [&](int64_t load) {
    Vec weights[kPanels][kSteps][kRowVecs];
    PAGED_OPS_UNROLL_TILE
    for (int p = 0; p < kPanels; ++p) Products::Weights(panel_of(p) + load * kPanelRows, weights[p]);
    PAGED_OPS_UNROLL_TILE
    for (int s = 0; s < kSteps; ++s) {
      PAGED_OPS_UNROLL_TILE
      for (int t = 0; t < kTokens; ++t) {
        const Vec token = InRegister(Products::Numbers(x + t * stride + load * kSteps + s));
        PAGED_OPS_UNROLL_TILE
        for (int p = 0; p < kPanels; ++p) {
          PAGED_OPS_UNROLL_TILE
          for (int v = 0; v < kRowVecs; ++v) {
            tile[p][t][v] = Products::Add(token, weights[p][s][v], tile[p][t][v]);
          }
        }
      }
    }
  };
  const auto fetch = [&](int64_t load, int64_t bytes) {
    PAGED_OPS_UNROLL_TILE
    for (int p = 0; p < kPanels; ++p) Fetch(panel_of(p) + load * kPanelRows, bytes);
  };
  if constexpr (kTokens == 1) {
    for (int64_t load = 0; load < num_loads; ++load) {
      fetch(load, kPrefetchBytes);
      multiply(load);
    }
  } else {
    for (int64_t first = 0; first < num_loads; first += ahead.loads) {
      fetch(first, ahead.bytes);
      for (int64_t load = first; load < std::min(num_loads, first + ahead.loads); ++load) multiply(load);
    }
  }
  PAGED_OPS_UNROLL_TILE
  for (int p = 0; p < kPanels; ++p) StoreSums<kTokens>(tile[p], sums[p]);
}

// sums[panel][t][n] = x[t] . row n of the panel; x: the tokens' numbers, or pairs.
template <int kPanels, typename Products, typename T>
void MultiplyBy(const LinearTokens& tokens, const typename Products::Token* x, const T* const panels[kPanels],
                float (*const sums[kPanels])[kPanelRows]) {
  constexpr int64_t kColumns = Products::kColumns, kColumnsOfNumber = kColumns / Products::kSteps;
  const int64_t columns = tokens.num_columns;
  const bool is_one_tile = tokens.num_tokens <= kTileTokens, is_short = tokens.num_tokens <= kShortChunkTokens;
  const int64_t chunk = is_one_tile ? columns : is_short ? kShortChunkColumns : kChunkColumns;
  const int64_t chunk_bytes = chunk / kColumns * kPanelRows * sizeof(T);
  const int64_t ahead_bytes = is_one_tile ? kPrefetchBytes : chunk_bytes;
  constexpr int64_t kLoadsOfLine = std::max<int64_t>(1, kLineBytes / (kPanelRows * sizeof(T)));
  for (int64_t first = 0; first < columns; first += chunk) {
    InTiles<kTileTokens>(tokens.num_tokens, [&](int64_t token, auto count, int64_t tile, int64_t num_tiles) {
      const T* of_chunk[kPanels];
      float(*of_tile[kPanels])[kPanelRows];
      for (int p = 0; p < kPanels; ++p) {
        of_chunk[p] = panels[p] + first / kColumns * kPanelRows;
        of_tile[p] = sums[p] + token;
      }
      MultiplyTile<count.value, kPanels, Products>(
          x + (token * columns + first) / kColumnsOfNumber, columns / kColumnsOfNumber, of_chunk,
          std::min(chunk, columns - first) / kColumns, first == 0,
          {ahead_bytes + tile * kLineBytes, num_tiles * kLoadsOfLine}, of_tile);
    });
  }
}

template <int kPanels, typename T>
void MultiplyFloats(const LinearTokens& tokens, const T* const panels[kPanels],
                    float (*const sums[kPanels])[kPanelRows]) {
  MultiplyBy<kPanels, FloatProducts<T>>(tokens, tokens.floats, panels, sums);
}

}  // namespace paged_ops
