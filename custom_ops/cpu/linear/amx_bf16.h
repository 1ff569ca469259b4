// Products of tokens with panels of bfloat16, by tiles: exact products of a token's three parts, their sums as floats.
#pragma once

#include "cpu/linear/linear_input.h"
#include "cpu/linear/token_tiles.h"

namespace paged_ops {

#if defined(PAGED_OPS_AMX)

struct alignas(kTileRowBytes) TileOfFloats {
  float rows[kTileRows][kPanelRows];
};

// sums[group][panel], of kGroups times 16 tokens, num_blocks apart. A sum takes 32 columns of the first parts, then of
// the second ones, then of the third. Meanwhile kLines lines of what is `ahead` bytes behind each panel are fetched.
template <int kGroups, int kPanels, int kLines>
void MultiplyGroups(const PartsBlock* tokens, const BFloat16* const panels[kPanels], int64_t num_blocks, int64_t ahead,
                    TileOfFloats sums[kGroups][kPanels]) {
  constexpr bool kTwoGroups = kGroups == 2, kTwoPanels = kPanels == 2;
  const BFloat16 *first = panels[0], *second = panels[kPanels - 1];
  const auto fetch = [=](const BFloat16* panel, int64_t block) {
    PAGED_OPS_UNROLL_TILE
    for (int line = 0; line < kLines; ++line) Fetch(panel, ahead + (block * kLines + line) * kLineBytes);
  };
  ZeroTile<0>();
  ZeroTile<1>();
  ZeroTile<2>();
  ZeroTile<3>();
  for (int64_t b = 0; b < num_blocks; ++b) {
    const int64_t place = b * kTileColumns * kPanelRows;
    fetch(first, b);
    LoadTile<6>(first + place, kTileRowBytes);
    if constexpr (kTwoPanels) {
      fetch(second, b);
      LoadTile<7>(second + place, kTileRowBytes);
    }
    PAGED_OPS_UNROLL_TILE
    for (int part = 0; part < kTokenParts; ++part) {
      LoadTile<4>(tokens[b].parts[part], kTileRowBytes);
      AddTileOfBFloat16<0, 4, 6>();
      if constexpr (kTwoPanels) AddTileOfBFloat16<1, 4, 7>();
      if constexpr (!kTwoGroups) continue;
      LoadTile<5>(tokens[num_blocks + b].parts[part], kTileRowBytes);
      AddTileOfBFloat16<2, 5, 6>();
      if constexpr (kTwoPanels) AddTileOfBFloat16<3, 5, 7>();
    }
  }
  StoreTile<0>(&sums[0][0]);
  if constexpr (kTwoPanels) StoreTile<1>(&sums[0][1]);
  if constexpr (kTwoGroups) StoreTile<2>(&sums[1][0]);
  if constexpr (kTwoGroups && kTwoPanels) StoreTile<3>(&sums[1][1]);
}

// sums[panel][t] = x[t] . panel. `ahead`: bytes from a panel to the one that is multiplied next.
template <int kPanels>
void MultiplyByTiles(const LinearTokens& tokens, const BFloat16* const panels[kPanels], int64_t ahead, Tiles& tiles,
                     float (*const sums[kPanels])[kPanelRows]) {
  constexpr int kLinesOfBlock = kTileColumns * kPanelRows * sizeof(BFloat16) / kLineBytes;
  constexpr int64_t kTokensOfPass = 2 * kTileRows;
  const int64_t num_blocks = tokens.num_columns / kTileColumns;
  const int64_t num_passes = (tokens.num_tokens + kTokensOfPass - 1) / kTokensOfPass;
  tiles.Shape(static_cast<int>(std::min<int64_t>(tokens.num_tokens, kTileRows)), kTileRowBytes);
  // Each pass fetches its part.
  WithLinesOfPass<kLinesOfBlock>(num_passes, [&](auto lines) {
    for (int64_t pass = 0; pass < num_passes; ++pass) {
      const int64_t first = pass * kTokensOfPass, count = std::min(kTokensOfPass, tokens.num_tokens - first);
      const PartsBlock* of_pass = tokens.parts.blocks + first / kTileRows * num_blocks;
      const int64_t ahead_of_pass = ahead + pass * num_blocks * lines() * kLineBytes;
      TileOfFloats products[2][kPanels];
      if (count > kTileRows) {
        MultiplyGroups<2, kPanels, lines()>(of_pass, panels, num_blocks, ahead_of_pass, products);
      } else {
        MultiplyGroups<1, kPanels, lines()>(of_pass, panels, num_blocks, ahead_of_pass, products);
      }
      for (int i = 0; i < kPanels; ++i) {
        for (int64_t t = 0; t < count; ++t) {
          Store(sums[i][first + t], Load(products[t / kTileRows][i].rows[t % kTileRows]));
        }
      }
    }
  });
}

// Numbers too small to be normal are zeros as long as this lives, as they are for tiles.
class FlushesSmall {
 public:
  FlushesSmall() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlushToZero | kDenormalsAreZero); }
  ~FlushesSmall() { _mm_setcsr(before_); }

 private:
  static constexpr unsigned kFlushToZero = 0x8000, kDenormalsAreZero = 0x40;
  const unsigned before_;
};

// The same of one token, to the last bit: a tile adds up its even columns and its odd ones, then both, and then adds
// that to the sum.
inline void MultiplyByVectors(const float* parts, const BFloat16* panel, int64_t num_blocks, float sums[kPanelRows]) {
  const FlushesSmall flushes;
  Vec total = {};
  for (int64_t b = 0; b < num_blocks; ++b, parts += kTokenParts * kTileColumns) {
    Vec even[kTokenParts] = {}, odd[kTokenParts] = {};
    for (int64_t column = 0; column < kTileColumns; column += 2, panel += 2 * kPanelRows) {
      Fetch(panel, kPrefetchBytes);
      const BitVec both = (BitVec)_mm512_loadu_si512(panel);
      const Vec first = InRegister((Vec)(both << 16)), second = InRegister((Vec)(both & 0xffff0000u));
      PAGED_OPS_UNROLL_TILE
      for (int part = 0; part < kTokenParts; ++part) {
        even[part] = MulAdd(first, BroadcastFrom(parts + part * kTileColumns + column), even[part]);
        odd[part] = MulAdd(second, BroadcastFrom(parts + part * kTileColumns + column + 1), odd[part]);
      }
    }
    PAGED_OPS_UNROLL_TILE
    for (int part = 0; part < kTokenParts; ++part) total += even[part] + odd[part];
  }
  Store(sums, total);
}

#endif

}  // namespace paged_ops
