// Products of tokens with a panel of blocks, by pairs of 16 bits (pmaddwd): on CPUs without VNNI.
//
// The whole numbers of 32 columns, or of 16 that share a scale, are multiplied and added up exactly; then they are scaled.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/linear/add_scaled.h"
#include "cpu/linear/dot_maddubs.h"
#include "cpu/linear/linear_input.h"
#include "cpu/linear/panels.h"
#include "cpu/linear/tiles.h"
#include "cpu/linear/token_tiles.h"

namespace paged_ops {

#if defined(__aarch64__)
constexpr int kBlockTileTokens = 3;  // sums of two kinds
#else
constexpr int kBlockTileTokens = kTileTokens;
#endif
constexpr int64_t kChunkUnits = 16;  // 16 KB of unpacked numbers

inline PairVec BroadcastPair(const int16_t* source) {
  int32_t pair;
  std::memcpy(&pair, source, sizeof pair);
  return (PairVec)(IntVec{} + pair);
}

// sums[i] + a[2 i] b[2 i] + a[2 i + 1] b[2 i + 1]
inline IntVec AddPairs(PairVec a, PairVec b, IntVec sums) {
#if defined(PAGED_OPS_AVX512)
  return sums + (IntVec)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(PAGED_OPS_AVX2)
  return sums + (IntVec)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__aarch64__)
  const int16x8_t x = (int16x8_t)a, y = (int16x8_t)b;
  return sums + (IntVec)vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y));
#else
  for (int i = 0; i < kLanes; ++i) sums[i] += a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
  return sums;
#endif
}

// What the pairs of a format's numbers have added.
template <typename Format>
constexpr int kPairOffset = std::is_same_v<std::decay_t<decltype(Format::Panel::numbers[0])>, PanelBytes> ? 0
                                                                                                     : Format::kOffset;

// Bytes of a panel's block for each 32 columns.
template <typename Format>
constexpr int64_t kUnitBytes = sizeof(typename Format::Panel) / kUnitsOf<Format>;

// sums[t] = x[t] . panel for the first kTokens tokens, the numbers unpacked as they are multiplied.
template <int kTokens, typename Format>
void MultiplyDirect(const TokenNumbers& tokens, int64_t num_columns, const typename Format::Panel* blocks,
                    float (*sums)[kPanelRows]) {
  constexpr int kGroups = Format::kScalesOfUnit, kQuadsOfGroup = kUnitQuads / kGroups, kUnits = kUnitsOf<Format>;
  constexpr int kOffset = kPairOffset<Format>;
  const int64_t stride = num_columns, unit_stride = num_columns / kUnitColumns, num_blocks = num_columns / Format::kColumns;
  Vec tile[kTokens][kRowVecs] = {};
  for (int64_t b = 0; b < num_blocks; ++b) {
    const typename Format::Scales scales(blocks[b]);
    for (int unit = 0; unit < kUnits; ++unit) {
      PAGED_OPS_UNROLL_TILE
      for (int64_t line = 0; line < kUnitBytes<Format>; line += kLineBytes) {
        Fetch(blocks + b, kPrefetchBytes + unit * kUnitBytes<Format> + line);
      }
      const auto& numbers = blocks[b].numbers[unit];
      const int64_t index = b * kUnits + unit;
      const int16_t* x = tokens.numbers + index * kUnitColumns;
      PAGED_OPS_UNROLL_TILE
      for (int group = 0; group < kGroups; ++group) {
        IntVec whole[kTokens][kRowVecs];
        PAGED_OPS_UNROLL_TILE
        for (int t = 0; t < kTokens; ++t) {
          int32_t added = 0;
          if constexpr (kOffset != 0) added = TakenBack<Format>(kOffset, tokens.totals[t * unit_stride + index], group);
          PAGED_OPS_UNROLL_TILE
          for (int v = 0; v < kRowVecs; ++v) whole[t][v] = IntVec{} + added;
        }
        PAGED_OPS_UNROLL_TILE
        for (int quad = group * kQuadsOfGroup; quad < (group + 1) * kQuadsOfGroup; ++quad) {
          PairVec pairs[kRowVecs][2];
          PAGED_OPS_UNROLL_TILE
          for (int v = 0; v < kRowVecs; ++v) LoadPairs(numbers, quad, v, pairs[v]);
          PAGED_OPS_UNROLL_TILE
          for (int p = 0; p < 2; ++p) {
            PAGED_OPS_UNROLL_TILE
            for (int t = 0; t < kTokens; ++t) {
              const PairVec token = InRegister(BroadcastPair(x + t * stride + quad * kQuad + 2 * p));
              PAGED_OPS_UNROLL_TILE
              for (int v = 0; v < kRowVecs; ++v) whole[t][v] = AddPairs(pairs[v][p], token, whole[t][v]);
            }
          }
        }
        const ScalesOfGroup<Format> of_group{scales, unit, group};
        PAGED_OPS_UNROLL_TILE
        for (int t = 0; t < kTokens; ++t) {
          const int64_t place = t * unit_stride + index;
          const float sum = kGroups == 1 ? tokens.sums[place] : tokens.sums_of_halves[place][group];
          AddScaled<Format::kHasMinimum>(whole[t], of_group, tokens.scales[place], sum, tile[t]);
        }
      }
    }
  }
  StoreSums<kTokens>(tile, sums);
}

