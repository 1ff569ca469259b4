// Products of few tokens with a panel of blocks of few bits, by bytes (pmaddubsw): on CPUs with AVX2 alone.
//
// A token's 16 bits are a high and a low byte. Sums of their products with numbers of few bits fit in 16 bits for some
// columns, so that numbers are not widened first: of few tokens that is most of the work. The whole numbers, and so the
// bits, are those of dot_madd.h.
#pragma once

#include "cpu/linear/add_scaled.h"
#include "cpu/linear/linear_input.h"
#include "cpu/linear/panels.h"
#include "cpu/linear/token_tiles.h"

namespace paged_ops {

constexpr int kByteTileTokens = 2;  // whose sums of both bytes have room in the registers

// Quads of numbers whose products with bytes fit in 16 bits when they are added up; 0: not those of one.
template <typename Format>
constexpr int QuadsOfSum() {
  constexpr int kQuadsOfGroup = kUnitQuads / Format::kScalesOfUnit;
  constexpr int kMost = 32767 / (Format::kLargest * 128 * 2);
  return kMost >= kQuadsOfGroup ? kQuadsOfGroup : kMost >= 4 ? 4 : kMost >= 2 ? 2 : 0;
}

#if defined(PAGED_OPS_AVX2)

// Up to so many tokens bytes are faster: numbers of four bits are widened once for 32 columns, those of more bits often.
template <typename Format>
constexpr int64_t kMostByBytes = QuadsOfSum<Format>() == 0 ? 0 : Format::kLargest < 16 ? kByteTokens : kByteTileTokens;

inline __m256i BroadcastQuad(const int8_t* source) {
  int32_t quad;
  std::memcpy(&quad, source, sizeof quad);
  return _mm256_set1_epi32(quad);
}

// sums[t] = x[t] . panel for the first kTokens tokens.
template <int kTokens, typename Format>
void MultiplyByBytes(const TokenNumbers& tokens, int64_t num_columns, const typename Format::Panel* blocks,
                     float (*sums)[kPanelRows]) {
  constexpr int kGroups = Format::kScalesOfUnit, kQuadsOfGroup = kUnitQuads / kGroups, kUnits = kUnitsOf<Format>;
  constexpr int kQuadsOfSum = QuadsOfSum<Format>();
  constexpr int64_t kUnitBytes = sizeof(typename Format::Panel) / kUnits;
  const __m256i ones = _mm256_set1_epi16(1), high_ones = _mm256_set1_epi16(256);
  const int64_t num_units = num_columns / kUnitColumns, num_blocks = num_columns / Format::kColumns;
  Vec tile[kTokens][kRowVecs] = {};
  for (int64_t b = 0; b < num_blocks; ++b) {
    const typename Format::Scales scales(blocks[b]);
    for (int unit = 0; unit < kUnits; ++unit) {
      PAGED_OPS_UNROLL_TILE
      for (int64_t line = 0; line < kUnitBytes; line += kLineBytes) {
        Fetch(blocks + b, kPrefetchBytes + unit * kUnitBytes + line);
      }
      const auto& numbers = blocks[b].numbers[unit];
      const int64_t index = b * kUnits + unit;
      PAGED_OPS_UNROLL_TILE
      for (int group = 0; group < kGroups; ++group) {
        IntVec whole[kTokens][kRowVecs];
        PAGED_OPS_UNROLL_TILE
        for (int t = 0; t < kTokens; ++t) {
          int32_t added = 0;
          if constexpr (Format::kOffset != 0) {
            added = TakenBack<Format>(Format::kOffset, tokens.totals[t * num_units + index], group);
          }
          PAGED_OPS_UNROLL_TILE
          for (int v = 0; v < kRowVecs; ++v) whole[t][v] = IntVec{} + added;
        }
        PAGED_OPS_UNROLL_TILE
        for (int first = group * kQuadsOfGroup; first < (group + 1) * kQuadsOfGroup; first += kQuadsOfSum) {
          __m256i high[kTokens][kRowVecs], low[kTokens][kRowVecs];
          PAGED_OPS_UNROLL_TILE
          for (int quad = first; quad < first + kQuadsOfSum; ++quad) {
            __m256i quads[kRowVecs];
            PAGED_OPS_UNROLL_TILE
            for (int v = 0; v < kRowVecs; ++v) quads[v] = InRegister((__m256i)numbers.Quad(quad, v));
            PAGED_OPS_UNROLL_TILE
            for (int t = 0; t < kTokens; ++t) {
              const TokenBytes& bytes = tokens.bytes[t * num_units + index];
              const __m256i high_quad = BroadcastQuad(bytes.high + quad * kQuad);
              const __m256i low_quad = BroadcastQuad(bytes.low + quad * kQuad);
              PAGED_OPS_UNROLL_TILE
              for (int v = 0; v < kRowVecs; ++v) {
                const __m256i of_high = _mm256_maddubs_epi16(quads[v], high_quad);
                const __m256i of_low = _mm256_maddubs_epi16(quads[v], low_quad);
                high[t][v] = quad == first ? of_high : InRegister(_mm256_add_epi16(high[t][v], of_high));
                low[t][v] = quad == first ? of_low : InRegister(_mm256_add_epi16(low[t][v], of_low));
              }
            }
          }
          PAGED_OPS_UNROLL_TILE
          for (int t = 0; t < kTokens; ++t) {
            PAGED_OPS_UNROLL_TILE
            for (int v = 0; v < kRowVecs; ++v) {
              whole[t][v] += (IntVec)_mm256_madd_epi16(high[t][v], high_ones);
              whole[t][v] += (IntVec)_mm256_madd_epi16(low[t][v], ones);
            }
          }
        }
        PAGED_OPS_UNROLL_TILE
        for (int t = 0; t < kTokens; ++t) {
          const int64_t place = t * num_units + index;
          const float sum = kGroups == 1 ? tokens.sums[place] : tokens.sums_of_halves[place][group];
          const ScalesOfGroup<Format> of_group{scales, unit, group};
          AddScaled<Format::kHasMinimum>(whole[t], of_group, tokens.scales[place], sum, tile[t]);
        }
      }
    }
  }
  StoreSums<kTokens>(tile, sums);
}

#else

template <typename Format>
constexpr int64_t kMostByBytes = 0;

template <int kTokens, typename Format>
void MultiplyByBytes(const TokenNumbers&, int64_t, const typename Format::Panel*, float (*)[kPanelRows]) {}

#endif

}  // namespace paged_ops
