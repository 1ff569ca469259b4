// The numbers of 16 rows of blocks by fours of columns, for CPUs that multiply four bytes and add them up (VNNI, AMX).
#pragma once

#include "cpu/linear/weights.h"

namespace paged_ops {

constexpr int kQuad = 4;
constexpr int kBlockQuads = kBlockWeights / kQuad;

// A quad of 16 rows is a vector, all of them are a tile.
struct PanelBytes {
  int8_t bytes[kBlockQuads][kPanelRows][kQuad];
};

struct PanelNibbles {  // a byte [i][row][j] has column 8 i + j in its lower four bits and 8 i + 4 + j in the upper ones
  uint8_t bytes[kBlockQuads / 2][kPanelRows][kQuad];
};

inline int NumberOf(const PanelBytes& numbers, int row, int column) {
  return numbers.bytes[column / kQuad][row][column % kQuad];
}

inline int NumberOf(const PanelNibbles& numbers, int row, int column) {
  return numbers.bytes[column / 8][row][column % kQuad] >> (column / kQuad % 2 * 4) & 15;
}

inline void Place(const int8_t* source, int row, PanelBytes& numbers) {
  for (int i = 0; i < kBlockWeights; ++i) numbers.bytes[i / kQuad][row][i % kQuad] = source[i];
}

inline void Place(const uint8_t* nibbles, int row, PanelNibbles& numbers) {
  for (int i = 0; i < kBlockQuads / 2; ++i) {
    for (int j = 0; j < kQuad; ++j) {
      const int pair = NibbleOf(nibbles, 8 * i + j) | NibbleOf(nibbles, 8 * i + kQuad + j) << 4;
      numbers.bytes[i][row][j] = static_cast<uint8_t>(pair);
    }
  }
}

// All quads of a block, each a vector of 16 rows' unsigned numbers. Signed ones have 128 added, which AddedTo says.
inline void LoadQuads(const PanelBytes& numbers, __m512i quads[kBlockQuads]) {
  PAGED_OPS_UNROLL_TILE
  for (int i = 0; i < kBlockQuads; ++i) {
    quads[i] = _mm512_xor_si512(_mm512_loadu_si512(numbers.bytes[i]), _mm512_set1_epi8(-128));
  }
}

inline void LoadQuads(const PanelNibbles& numbers, __m512i quads[kBlockQuads]) {
  const __m512i lower = _mm512_set1_epi8(15);
  PAGED_OPS_UNROLL_TILE
  for (int i = 0; i < kBlockQuads / 2; ++i) {
    const __m512i both = _mm512_loadu_si512(numbers.bytes[i]);
    quads[2 * i] = _mm512_and_si512(both, lower);
    quads[2 * i + 1] = _mm512_and_si512(_mm512_srli_epi16(both, 4), lower);
  }
}

inline int AddedTo(const PanelBytes&) { return 128; }
inline int AddedTo(const PanelNibbles&) { return 0; }

}  // namespace paged_ops