// What 32 columns of a panel become where many tiles of tokens read them, whatever their format.
struct alignas(kLineBytes) UnpackedUnit {
  int16_t pairs[kUnitColumns / 2][kPanelRows][2];
  float scales[kHalves][kPanelRows], minimums[kHalves][kPanelRows];
};

template <typename Format>
void Unpack(const typename Format::Panel& block, const typename Format::Scales& scales, int unit, UnpackedUnit& unpacked) {
  PAGED_OPS_UNROLL_TILE
  for (int quad = 0; quad < kUnitQuads; ++quad) {
    PAGED_OPS_UNROLL_TILE
    for (int v = 0; v < kRowVecs; ++v) {
      PairVec pairs[2];
      LoadPairs(block.numbers[unit], quad, v, pairs);
      PAGED_OPS_UNROLL_TILE
      for (int p = 0; p < 2; ++p) {
        const PairVec numbers = pairs[p] - static_cast<int16_t>(kPairOffset<Format>);
        std::memcpy(&unpacked.pairs[2 * quad + p][v * kLanes][0], &numbers, sizeof numbers);
      }
    }
  }
  PAGED_OPS_UNROLL_TILE
  for (int group = 0; group < Format::kScalesOfUnit; ++group) {
    PAGED_OPS_UNROLL_TILE
    for (int v = 0; v < kRowVecs; ++v) {
      Store(unpacked.scales[group] + v * kLanes, scales.scale(unit, group, v));
      if (Format::kHasMinimum) Store(unpacked.minimums[group] + v * kLanes, scales.minimum(unit, group, v));
    }
  }
}

// From an array in memory, in one piece: a copy through the stack would be written in halves and read as a whole.
inline PairVec LoadPair(const void* source) {
#if defined(PAGED_OPS_AVX512)
  return (PairVec)_mm512_loadu_si512(source);
#elif defined(PAGED_OPS_AVX2)
  return (PairVec)_mm256_loadu_si256(static_cast<const __m256i*>(source));
#else
  PairVec pair;
  std::memcpy(&pair, source, sizeof pair);
  return pair;
#endif
}

