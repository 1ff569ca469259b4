// Products of tokens with a panel of blocks, by fours of columns: by tiles where this process may use them, or, of very
// few tokens and elsewhere, by vectors. Sums of 32 columns are whole numbers, exact: the two give the same bits.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/linear/linear_input.h"
#include "cpu/linear/panels.h"
#include "cpu/linear/tiles.h"
#include "cpu/linear/token_tiles.h"

namespace paged_ops {

// Up to here vectors are as fast: storing a tile takes the time of some 12 products, whatever is in it.
constexpr int64_t kTokensByVectors = 2;

// What a block's whole numbers become, and where a token's are added: sum + whole * scales of both (+ minimum * sum).
template <typename Block>
struct BlockScales {
  explicit BlockScales(const Block& block) : scales(Load(block.scales)) {
    if constexpr (kHasMinimum<Block>) minimums = MinimumOf(block, 0);
  }

  Vec AddTo(Vec sum, __m512i whole, const TokenBlock& tokens, int token) const {
    sum = MulAdd((Vec)_mm512_cvtepi32_ps(whole), scales * BroadcastFrom(tokens.scales + token), sum);
    if constexpr (kHasMinimum<Block>) sum = MulAdd(minimums, BroadcastFrom(tokens.sums + token), sum);
    return sum;
  }

