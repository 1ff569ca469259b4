// Products of tokens with a panel of blocks by the tiles of AMX, of signed bytes: exact sums of 32 columns, then scaled.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/linear/linear_input.h"
#include "cpu/linear/panels.h"
#include "cpu/linear/tiles.h"
#include "cpu/linear/token_tiles.h"

namespace paged_ops {

inline __m512i WholeNumbers(__m512i high, __m512i low) { return _mm512_add_epi32(_mm512_slli_epi32(high, 8), low); }

#if defined(PAGED_OPS_AMX)

// sums[t] = x[t] . panel for the tokens of kGroups groups, of which there are `count`; groups are num_units apart.
// numbers_of(u): 32 columns of the panel, signed bytes [8 quads][16 rows][4]; scales_of(u): their scales and minimums. While
// a unit's sums are scaled, the tiles of the next one are multiplied, and kLines lines from `ahead` on are fetched.
template <int kGroups, int kLines, bool kHasMinimum, typename NumbersOf, typename ScalesOf>
void MultiplyByTiles(const TokenUnit* tokens, NumbersOf&& numbers_of, ScalesOf&& scales_of, int64_t num_units,
                     const char* ahead, int64_t count, float (*sums)[kPanelRows]) {
  struct alignas(kTileRowBytes) TileOfSums {
    int32_t high[kGroupTokens][kPanelRows], low[kGroupTokens][kPanelRows];
  };
  TileOfSums products[2][kGroups];
  const auto multiply = [&](int64_t u) {
    LoadTile<6>(numbers_of(u), kTileRowBytes);
    ZeroTile<0>();
    LoadTile<4>(&tokens[u], kUnitColumns);
    AddTileOfBytes<0, 4, 6>();
    StoreTile<0>(&products[u % 2][0]);
    if constexpr (kGroups == 2) {
      ZeroTile<1>();
      LoadTile<5>(&tokens[num_units + u], kUnitColumns);
      AddTileOfBytes<1, 5, 6>();
      StoreTile<1>(&products[u % 2][1]);
    }
  };
  Vec tile[kGroups][kGroupTokens] = {};
  multiply(0);
  for (int64_t u = 0; u < num_units; ++u) {
    if (u + 1 < num_units) multiply(u + 1);
    PAGED_OPS_UNROLL_TILE
    for (int line = 0; line < kLines; ++line) Fetch(ahead, (u * kLines + line) * kLineBytes);
    const auto [scales, minimums] = scales_of(u);
    PAGED_OPS_UNROLL_TILE
    for (int g = 0; g < kGroups; ++g) {
      const TileOfSums& whole = products[u % 2][g];
      const TokenUnit& of_tokens = tokens[g * num_units + u];
      PAGED_OPS_UNROLL_TILE
      for (int t = 0; t < kGroupTokens; ++t) {
        const __m512i numbers = WholeNumbers(_mm512_load_si512(whole.high[t]), _mm512_load_si512(whole.low[t]));
        tile[g][t] = MulAdd((Vec)_mm512_cvtepi32_ps(numbers), scales * BroadcastFrom(of_tokens.scales + t), tile[g][t]);
        if constexpr (kHasMinimum) tile[g][t] = MulAdd(minimums, BroadcastFrom(of_tokens.sums + t), tile[g][t]);
      }
    }
  }
  PAGED_OPS_UNROLL_TILE
  for (int g = 0; g < kGroups; ++g) {
    PAGED_OPS_UNROLL_TILE
    for (int t = 0; t < kGroupTokens; ++t) {
      if (g * kGroupTokens + t < count) Store(sums[g * kGroupTokens + t], tile[g][t]);
    }
  }
}

// One thread's working memory.
class TileWorker {
 public:
  // sums[t][n] = x[t] . row n of the panel, of a format with one scale for 32 columns.
  template <typename Format>
  void Multiply(const LinearTokens& tokens, const typename Format::Panel* blocks, Tiles& tiles,
                float (*sums)[kPanelRows]) {
    constexpr bool kAreBytes = std::is_same_v<std::decay_t<decltype(blocks->numbers[0])>, PanelBytes>;
    constexpr int kUnits = kUnitsOf<Format>;
    const int64_t num_units = tokens.num_columns / kUnitColumns, num_blocks = tokens.num_columns / Format::kColumns;
    if (static_cast<int64_t>(units_.size()) < num_units) units_.resize(num_units);
    for (int64_t b = 0; b < num_blocks; ++b) Unpack<Format>(blocks[b], &units_[b * kUnits]);
    const auto numbers_of = [&](int64_t u) -> const void* {
      if constexpr (kAreBytes) {
        return blocks[u / kUnits].numbers[u % kUnits].bytes;
      } else {
        return units_[u].quads;
      }
    };
    const auto scales_of = [&](int64_t u) { return std::pair(Load(units_[u].scales), Load(units_[u].minimums)); };
    // Each pass over the panel fetches its part of the next panel.
    constexpr int64_t kTokensOfPass = 2 * kGroupTokens;
    constexpr int kLinesOfUnit = (sizeof(typename Format::Panel) / kUnits + kLineBytes - 1) / kLineBytes;
    const int64_t num_passes = (tokens.num_tokens + kTokensOfPass - 1) / kTokensOfPass;
    tiles.Shape(kTileRows, kUnitColumns);
    WithLinesOfPass<kLinesOfUnit>(num_passes, [&](auto lines) {
      for (int64_t pass = 0; pass < num_passes; ++pass) {
        const int64_t token = pass * kTokensOfPass, count = std::min(kTokensOfPass, tokens.num_tokens - token);
        const TokenUnit* group = tokens.whole.From(token, tokens.num_columns).units;
        const char* ahead = reinterpret_cast<const char*>(blocks + num_blocks) + pass * num_units * lines() * kLineBytes;
        const auto multiply = [&](auto groups) {
          MultiplyByTiles<groups(), lines(), Format::kHasMinimum>(group, numbers_of, scales_of, num_units, ahead, count,
                                                                  sums + token);
        };
        if (count > kGroupTokens) {
          multiply(std::integral_constant<int, 2>());
        } else {
          multiply(std::integral_constant<int, 1>());
        }
      }
    });
  }

 private:
  struct alignas(kLineBytes) UnpackedUnit {
    int8_t quads[kUnitQuads][kPanelRows][kQuad];
    float scales[kPanelRows], minimums[kPanelRows];
  };

  // Bytes are multiplied where they lie: only their scales are taken.
  template <typename Format>
  static void Unpack(const typename Format::Panel& block, UnpackedUnit* units) {
    constexpr bool kAreBytes = std::is_same_v<std::decay_t<decltype(block.numbers[0])>, PanelBytes>;
    const typename Format::Scales scales(block);
    for (int unit = 0; unit < kUnitsOf<Format>; ++unit) {
      if constexpr (!kAreBytes) {
        PAGED_OPS_UNROLL_TILE
        for (int quad = 0; quad < kUnitQuads; ++quad) {
          const __m512i numbers = (__m512i)block.numbers[unit].Quad(quad, 0);
          _mm512_store_si512(units[unit].quads[quad], _mm512_sub_epi8(numbers, _mm512_set1_epi8(Format::kOffset)));
        }
      }
      Store(units[unit].scales, scales.scale(unit, 0, 0));
      if constexpr (Format::kHasMinimum) Store(units[unit].minimums, scales.minimum(unit, 0, 0));
    }
  }

  std::vector<UnpackedUnit> units_;
};

#endif

}  // namespace paged_ops