// sums[t] += x[t] . panel, for num_units units from first_unit on.
template <int kTokens, int kGroups, bool kHasMinimum>
void MultiplyUnpacked(const TokenNumbers& tokens, int64_t num_columns, int64_t first_unit, const UnpackedUnit* units,
                      int64_t num_units, bool is_first, float (*sums)[kPanelRows]) {
  constexpr int kPairsOfGroup = kUnitColumns / 2 / kGroups;
  const int64_t stride = num_columns, unit_stride = num_columns / kUnitColumns;
  Vec tile[kTokens][kRowVecs];
  LoadSums<kTokens>(sums, is_first, tile);
  for (int64_t u = 0; u < num_units; ++u) {
    const int16_t* x = tokens.numbers + (first_unit + u) * kUnitColumns;
    PAGED_OPS_UNROLL_TILE
    for (int group = 0; group < kGroups; ++group) {
      IntVec whole[kTokens][kRowVecs] = {};
      for (int pair = group * kPairsOfGroup; pair < (group + 1) * kPairsOfGroup; ++pair) {
        PairVec numbers[kRowVecs];
        PAGED_OPS_UNROLL_TILE
        for (int v = 0; v < kRowVecs; ++v) numbers[v] = InRegister(LoadPair(&units[u].pairs[pair][v * kLanes][0]));
        PAGED_OPS_UNROLL_TILE
        for (int t = 0; t < kTokens; ++t) {
          const PairVec token = InRegister(BroadcastPair(x + t * stride + 2 * pair));
          PAGED_OPS_UNROLL_TILE
          for (int v = 0; v < kRowVecs; ++v) whole[t][v] = AddPairs(numbers[v], token, whole[t][v]);
        }
      }
      struct {
        const UnpackedUnit& unit;
        int group;
        Vec scale(int v) const { return Load(unit.scales[group] + v * kLanes); }
        Vec minimum(int v) const { return Load(unit.minimums[group] + v * kLanes); }
      } const of_group{units[u], group};
      PAGED_OPS_UNROLL_TILE
      for (int t = 0; t < kTokens; ++t) {
        const int64_t place = t * unit_stride + first_unit + u;
        const float sum = kGroups == 1 ? tokens.sums[place] : tokens.sums_of_halves[place][group];
        AddScaled<kHasMinimum>(whole[t], of_group, tokens.scales[place], sum, tile[t]);
      }
    }
  }
  StoreSums<kTokens>(tile, sums);
}

// One thread's working memory.
class BlockWorker {
 public:
  // sums[t][n] = x[t] . row n of the panel. For few tokens the numbers are unpacked as it goes, for more once for all.
  template <typename Format>
  void Multiply(const LinearTokens& tokens, const typename Format::Panel* blocks, Tiles&, float (*sums)[kPanelRows]) {
    const int64_t columns = tokens.num_columns;
    if constexpr (kMostByBytes<Format> != 0) {
      if (tokens.num_tokens <= kMostByBytes<Format>) {
        return InTiles<kByteTileTokens>(tokens.num_tokens, [&](int64_t token, auto count, int64_t, int64_t) {
          MultiplyByBytes<count.value, Format>(tokens.whole.From(token, columns), columns, blocks, sums + token);
        });
      }
    }
    if constexpr (kMostByBytes<Format> < kBlockTileTokens) {
      if (tokens.num_tokens <= kBlockTileTokens) {
        return WithTokens<kBlockTileTokens>(tokens.num_tokens, [&](auto count) {
          MultiplyDirect<count.value, Format>(tokens.whole, columns, blocks, sums);
        });
      }
    }
    constexpr int64_t kUnits = kUnitsOf<Format>, kBlocksOfChunk = std::max<int64_t>(1, kChunkUnits / kUnits);
    const int64_t num_blocks = columns / Format::kColumns;
    for (int64_t first = 0; first < num_blocks; first += kBlocksOfChunk) {
      const int64_t count = std::min(kBlocksOfChunk, num_blocks - first);
      for (int64_t b = 0; b < count; ++b) {
        const typename Format::Panel& block = blocks[first + b];
        for (int64_t line = 0; line < static_cast<int64_t>(sizeof block); line += kLineBytes) {
          Fetch(&block, kPrefetchBytes + line);
        }
        const typename Format::Scales scales(block);
        for (int unit = 0; unit < kUnits; ++unit) Unpack<Format>(block, scales, unit, unpacked_[b * kUnits + unit]);
      }
      InTiles<kBlockTileTokens>(tokens.num_tokens, [&](int64_t token, auto in_tile, int64_t, int64_t) {
        MultiplyUnpacked<in_tile.value, Format::kScalesOfUnit, Format::kHasMinimum>(
            tokens.whole.From(token, columns), columns, first * kUnits, unpacked_.data(), count * kUnits, first == 0,
            sums + token);
      });
    }
  }

 private:
  std::vector<UnpackedUnit> unpacked_ = std::vector<UnpackedUnit>(kChunkUnits);
};

}  // namespace paged_ops
