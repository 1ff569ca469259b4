// The numbers of 16 rows of blocks by pairs of columns, for CPUs that multiply pairs of 16 bits and add them up.
#pragma once

#include "cpu/linear/weights.h"

namespace paged_ops {

constexpr int kBlockPairs = kBlockWeights / 2;

typedef int16_t PairVec __attribute__((vector_size(kLanes * 4)));  // a pair of columns of kLanes rows
typedef uint16_t PackedVec __attribute__((vector_size(kLanes * 4)));

// kPairsOfLoad: of columns, that one load of numbers has; kLoads: how many there are. kDirectTiles: for more tiles of
// tokens than these, unpacking the numbers once and reading them back is faster.
struct PanelBytes {
  int8_t bytes[kBlockPairs][kPanelRows][2];
  static constexpr int kPairsOfLoad = 1, kLoads = kBlockPairs, kDirectTiles = 6;
};

struct __attribute__((packed)) FourNibbles {  // at any address, as Half
  uint16_t bits;
};

struct PanelNibbles {  // a word [load][row][i] has columns 8 load + i, + 2, + 4, + 6, the first in its lowest four bits
  FourNibbles words[4][kPanelRows][2];
  static constexpr int kPairsOfLoad = 4, kLoads = kBlockPairs / 4, kDirectTiles = 1;
};

inline int NumberOf(const PanelBytes& numbers, int row, int column) { return numbers.bytes[column / 2][row][column % 2]; }

inline int NumberOf(const PanelNibbles& numbers, int row, int column) {
  return numbers.words[column / 8][row][column % 2].bits >> column % 8 / 2 * 4 & 15;
}

inline void Place(const int8_t* source, int row, PanelBytes& numbers) {
  for (int i = 0; i < kBlockWeights; ++i) numbers.bytes[i / 2][row][i % 2] = source[i];
}

inline void Place(const uint8_t* nibbles, int row, PanelNibbles& numbers) {
  for (int load = 0; load < 4; ++load) {
    for (int i = 0; i < 2; ++i) {
      const auto nibble = [=](int ahead) { return NibbleOf(nibbles, 8 * load + i + ahead); };
      const int word = nibble(0) | nibble(2) << 4 | nibble(4) << 8 | nibble(6) << 12;
      numbers.words[load][row][i].bits = static_cast<uint16_t>(word);
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

// The numbers of a vector of rows, of all pairs of columns that load `load` has.
inline void LoadPairs(const PanelBytes& numbers, int load, int vec, PairVec pairs[1]) {
  const int8_t* source = &numbers.bytes[load][vec * kLanes][0];
#if defined(PAGED_OPS_AVX512)
  pairs[0] = (PairVec)_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
#elif defined(PAGED_OPS_AVX2)
  pairs[0] = (PairVec)_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
#else
  typedef int8_t PairBytes __attribute__((vector_size(kLanes * 2)));
  PairBytes bytes;
  std::memcpy(&bytes, source, sizeof bytes);
  pairs[0] = __builtin_convertvector(bytes, PairVec);
#endif
}

inline void LoadPairs(const PanelNibbles& numbers, int load, int vec, PairVec pairs[4]) {
  const PackedVec words = (PackedVec)LoadPair(&numbers.words[load][vec * kLanes][0]);
  pairs[0] = (PairVec)(words & 15);
  pairs[1] = (PairVec)(words >> 4 & 15);
  pairs[2] = (PairVec)(words >> 8 & 15);
  pairs[3] = (PairVec)(words >> 12);
}

}  // namespace paged_ops
