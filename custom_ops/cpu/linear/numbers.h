// The numbers of 16 rows of a weight's blocks, 32 columns at a time: how they lie in a panel, and loads of them.
//
// Four neighbours in a row, a quad, stand together, and beside them those of the next row: so a load has one quad of
// many rows, as CPUs multiply them that add up four bytes (VNNI, AMX); those that multiply pairs of 16 bits take a
// quad's even columns and its odd ones. Numbers of few bits share bytes, each with another quad's of the same row.
#pragma once

#include "cpu/runtime/simd.h"

namespace paged_ops {

constexpr int kPanelRows = 16;
constexpr int kRowVecs = kPanelRows / kLanes;
constexpr int kUnitColumns = 32;  // that are multiplied with whole numbers of one token scale
constexpr int kQuad = 4;
constexpr int kUnitQuads = kUnitColumns / kQuad;

typedef uint8_t QuadVec __attribute__((vector_size(kLanes * kQuad)));  // a quad of kLanes rows
typedef uint16_t WordVec __attribute__((vector_size(kLanes * kQuad)));
typedef int16_t PairVec __attribute__((vector_size(kLanes * kQuad)));  // two columns of kLanes rows

typedef uint8_t QuadsOfRows[kPanelRows][kQuad];  // 64 bytes

inline QuadVec LoadQuad(const QuadsOfRows& quads, int vec) {
  QuadVec result;
  std::memcpy(&result, quads[vec * kLanes], sizeof result);
  return result;
}

// Bits `first` to `first` + kBits of each byte, at the bottom; first is a constant where this is inlined.
template <int kBits>
inline QuadVec BitsOf(QuadVec bytes, int first) {
  return (QuadVec)((WordVec)bytes >> first) & static_cast<uint8_t>((1 << kBits) - 1);
}

// The same, kUp bits up.
template <int kBits, int kUp>
inline QuadVec BitsUp(QuadVec bytes, int first) {
  constexpr uint8_t kMask = ((1 << kBits) - 1) << kUp;
  const WordVec words = (WordVec)bytes;
  return (QuadVec)(first >= kUp ? words >> (first - kUp) : words << (kUp - first)) & kMask;
}

// Four bytes as one number, to move a row's quad.
inline uint32_t QuadAt(const uint8_t* source) {
  uint32_t quad;
  std::memcpy(&quad, source, sizeof quad);
  return quad;
}

inline void OrInto(uint8_t* target, uint32_t bits) {
  const uint32_t quad = QuadAt(target) | bits;
  std::memcpy(target, &quad, sizeof quad);
}

// kBits of each number, of 32 columns: byte [i][row][j] has those of column kQuad * (i * kQuadsOfByte + s) + j at bit
// s * kBits. Put takes them from the bits `first` on of 32 numbers; what it writes to is zero before.
template <int kBits>
struct PanelBits {
  static constexpr int kQuadsOfByte = 8 / kBits;
  static constexpr uint32_t kMask = ((1u << kBits) - 1) * 0x01010101u;

  QuadsOfRows bytes[kUnitQuads / kQuadsOfByte];

  void Put(int row, const uint8_t numbers[kUnitColumns], int first = 0) {
    for (int quad = 0; quad < kUnitQuads; ++quad) {
      const uint32_t bits = QuadAt(numbers + quad * kQuad) >> first & kMask;
      OrInto(bytes[quad / kQuadsOfByte][row], bits << quad % kQuadsOfByte * kBits);
    }
  }

  QuadVec Quad(int quad, int vec) const {
    return BitsOf<kBits>(LoadQuad(bytes[quad / kQuadsOfByte], vec), quad % kQuadsOfByte * kBits);
  }

  template <int kUp>
  QuadVec QuadUp(int quad, int vec) const {
    return BitsUp<kBits, kUp>(LoadQuad(bytes[quad / kQuadsOfByte], vec), quad % kQuadsOfByte * kBits);
  }

  int At(int row, int column) const {
    const int quad = column / kQuad;
    return bytes[quad / kQuadsOfByte][row][column % kQuad] >> quad % kQuadsOfByte * kBits & ((1 << kBits) - 1);
  }
};

using PanelNibbles = PanelBits<4>;

// Lower and higher bits of the numbers apart.
template <int kLow, int kHigh>
struct PanelSplitBits {
  PanelBits<kLow> low;
  PanelBits<kHigh> high;

  void Put(int row, const uint8_t numbers[kUnitColumns]) {
    low.Put(row, numbers);
    high.Put(row, numbers, kLow);
  }

  QuadVec Quad(int quad, int vec) const { return low.Quad(quad, vec) | high.template QuadUp<kLow>(quad, vec); }
  int At(int row, int column) const { return low.At(row, column) | high.At(row, column) << kLow; }
};

using PanelFiveBits = PanelSplitBits<4, 1>;

// Signed bytes; as a quad each has 128 added.
struct PanelBytes {
  QuadsOfRows bytes[kUnitQuads];

  void Put(int row, const uint8_t numbers[kUnitColumns]) {
    for (int quad = 0; quad < kUnitQuads; ++quad) std::memcpy(bytes[quad][row], numbers + quad * kQuad, kQuad);
  }

  QuadVec Quad(int quad, int vec) const { return LoadQuad(bytes[quad], vec) ^ uint8_t{128}; }
  int At(int row, int column) const { return (bytes[column / kQuad][row][column % kQuad] ^ 128); }
};

// Four bits that stand for one of 16 numbers, kTable's, which are above 0.
template <const uint8_t (&kTable)[16]>
struct PanelTable {
  PanelNibbles nibbles;

  void Put(int row, const uint8_t numbers[kUnitColumns]) { nibbles.Put(row, numbers); }

  QuadVec Quad(int quad, int vec) const {
    const QuadVec index = nibbles.Quad(quad, vec);
#if defined(PAGED_OPS_AVX512)
    const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kTable)));
    return (QuadVec)_mm512_shuffle_epi8(table, (__m512i)index);
#elif defined(PAGED_OPS_AVX2)
    const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kTable)));
    return (QuadVec)_mm256_shuffle_epi8(table, (__m256i)index);
#else
    QuadVec numbers;
    for (int i = 0; i < kLanes * kQuad; ++i) numbers[i] = kTable[index[i]];
    return numbers;
#endif
  }

  int At(int row, int column) const { return kTable[nibbles.At(row, column)]; }
};

// A quad's even columns and its odd ones.
template <typename Numbers>
inline void LoadPairs(const Numbers& numbers, int quad, int vec, PairVec pairs[2]) {
  const WordVec words = (WordVec)numbers.Quad(quad, vec);
  pairs[0] = (PairVec)(words & 0xff);
  pairs[1] = (PairVec)(words >> 8);
}

// Of signed bytes, without the 128.
inline void LoadPairs(const PanelBytes& numbers, int quad, int vec, PairVec pairs[2]) {
  const PairVec words = (PairVec)LoadQuad(numbers.bytes[quad], vec);
  pairs[0] = (PairVec)((WordVec)words << 8) >> 8;
  pairs[1] = words >> 8;
}

}  // namespace paged_ops
