// Products of tokens with a panel of blocks, by pairs of columns.
#pragma once

#include <algorithm>
#include <vector>

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
constexpr int64_t kChunkBlocks = 16;  // 16 KB of unpacked numbers

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

// What a panel's numbers become where many tiles read them.
struct alignas(kLineBytes) UnpackedNumbers {
  int16_t pairs[kBlockPairs][kPanelRows][2];
  static constexpr int kPairsOfLoad = 1, kLoads = kBlockPairs;
};

inline void LoadPairs(const UnpackedNumbers& numbers, int load, int vec, PairVec pairs[1]) {
  pairs[0] = InRegister(LoadPair(&numbers.pairs[load][vec * kLanes][0]));
}

template <typename Numbers>
void Unpack(const Numbers& numbers, UnpackedNumbers& unpacked) {
  for (int load = 0; load < Numbers::kLoads; ++load) {
    PAGED_OPS_UNROLL_TILE
    for (int v = 0; v < kRowVecs; ++v) {
      PairVec pairs[Numbers::kPairsOfLoad];
      LoadPairs(numbers, load, v, pairs);
      PAGED_OPS_UNROLL_TILE
      for (int p = 0; p < Numbers::kPairsOfLoad; ++p) {
        std::memcpy(&unpacked.pairs[load * Numbers::kPairsOfLoad + p][v * kLanes][0], &pairs[p], sizeof pairs[p]);
      }
    }
  }
}

// sums[t] += x[t] . panel, for num_blocks blocks of columns. numbers_of(b): the numbers of blocks[b].
template <int kTokens, typename Block, typename NumbersOf>
void MultiplyBlocks(const TokenNumbers& tokens, int64_t num_columns, int64_t first_block, const Block* blocks,
                    NumbersOf&& numbers_of, int64_t num_blocks, bool is_first, float (*sums)[kPanelRows]) {
  using Numbers = std::remove_cv_t<std::remove_reference_t<decltype(numbers_of(0))>>;
  const int64_t stride = num_columns, scale_stride = stride / kBlockWeights;
  Vec tile[kTokens][kRowVecs];
  LoadSums<kTokens>(sums, is_first, tile);
  for (int64_t b = 0; b < num_blocks; ++b) {
    if constexpr (!std::is_same_v<Numbers, UnpackedNumbers>) {  // from memory, not yet read by another tile
      PAGED_OPS_UNROLL_TILE
      for (size_t line = 0; line < sizeof(Block); line += kLineBytes) Fetch(blocks + b, kPrefetchBytes + line);
    }
    const int16_t* x = tokens.numbers + (first_block + b) * kBlockWeights;
    IntVec whole[kTokens][kRowVecs] = {};
    for (int load = 0; load < Numbers::kLoads; ++load) {
      PairVec pairs[kRowVecs][Numbers::kPairsOfLoad];
      PAGED_OPS_UNROLL_TILE
      for (int v = 0; v < kRowVecs; ++v) LoadPairs(numbers_of(b), load, v, pairs[v]);
      PAGED_OPS_UNROLL_TILE
      for (int p = 0; p < Numbers::kPairsOfLoad; ++p) {
        PAGED_OPS_UNROLL_TILE
        for (int t = 0; t < kTokens; ++t) {
          const PairVec token = InRegister(BroadcastPair(x + t * stride + 2 * (load * Numbers::kPairsOfLoad + p)));
          PAGED_OPS_UNROLL_TILE
          for (int v = 0; v < kRowVecs; ++v) whole[t][v] = AddPairs(pairs[v][p], token, whole[t][v]);
        }
      }
    }
    PAGED_OPS_UNROLL_TILE
    for (int t = 0; t < kTokens; ++t) {
      const int64_t place = t * scale_stride + first_block + b;
      const Vec scale = BroadcastFrom(tokens.scales + place);
      PAGED_OPS_UNROLL_TILE
      for (int v = 0; v < kRowVecs; ++v) {
        const Vec scales = Load(blocks[b].scales + v * kLanes) * scale;
        tile[t][v] = MulAdd(__builtin_convertvector(whole[t][v], Vec), scales, tile[t][v]);
        if constexpr (kHasMinimum<Block>) {
          tile[t][v] = MulAdd(MinimumOf(blocks[b], v), BroadcastFrom(tokens.sums + place), tile[t][v]);
        }
      }
    }
  }
  StoreSums<kTokens>(tile, sums);
}

// One thread's working memory.
class BlockWorker {
 public:
  // sums[t][n] = x[t] . row n of the panel. For many tiles the numbers are unpacked once, for few by each as it goes.
  template <typename Block>
  void Multiply(const LinearTokens& tokens, const Block* blocks, Tiles&, float (*sums)[kPanelRows]) {
    using Numbers = decltype(Block::numbers);
    const int64_t num_blocks = tokens.num_columns / kBlockWeights;
    const int64_t chunk = tokens.num_tokens <= kBlockTileTokens ? num_blocks : kChunkBlocks;
    const bool is_direct = tokens.num_tokens <= Numbers::kDirectTiles * kBlockTileTokens;
    for (int64_t first = 0; first < num_blocks; first += chunk) {
      const int64_t count = std::min(chunk, num_blocks - first);
      const auto multiply = [&](auto&& numbers_of) {
        InTiles<kBlockTileTokens>(tokens.num_tokens, [&](int64_t token, auto in_tile, int64_t, int64_t) {
          MultiplyBlocks<in_tile.value>(tokens.whole.From(token, tokens.num_columns), tokens.num_columns, first,
                                        blocks + first, numbers_of, count, first == 0, sums + token);
        });
      };
      if (is_direct) {
        multiply([&](int64_t b) -> const Numbers& { return blocks[first + b].numbers; });
      } else {
        for (int64_t b = 0; b < count; ++b) {
          PAGED_OPS_UNROLL_TILE
          for (size_t line = 0; line < sizeof(Block); line += kLineBytes) {
            Fetch(blocks + first + b, kPrefetchBytes + line);
          }
          Unpack(blocks[first + b].numbers, unpacked_[b]);
        }
        multiply([&](int64_t b) -> const UnpackedNumbers& { return unpacked_[b]; });
      }
    }
  }

 private:
  std::vector<UnpackedNumbers> unpacked_ = std::vector<UnpackedNumbers>(kChunkBlocks);
};

}  // namespace paged_ops
