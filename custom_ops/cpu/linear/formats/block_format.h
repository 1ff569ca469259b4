// What all formats of blocks build on: floats at any address, bytes of 16 rows, scales that are plain numbers.
#pragma once

#include <limits>

#include "cpu/linear/numbers.h"

namespace paged_ops {

inline float Number(Half half) {
#if defined(PAGED_OPS_AVX512) || defined(PAGED_OPS_AVX2)
  return _cvtsh_ss(half.bits);
#else
  return HalfToFloat(half);
#endif
}

// A float32 of a weight: as the other kinds, it may lie at any address.
struct __attribute__((packed)) Float {
  float number;
};

inline float Number(Float weight) { return weight.number; }

inline Vec Load(const Float* source) {
  Vec vec;
  std::memcpy(&vec, source, sizeof vec);
  return vec;
}

inline float Number(BFloat16 number) {
  const uint32_t bits = static_cast<uint32_t>(number.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Bytes of the 16 rows.
typedef uint8_t RowBytes __attribute__((vector_size(kPanelRows)));

inline RowBytes LoadRows(const uint8_t* source) {
  RowBytes rows;
  std::memcpy(&rows, source, sizeof rows);
  return rows;
}

inline Vec FromUnsigned(const uint8_t* source) {
#if defined(PAGED_OPS_AVX512)
  return (Vec)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source))));
#elif defined(PAGED_OPS_AVX2)
  return (Vec)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(source))));
#else
  Vec vec;
  for (int i = 0; i < kLanes; ++i) vec[i] = static_cast<float>(source[i]);
  return vec;
#endif
}

struct BlockFormat {
  static constexpr bool kAreFloats = false;
};

template <typename T>
constexpr bool kIsBlock = std::is_base_of_v<BlockFormat, T>;

template <typename Format>
constexpr int kUnitsOf = Format::kColumns / kUnitColumns;

// The halves of 16 bytes one behind the other.
inline void SplitNibbles(const uint8_t nibbles[16], uint8_t numbers[kUnitColumns]) {
  for (int i = 0; i < 16; ++i) {
    numbers[i] = nibbles[i] & 15;
    numbers[16 + i] = nibbles[i] >> 4;
  }
}

// A scale for a whole block, and a minimum or none, of type Scale each.
template <typename Scale>
struct PlainScales {
  const Scale *scales, *minimums;

  Vec scale(int, int, int vec) const { return Load(scales + vec * kLanes); }
  Vec minimum(int, int, int vec) const { return Load(minimums + vec * kLanes); }
};

// Blocks of 32 columns with a float16 as scale.
template <typename PanelNumbers>
struct OneHalf : BlockFormat {
  static constexpr int64_t kColumns = 32;
  static constexpr int kScalesOfUnit = 1;
  static constexpr bool kHasMinimum = false;

  struct Panel {
    Half scales[kPanelRows];
    PanelNumbers numbers[1];
  };
  struct Scales : PlainScales<Half> {
    explicit Scales(const Panel& panel) : PlainScales<Half>{panel.scales, nullptr} {}
  };

  template <typename Stored>
  static void Take(const Stored& stored, int row, Panel& panel) {
    panel.scales[row] = stored.scale;
  }
};

// The same with a minimum.
template <typename PanelNumbers>
struct TwoHalves : BlockFormat {
  static constexpr int64_t kColumns = 32;
  static constexpr int kScalesOfUnit = 1;
  static constexpr bool kHasMinimum = true;

  struct Panel {
    Half scales[kPanelRows], minimums[kPanelRows];
    PanelNumbers numbers[1];
  };
  struct Scales : PlainScales<Half> {
    explicit Scales(const Panel& panel) : PlainScales<Half>{panel.scales, panel.minimums} {}
  };

  template <typename Stored>
  static void Take(const Stored& stored, int row, Panel& panel) {
    panel.scales[row] = stored.scale;
    panel.minimums[row] = stored.minimum;
  }
};

}  // namespace paged_ops