  Vec scales, minimums;
};

inline __m512i BroadcastQuad(const int8_t* source) {
  int32_t quad;
  std::memcpy(&quad, source, sizeof quad);
  return _mm512_set1_epi32(quad);
}

inline __m512i WholeNumbers(__m512i high, __m512i low) { return _mm512_add_epi32(_mm512_slli_epi32(high, 8), low); }

// sums[t] = x[t] . panel for the first kTokens tokens of a group.
template <int kTokens, typename Block>
void MultiplyByVectors(const TokenBlock* tokens, const Block* blocks, int64_t num_blocks, float (*sums)[kPanelRows]) {
  Vec tile[kTokens] = {};
  for (int64_t b = 0; b < num_blocks; ++b) {
    PAGED_OPS_UNROLL_TILE
    for (size_t line = 0; line < sizeof(Block); line += kLineBytes) Fetch(blocks + b, kPrefetchBytes + line);
    __m512i quads[kBlockQuads], high[kTokens] = {}, low[kTokens];
    LoadQuads(blocks[b].numbers, quads);
    PAGED_OPS_UNROLL_TILE
    for (int t = 0; t < kTokens; ++t) low[t] = _mm512_set1_epi32(-AddedTo(blocks[b].numbers) * tokens[b].totals[t]);
    PAGED_OPS_UNROLL_TILE
    for (int i = 0; i < kBlockQuads; ++i) {
      PAGED_OPS_UNROLL_TILE
      for (int t = 0; t < kTokens; ++t) {
        high[t] = _mm512_dpbusd_epi32(high[t], quads[i], BroadcastQuad(tokens[b].high[t] + i * kQuad));
        low[t] = _mm512_dpbusd_epi32(low[t], quads[i], BroadcastQuad(tokens[b].low[t] + i * kQuad));
      }
    }
    const BlockScales<Block> scales(blocks[b]);
    PAGED_OPS_UNROLL_TILE
    for (int t = 0; t < kTokens; ++t) tile[t] = scales.AddTo(tile[t], WholeNumbers(high[t], low[t]), tokens[b], t);
  }
  for (int t = 0; t < kTokens; ++t) Store(sums[t], tile[t]);
}

#if defined(PAGED_OPS_AMX)

// sums[t] = x[t] . panel for the tokens of kGroups groups, of which there are `count`; groups are num_blocks apart.
// numbers_of(b): a pointer to the whole numbers of blocks[b]. While a block's sums are scaled, the tiles of the next
// one are multiplied, and kLines lines from `ahead` on are fetched.
template <int kGroups, int kLines, typename Block, typename NumbersOf>
void MultiplyByTiles(const TokenBlock* tokens, const Block* blocks, NumbersOf&& numbers_of, int64_t num_blocks,
                     const char* ahead, int64_t count, float (*sums)[kPanelRows]) {
  struct alignas(kTileRowBytes) TileOfSums {
    int32_t high[kGroupTokens][kPanelRows], low[kGroupTokens][kPanelRows];
  };
  TileOfSums products[2][kGroups];
  const auto multiply = [&](int64_t b) {
    LoadTile<6>(numbers_of(b), kTileRowBytes);
    ZeroTile<0>();
    LoadTile<4>(&tokens[b], kBlockWeights);
    AddTileOfBytes<0, 4, 6>();
    StoreTile<0>(&products[b % 2][0]);
    if constexpr (kGroups == 2) {
      ZeroTile<1>();
      LoadTile<5>(&tokens[num_blocks + b], kBlockWeights);
      AddTileOfBytes<1, 5, 6>();
      StoreTile<1>(&products[b % 2][1]);
    }
  };
  Vec tile[kGroups][kGroupTokens] = {};
  multiply(0);
  for (int64_t b = 0; b < num_blocks; ++b) {
    if (b + 1 < num_blocks) multiply(b + 1);
    PAGED_OPS_UNROLL_TILE
    for (int line = 0; line < kLines; ++line) Fetch(ahead, (b * kLines + line) * kLineBytes);
    const BlockScales<Block> scales(blocks[b]);
    PAGED_OPS_UNROLL_TILE
    for (int g = 0; g < kGroups; ++g) {
      const TileOfSums& whole = products[b % 2][g];
      PAGED_OPS_UNROLL_TILE
      for (int t = 0; t < kGroupTokens; ++t) {
        const __m512i numbers = WholeNumbers(_mm512_load_si512(whole.high[t]), _mm512_load_si512(whole.low[t]));
        tile[g][t] = scales.AddTo(tile[g][t], numbers, tokens[g * num_blocks + b], t);
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

#endif

// One thread's working memory.
class BlockWorker {
 public:
  // sums[t][n] = x[t] . row n of the panel
  template <typename Block>
  void Multiply(const LinearTokens& tokens, const Block* blocks, Tiles& tiles, float (*sums)[kPanelRows]) {
#if defined(PAGED_OPS_AMX)
    if (tokens.num_tokens > kTokensByVectors && HasTiles()) return ByTiles(tokens, blocks, tiles, sums);
#endif
    static_cast<void>(tiles);
    for (int64_t token = 0; token < tokens.num_tokens; token += kGroupTokens) {
      const TokenBlock* group = tokens.whole.From(token, tokens.num_columns).blocks;
      WithTokens<kGroupTokens>(std::min<int64_t>(kGroupTokens, tokens.num_tokens - token), [&](auto count) {
        MultiplyByVectors<count.value>(group, blocks, tokens.num_columns / kBlockWeights, sums + token);
      });
    }
  }

 private:
#if defined(PAGED_OPS_AMX)
  template <typename Block>
  void ByTiles(const LinearTokens& tokens, const Block* blocks, Tiles& tiles, float (*sums)[kPanelRows]) {
    const int64_t num_blocks = tokens.num_columns / kBlockWeights;
    if constexpr (kHasMinimum<Block>) {
      if (static_cast<int64_t>(unpacked_.size()) < num_blocks) unpacked_.resize(num_blocks);
      for (int64_t b = 0; b < num_blocks; ++b) {
        __m512i quads[kBlockQuads];
        LoadQuads(blocks[b].numbers, quads);
        PAGED_OPS_UNROLL_TILE
        for (int i = 0; i < kBlockQuads; ++i) _mm512_store_si512(unpacked_[b].quads[i], quads[i]);
      }
    }
    const auto numbers_of = [&](int64_t b) -> const void* {
      if constexpr (kHasMinimum<Block>) {
        return unpacked_[b].quads;
      } else {
        return blocks[b].numbers.bytes;
      }
    };
    // Each pass over the panel fetches its part of the next panel.
    constexpr int64_t kTokensOfPass = 2 * kGroupTokens;
    const int64_t num_passes = (tokens.num_tokens + kTokensOfPass - 1) / kTokensOfPass;
    tiles.Shape(kTileRows, kBlockWeights);
    WithLinesOfPass<(sizeof(Block) + kLineBytes - 1) / kLineBytes>(num_passes, [&](auto lines) {
      for (int64_t pass = 0; pass < num_passes; ++pass) {
        const int64_t token = pass * kTokensOfPass, count = std::min(kTokensOfPass, tokens.num_tokens - token);
        const TokenBlock* group = tokens.whole.From(token, tokens.num_columns).blocks;
        const char* ahead = reinterpret_cast<const char*>(blocks + num_blocks) + pass * num_blocks * lines() * kLineBytes;
        const auto multiply = [&](auto groups) {
          MultiplyByTiles<groups(), lines()>(group, blocks, numbers_of, num_blocks, ahead, count, sums + token);
        };
        if (count > kGroupTokens) {
          multiply(std::integral_constant<int, 2>());
        } else {
          multiply(std::integral_constant<int, 1>());
        }
      }
    });
  }

  struct alignas(kLineBytes) UnpackedBlock {
    int8_t quads[kBlockQuads][kPanelRows][kQuad];
  };

  std::vector<UnpackedBlock> unpacked_;
#endif
};

}  // namespace paged_ops
