// Products of tokens with a panel of FP8 (E4M3): a chunk of columns becomes the floats that it means, then these are
// multiplied (dot_floats.h). The same for any number of tokens, so bits do not depend on it.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/linear/dot_floats.h"

namespace paged_ops {

// One thread's working memory.
class Fp8Worker {
 public:
  // sums[t][n] = x[t] . row n of the panel
  template <typename Format>
  void Multiply(const LinearTokens& tokens, const typename Format::Panel* blocks, float (*sums)[kPanelRows]) {
    constexpr int64_t kChunk = 384 / Format::kColumns * Format::kColumns, kBlocksOfChunk = kChunk / Format::kColumns;
    const int64_t columns = tokens.num_columns, num_blocks = columns / Format::kColumns;
    floats_.resize(kChunk * kPanelRows);
    const Float* panel = reinterpret_cast<const Float*>(floats_.data());
    for (int64_t first = 0; first < num_blocks; first += kBlocksOfChunk) {
      const int64_t count = std::min(kBlocksOfChunk, num_blocks - first);
      for (int64_t b = 0; b < count; ++b) {
        Unpack<Format>(blocks[first + b], floats_.data() + b * Format::kColumns * kPanelRows);
      }
      InTiles<kTileTokens>(tokens.num_tokens, [&](int64_t token, auto in_tile, int64_t, int64_t) {
        float(*of_tile[])[kPanelRows] = {sums + token};
        const Ahead nothing{0, count * Format::kColumns};
        MultiplyTile<in_tile.value, 1, FloatProducts<Float>>(
            tokens.floats + token * columns + first * Format::kColumns, columns, &panel, count * Format::kColumns,
            first == 0, nothing, of_tile);
      });
    }
  }

 private:
  template <typename Format>
  static void Unpack(const typename Format::Panel& block, float* floats) {
    for (int64_t line = 0; line < static_cast<int64_t>(sizeof block); line += kLineBytes) {
      Fetch(&block, kPrefetchBytes + line);
    }
    const typename Format::Scales scales(block);
    for (int64_t column = 0; column < Format::kColumns; ++column) {
      PAGED_OPS_UNROLL_TILE
      for (int v = 0; v < kRowVecs; ++v) {
        const Vec numbers = FromE4M3(block.numbers[column] + v * kLanes);
        Store(floats + column * kPanelRows + v * kLanes, numbers * scales.scale(0, 0, v));
      }
    }
  }

  std::vector<float> floats_;
};

}  // namespace paged_ops
