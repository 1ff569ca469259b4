// Products of tokens with a panel of blocks, by fours of bytes (vpdpbusd): on CPUs with VNNI; of more than two tokens by the
// tiles of AMX, where this process may use them (amx_int8.h). Sums of 32 columns are whole numbers, exact: the two give
// the same bits.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/linear/amx_int8.h"
#include "cpu/linear/linear_input.h"
#include "cpu/linear/panels.h"
#include "cpu/linear/tiles.h"
#include "cpu/linear/token_tiles.h"

namespace paged_ops {

// Up to here vectors are as fast: storing a tile takes the time of some 12 products, whatever is in it.
constexpr int64_t kTokensByVectors = 2;

inline __m512i BroadcastQuad(const int8_t* source) {
  int32_t quad;
  std::memcpy(&quad, source, sizeof quad);
  return _mm512_set1_epi32(quad);
}

// sums[t] = x[t] . panel for the first kTokens tokens of a group.
template <int kTokens, typename Format>
void MultiplyByVectors(const TokenUnit* tokens, const typename Format::Panel* blocks, int64_t num_blocks,
                       float (*sums)[kPanelRows]) {
  constexpr int kGroups = Format::kScalesOfUnit, kQuadsOfGroup = kUnitQuads / kGroups, kUnits = kUnitsOf<Format>;
  constexpr int64_t kUnitBytes = sizeof(typename Format::Panel) / kUnits;
  Vec tile[kTokens] = {};
  for (int64_t b = 0; b < num_blocks; ++b) {
    const typename Format::Scales scales(blocks[b]);
    for (int unit = 0; unit < kUnits; ++unit, ++tokens) {
      PAGED_OPS_UNROLL_TILE
      for (int64_t line = 0; line < kUnitBytes; line += kLineBytes) {
        Fetch(blocks + b, kPrefetchBytes + unit * kUnitBytes + line);
      }
      PAGED_OPS_UNROLL_TILE
      for (int group = 0; group < kGroups; ++group) {
        __m512i quads[kQuadsOfGroup], high[kTokens] = {}, low[kTokens];
        PAGED_OPS_UNROLL_TILE
        for (int i = 0; i < kQuadsOfGroup; ++i) {
          quads[i] = (__m512i)blocks[b].numbers[unit].Quad(group * kQuadsOfGroup + i, 0);
        }
        PAGED_OPS_UNROLL_TILE
        for (int t = 0; t < kTokens; ++t) {
          const int32_t total = kGroups == 1 ? tokens->totals[0][t] + tokens->totals[1][t] : tokens->totals[group][t];
          low[t] = _mm512_set1_epi32(-Format::kOffset * total);
        }
        PAGED_OPS_UNROLL_TILE
        for (int i = 0; i < kQuadsOfGroup; ++i) {
          const int column = (group * kQuadsOfGroup + i) * kQuad;
          PAGED_OPS_UNROLL_TILE
          for (int t = 0; t < kTokens; ++t) {
            high[t] = _mm512_dpbusd_epi32(high[t], quads[i], BroadcastQuad(tokens->high[t] + column));
            low[t] = _mm512_dpbusd_epi32(low[t], quads[i], BroadcastQuad(tokens->low[t] + column));
          }
        }
        const Vec scale = scales.scale(unit, group, 0);
        const float* token_sums = kGroups == 1 ? tokens->sums : tokens->sums_of_halves[group];
        PAGED_OPS_UNROLL_TILE
        for (int t = 0; t < kTokens; ++t) {
          const Vec whole = (Vec)_mm512_cvtepi32_ps(WholeNumbers(high[t], low[t]));
          tile[t] = MulAdd(whole, scale * BroadcastFrom(tokens->scales + t), tile[t]);
          if constexpr (Format::kHasMinimum) {
            tile[t] = MulAdd(scales.minimum(unit, group, 0), BroadcastFrom(token_sums + t), tile[t]);
          }
        }
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) Store(sums[t], tile[t]);
}

// One thread's working memory.
class BlockWorker {
 public:
  // sums[t][n] = x[t] . row n of the panel
  template <typename Format>
  void Multiply(const LinearTokens& tokens, const typename Format::Panel* blocks, Tiles& tiles,
                float (*sums)[kPanelRows]) {
#if defined(PAGED_OPS_AMX)
    if constexpr (Format::kScalesOfUnit == 1) {
      if (tokens.num_tokens > kTokensByVectors && HasTiles()) {
        return by_tiles_.Multiply<Format>(tokens, blocks, tiles, sums);
      }
    }
#endif
    static_cast<void>(tiles);
    for (int64_t token = 0; token < tokens.num_tokens; token += kGroupTokens) {
      const TokenUnit* group = tokens.whole.From(token, tokens.num_columns).units;
      WithTokens<kGroupTokens>(std::min<int64_t>(kGroupTokens, tokens.num_tokens - token), [&](auto count) {
        MultiplyByVectors<count.value, Format>(group, blocks, tokens.num_columns / Format::kColumns, sums + token);
      });
    }
  }

#if defined(PAGED_OPS_AMX)

 private:
  TileWorker by_tiles_;
#endif
};

}  // namespace paged_ops
