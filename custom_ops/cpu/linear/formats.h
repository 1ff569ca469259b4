// The formats that weights are held in: one struct each says how numbers and scales lie in a file and in a panel.
//
// A row has num_columns weights. Blocks hold some neighbours of a row: whole numbers of few bits, scales, and, in some,
// minimums that the products are added to. weight = (number - kOffset) * scale + minimum, scale and minimum for 32 or 16
// columns. Kinds bear GGML's own numbers; those of Hugging Face's quantized folders begin at 100.
//
// A format has:
//   kKind, kName, kColumns     GGML's number, its name in files, weights of a block
//   kOffset                    what the numbers have added, so that none is below 0
//   kLargest                   the largest number, with that
//   kScalesOfUnit              1: a scale for 32 columns; 2: one for each 16
//   kHasMinimum
//   Stored, Panel              a block of a row, as files have it, and blocks of 16 rows: of the same size, rows aside
//   Take(stored, row, panel)   moves a row's scales
//   Numbers(stored, unit, n)   the 32 numbers of a unit of its columns
//   Scales(panel)              of all rows: scale(unit, group, vec), minimum(unit, group, vec)
// Source: the GGUF specification, github.com/ggml-org/ggml/blob/master/docs/gguf.md, and gguf-py's quants.py.
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

// Of 32 columns: a scale that is a number of type Scale, and a minimum of the same type, or none.
template <typename Scale>
struct PlainScales {
  const Scale *scales, *minimums;

  Vec scale(int, int, int vec) const { return Load(scales + vec * kLanes); }
  Vec minimum(int, int, int vec) const { return Load(minimums + vec * kLanes); }
};

struct Q4_0 : BlockFormat {
  static constexpr int64_t kKind = 2, kColumns = 32;
  static constexpr const char* kName = "Q4_0";
  static constexpr int kOffset = 8, kLargest = 15, kScalesOfUnit = 1;
  static constexpr bool kHasMinimum = false;

  struct Stored {
    Half scale;
    uint8_t nibbles[16];
  };
  struct Panel {
    Half scales[kPanelRows];
    PanelNibbles numbers[1];
  };
  struct Scales : PlainScales<Half> {
    explicit Scales(const Panel& panel) : PlainScales{panel.scales, nullptr} {}
  };

  static void Take(const Stored& stored, int row, Panel& panel) { panel.scales[row] = stored.scale; }
  static void Numbers(const Stored& stored, int, uint8_t* numbers) { SplitNibbles(stored.nibbles, numbers); }
};

struct Q4_1 : BlockFormat {
  static constexpr int64_t kKind = 3, kColumns = 32;
  static constexpr const char* kName = "Q4_1";
  static constexpr int kOffset = 0, kLargest = 15, kScalesOfUnit = 1;
  static constexpr bool kHasMinimum = true;

  struct Stored {
    Half scale, minimum;
    uint8_t nibbles[16];
  };
  struct Panel {
    Half scales[kPanelRows], minimums[kPanelRows];
    PanelNibbles numbers[1];
  };
  struct Scales : PlainScales<Half> {
    explicit Scales(const Panel& panel) : PlainScales{panel.scales, panel.minimums} {}
  };

  static void Take(const Stored& stored, int row, Panel& panel) {
    panel.scales[row] = stored.scale;
    panel.minimums[row] = stored.minimum;
  }
  static void Numbers(const Stored& stored, int, uint8_t* numbers) { SplitNibbles(stored.nibbles, numbers); }
};

// Bit i of `bits` is the fifth of number i.
inline void AddFifthBits(const uint8_t bits[4], uint8_t numbers[kUnitColumns]) {
  for (int i = 0; i < kUnitColumns; ++i) numbers[i] |= (bits[i / 8] >> i % 8 & 1) << 4;
}

struct Q5_0 : BlockFormat {
  static constexpr int64_t kKind = 6, kColumns = 32;
  static constexpr const char* kName = "Q5_0";
  static constexpr int kOffset = 16, kLargest = 31, kScalesOfUnit = 1;
  static constexpr bool kHasMinimum = false;

  struct Stored {
    Half scale;
    uint8_t fifth_bits[4];
    uint8_t nibbles[16];
  };
  struct Panel {
    Half scales[kPanelRows];
    PanelSplitBits<4, 1> numbers[1];
  };
  struct Scales : PlainScales<Half> {
    explicit Scales(const Panel& panel) : PlainScales{panel.scales, nullptr} {}
  };

  static void Take(const Stored& stored, int row, Panel& panel) { panel.scales[row] = stored.scale; }
  static void Numbers(const Stored& stored, int, uint8_t* numbers) {
    SplitNibbles(stored.nibbles, numbers);
    AddFifthBits(stored.fifth_bits, numbers);
  }
};

struct Q5_1 : BlockFormat {
  static constexpr int64_t kKind = 7, kColumns = 32;
  static constexpr const char* kName = "Q5_1";
  static constexpr int kOffset = 0, kLargest = 31, kScalesOfUnit = 1;
  static constexpr bool kHasMinimum = true;

  struct Stored {
    Half scale, minimum;
    uint8_t fifth_bits[4];
    uint8_t nibbles[16];
  };
  struct Panel {
    Half scales[kPanelRows], minimums[kPanelRows];
    PanelSplitBits<4, 1> numbers[1];
  };
  struct Scales : PlainScales<Half> {
    explicit Scales(const Panel& panel) : PlainScales{panel.scales, panel.minimums} {}
  };

  static void Take(const Stored& stored, int row, Panel& panel) {
    panel.scales[row] = stored.scale;
    panel.minimums[row] = stored.minimum;
  }
  static void Numbers(const Stored& stored, int, uint8_t* numbers) {
    SplitNibbles(stored.nibbles, numbers);
    AddFifthBits(stored.fifth_bits, numbers);
  }
};

struct Q8_0 : BlockFormat {
  static constexpr int64_t kKind = 8, kColumns = 32;
  static constexpr const char* kName = "Q8_0";
  static constexpr int kOffset = 128, kLargest = 255, kScalesOfUnit = 1;
  static constexpr bool kHasMinimum = false;

  struct Stored {
    Half scale;
    uint8_t bytes[32];
  };
  struct Panel {
    Half scales[kPanelRows];
    PanelBytes numbers[1];
  };
  struct Scales : PlainScales<Half> {
    explicit Scales(const Panel& panel) : PlainScales{panel.scales, nullptr} {}
  };

  static void Take(const Stored& stored, int row, Panel& panel) { panel.scales[row] = stored.scale; }
  static void Numbers(const Stored& stored, int, uint8_t* numbers) { std::memcpy(numbers, stored.bytes, 32); }
};

// K-quants: 256 columns whose scales are whole numbers times one float16.

struct Q2_K : BlockFormat {
  static constexpr int64_t kKind = 10, kColumns = 256;
  static constexpr const char* kName = "Q2_K";
  static constexpr int kOffset = 0, kLargest = 3, kScalesOfUnit = 2;
  static constexpr bool kHasMinimum = true;

  struct Stored {
    uint8_t scales[16];  // of 16 columns: the scale in the low bits, the minimum in the high ones
    uint8_t bits[64];
    Half scale, minimum;
  };
  struct Panel {
    Half scales[kPanelRows], minimums[kPanelRows];
    uint8_t of_groups[16][kPanelRows];
    PanelBits<2> numbers[8];
  };

  static void Take(const Stored& stored, int row, Panel& panel) {
    panel.scales[row] = stored.scale;
    panel.minimums[row] = stored.minimum;
    for (int i = 0; i < 16; ++i) panel.of_groups[i][row] = stored.scales[i];
  }
  static void Numbers(const Stored& stored, int unit, uint8_t* numbers) {
    for (int i = 0; i < 32; ++i) numbers[i] = stored.bits[unit / 4 * 32 + i] >> unit % 4 * 2 & 3;
  }

  class Scales {
   public:
    explicit Scales(const Panel& panel) : panel_(panel) {
      for (int i = 0; i < 16; ++i) {
        const RowBytes both = LoadRows(panel.of_groups[i]), scales = both & 15, minimums = both >> 4;
        std::memcpy(scales_[i], &scales, sizeof scales);
        std::memcpy(minimums_[i], &minimums, sizeof minimums);
      }
    }
    Vec scale(int unit, int group, int vec) const {
      return Load(panel_.scales + vec * kLanes) * FromUnsigned(scales_[2 * unit + group] + vec * kLanes);
    }
    Vec minimum(int unit, int group, int vec) const {
      return Load(panel_.minimums + vec * kLanes) * -FromUnsigned(minimums_[2 * unit + group] + vec * kLanes);
    }

   private:
    const Panel& panel_;
    uint8_t scales_[16][kPanelRows], minimums_[16][kPanelRows];
  };
};

// Of 16 columns a scale of six bits, less 32.
struct Q3_K : BlockFormat {
  static constexpr int64_t kKind = 11, kColumns = 256;
  static constexpr const char* kName = "Q3_K";
  static constexpr int kOffset = 4, kLargest = 7, kScalesOfUnit = 2;
  static constexpr bool kHasMinimum = false;

  struct Stored {
    uint8_t third_bits[32];
    uint8_t bits[64];
    uint8_t scales[12];
    Half scale;
  };
  struct Panel {
    Half scales[kPanelRows];
    uint8_t of_groups[12][kPanelRows];
    PanelSplitBits<2, 1> numbers[8];
  };

  static void Take(const Stored& stored, int row, Panel& panel) {
    panel.scales[row] = stored.scale;
    for (int i = 0; i < 12; ++i) panel.of_groups[i][row] = stored.scales[i];
  }
  static void Numbers(const Stored& stored, int unit, uint8_t* numbers) {
    for (int i = 0; i < 32; ++i) {
      const int low = stored.bits[unit / 4 * 32 + i] >> unit % 4 * 2 & 3;
      numbers[i] = static_cast<uint8_t>(low | (stored.third_bits[i] >> unit & 1) << 2);
    }
  }

  class Scales {
   public:
    explicit Scales(const Panel& panel) : panel_(panel) {
      for (int i = 0; i < 16; ++i) {
        const RowBytes low = LoadRows(panel.of_groups[i % 8]) >> i / 8 * 4 & 15;
        const RowBytes high = LoadRows(panel.of_groups[8 + i % 4]) >> i / 4 * 2 & 3;
        const RowBytes scales = (low | high << 4) - 32;
        std::memcpy(scales_[i], &scales, sizeof scales);
      }
    }
    Vec scale(int unit, int group, int vec) const {
      return Load(panel_.scales + vec * kLanes) * Load(scales_[2 * unit + group] + vec * kLanes);
    }
    Vec minimum(int, int, int) const { return Vec{}; }

   private:
    const Panel& panel_;
    int8_t scales_[16][kPanelRows];
  };
};

// What Q4_K and Q5_K share: for each 32 columns a scale and a minimum of six bits.
struct SixBitScales {
  Half scale, minimum;
  uint8_t of_units[12];
};

struct PanelSixBitScales {
  Half scales[kPanelRows], minimums[kPanelRows];
  uint8_t of_units[12][kPanelRows];

  void Take(const SixBitScales& stored, int row) {
    scales[row] = stored.scale;
    minimums[row] = stored.minimum;
    for (int i = 0; i < 12; ++i) of_units[i][row] = stored.of_units[i];
  }
};

class UnpackedSixBitScales {
 public:
  explicit UnpackedSixBitScales(const PanelSixBitScales& panel) : panel_(panel) {
    const auto put = [](uint8_t* target, RowBytes rows) { std::memcpy(target, &rows, sizeof rows); };
    for (int i = 0; i < 4; ++i) {
      const RowBytes first = LoadRows(panel.of_units[i]), second = LoadRows(panel.of_units[4 + i]);
      const RowBytes both = LoadRows(panel.of_units[8 + i]);
      put(scales_[i], first & 63);
      put(minimums_[i], second & 63);
      put(scales_[4 + i], (both & 15) | (first >> 6 << 4));
      put(minimums_[4 + i], both >> 4 | (second >> 6 << 4));
    }
  }

  Vec scale(int unit, int, int vec) const {
    return Load(panel_.scales + vec * kLanes) * FromUnsigned(scales_[unit] + vec * kLanes);
  }
  Vec minimum(int unit, int, int vec) const {
    return Load(panel_.minimums + vec * kLanes) * -FromUnsigned(minimums_[unit] + vec * kLanes);
  }

 private:
  const PanelSixBitScales& panel_;
  uint8_t scales_[8][kPanelRows], minimums_[8][kPanelRows];
};

struct Q4_K : BlockFormat {
  static constexpr int64_t kKind = 12, kColumns = 256;
  static constexpr const char* kName = "Q4_K";
  static constexpr int kOffset = 0, kLargest = 15, kScalesOfUnit = 1;
  static constexpr bool kHasMinimum = true;

  struct Stored {
    SixBitScales scales;
    uint8_t nibbles[128];
  };
  struct Panel {
    PanelSixBitScales scales;
    PanelNibbles numbers[8];
  };
  struct Scales : UnpackedSixBitScales {
    explicit Scales(const Panel& panel) : UnpackedSixBitScales(panel.scales) {}
  };

  static void Take(const Stored& stored, int row, Panel& panel) { panel.scales.Take(stored.scales, row); }
  static void Numbers(const Stored& stored, int unit, uint8_t* numbers) {
    for (int i = 0; i < 32; ++i) numbers[i] = stored.nibbles[unit / 2 * 32 + i] >> unit % 2 * 4 & 15;
  }
};

struct Q5_K : BlockFormat {
  static constexpr int64_t kKind = 13, kColumns = 256;
  static constexpr const char* kName = "Q5_K";
  static constexpr int kOffset = 0, kLargest = 31, kScalesOfUnit = 1;
  static constexpr bool kHasMinimum = true;

  struct Stored {
    SixBitScales scales;
    uint8_t fifth_bits[32];
    uint8_t nibbles[128];
  };
  struct Panel {
    PanelSixBitScales scales;
    PanelSplitBits<4, 1> numbers[8];
  };
  struct Scales : UnpackedSixBitScales {
    explicit Scales(const Panel& panel) : UnpackedSixBitScales(panel.scales) {}
  };

  static void Take(const Stored& stored, int row, Panel& panel) { panel.scales.Take(stored.scales, row); }
  static void Numbers(const Stored& stored, int unit, uint8_t* numbers) {
    for (int i = 0; i < 32; ++i) {
      const int low = stored.nibbles[unit / 2 * 32 + i] >> unit % 2 * 4 & 15;
      numbers[i] = static_cast<uint8_t>(low | (stored.fifth_bits[i] >> unit & 1) << 4);
    }
  }
};

struct Q6_K : BlockFormat {
  static constexpr int64_t kKind = 14, kColumns = 256;
  static constexpr const char* kName = "Q6_K";
  static constexpr int kOffset = 32, kLargest = 63, kScalesOfUnit = 2;
  static constexpr bool kHasMinimum = false;

  struct Stored {
    uint8_t nibbles[128];
    uint8_t high_bits[64];
    int8_t scales[16];
    Half scale;
  };
  struct Panel {
    Half scales[kPanelRows];
    int8_t of_groups[16][kPanelRows];
    PanelSplitBits<4, 2> numbers[8];
  };

  static void Take(const Stored& stored, int row, Panel& panel) {
    panel.scales[row] = stored.scale;
    for (int i = 0; i < 16; ++i) panel.of_groups[i][row] = stored.scales[i];
  }
  static void Numbers(const Stored& stored, int unit, uint8_t* numbers) {
    const uint8_t* nibbles = stored.nibbles + unit / 4 * 64 + unit % 2 * 32;
    const uint8_t* high_bits = stored.high_bits + unit / 4 * 32;
    for (int i = 0; i < 32; ++i) {
      const int low = nibbles[i] >> unit % 4 / 2 * 4 & 15;
      numbers[i] = static_cast<uint8_t>(low | (high_bits[i] >> unit % 4 * 2 & 3) << 4);
    }
  }

  struct Scales {
    explicit Scales(const Panel& of_rows) : panel(of_rows) {}
    Vec scale(int unit, int group, int vec) const {
      return Load(panel.scales + vec * kLanes) * Load(panel.of_groups[2 * unit + group] + vec * kLanes);
    }
    Vec minimum(int, int, int) const { return Vec{}; }

    const Panel& panel;
  };
};

// Tables of numbers, each with 128, or 12, added.
inline constexpr uint8_t kIQ4Table[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
inline constexpr uint8_t kMXFP4Table[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

struct IQ4_NL : BlockFormat {
  static constexpr int64_t kKind = 20, kColumns = 32;
  static constexpr const char* kName = "IQ4_NL";
  static constexpr int kOffset = 128, kLargest = 241, kScalesOfUnit = 1;
  static constexpr bool kHasMinimum = false;

  struct Stored {
    Half scale;
    uint8_t nibbles[16];
  };
  struct Panel {
    Half scales[kPanelRows];
    PanelTable<kIQ4Table> numbers[1];
  };
  struct Scales : PlainScales<Half> {
    explicit Scales(const Panel& panel) : PlainScales{panel.scales, nullptr} {}
  };

  static void Take(const Stored& stored, int row, Panel& panel) { panel.scales[row] = stored.scale; }
  static void Numbers(const Stored& stored, int, uint8_t* numbers) { SplitNibbles(stored.nibbles, numbers); }
};

// Of 32 columns a scale of six bits, less 32: four of them in one place, two in another.
struct IQ4_XS : BlockFormat {
  static constexpr int64_t kKind = 23, kColumns = 256;
  static constexpr const char* kName = "IQ4_XS";
  static constexpr int kOffset = 128, kLargest = 241, kScalesOfUnit = 1;
  static constexpr bool kHasMinimum = false;

  struct Stored {
    Half scale;
    uint8_t high_bits[2];
    uint8_t low_bits[4];
    uint8_t nibbles[128];
  };
  struct Panel {
    Half scales[kPanelRows];
    uint8_t high_bits[2][kPanelRows];
    uint8_t low_bits[4][kPanelRows];
    PanelTable<kIQ4Table> numbers[8];
  };

  static void Take(const Stored& stored, int row, Panel& panel) {
    panel.scales[row] = stored.scale;
    for (int i = 0; i < 2; ++i) panel.high_bits[i][row] = stored.high_bits[i];
    for (int i = 0; i < 4; ++i) panel.low_bits[i][row] = stored.low_bits[i];
  }
  static void Numbers(const Stored& stored, int unit, uint8_t* numbers) {
    SplitNibbles(stored.nibbles + unit * 16, numbers);
  }

  class Scales {
   public:
    explicit Scales(const Panel& panel) : panel_(panel) {
      for (int i = 0; i < 8; ++i) {
        const RowBytes low = LoadRows(panel.low_bits[i / 2]) >> i % 2 * 4 & 15;
        const RowBytes high = LoadRows(panel.high_bits[i / 4]) >> i % 4 * 2 & 3;
        const RowBytes scales = (low | high << 4) - 32;
        std::memcpy(scales_[i], &scales, sizeof scales);
      }
    }
    Vec scale(int unit, int, int vec) const {
      return Load(panel_.scales + vec * kLanes) * Load(scales_[unit] + vec * kLanes);
    }
    Vec minimum(int, int, int) const { return Vec{}; }

   private:
    const Panel& panel_;
    int8_t scales_[8][kPanelRows];
  };
};

// Scales are powers of two. Source: the OCP Microscaling Formats specification, version 1.0.
struct MXFP4 : BlockFormat {
  static constexpr int64_t kKind = 39, kColumns = 32;
  static constexpr const char* kName = "MXFP4";
  static constexpr int kOffset = 12, kLargest = 24, kScalesOfUnit = 1;
  static constexpr bool kHasMinimum = false;

  struct Stored {
    uint8_t exponent;
    uint8_t nibbles[16];
  };
  struct Panel {
    uint8_t exponents[kPanelRows];
    PanelTable<kMXFP4Table> numbers[1];
  };
  struct Scales {
    explicit Scales(const Panel& of_rows) : panel(of_rows) {}
    // Half of 2 to the exponent less 127: the table's numbers are doubled. The lowest two are below normal numbers.
    Vec scale(int, int, int vec) const {
      BitVec exponents;
      for (int i = 0; i < kLanes; ++i) exponents[i] = panel.exponents[vec * kLanes + i];
      return (Vec)(exponents < 2 ? 0x00200000u << exponents : (exponents - 1) << 23);
    }
    Vec minimum(int, int, int) const { return Vec{}; }

    const Panel& panel;
  };

  static void Take(const Stored& stored, int row, Panel& panel) { panel.exponents[row] = stored.exponent; }
  static void Numbers(const Stored& stored, int, uint8_t* numbers) { SplitNibbles(stored.nibbles, numbers); }
};

// Of Hugging Face's quantized folders, each group with a scale in float32.

template <int64_t kKindOfGroup, int kGroup>
struct Int4Group : BlockFormat {
  static constexpr int64_t kKind = kKindOfGroup, kColumns = kGroup;
  static constexpr const char* kName = kGroup == 32 ? "INT4_G32" : kGroup == 64 ? "INT4_G64" : "INT4_G128";
  static constexpr int kOffset = 0, kLargest = 15, kScalesOfUnit = 1;
  static constexpr bool kHasMinimum = true;  // that of a zero point

  struct __attribute__((packed)) Stored {
    Float scale;
    uint8_t zero;
    uint8_t nibbles[kGroup / 2];
  };
  struct Panel {
    Float scales[kPanelRows];
    uint8_t zeros[kPanelRows];
    PanelNibbles numbers[kGroup / kUnitColumns];
  };
  struct Scales {
    explicit Scales(const Panel& of_rows) : panel(of_rows) {}
    Vec scale(int, int, int vec) const { return Load(panel.scales + vec * kLanes); }
    Vec minimum(int, int, int vec) const { return scale(0, 0, vec) * -FromUnsigned(panel.zeros + vec * kLanes); }

    const Panel& panel;
  };

  static void Take(const Stored& stored, int row, Panel& panel) {
    panel.scales[row] = stored.scale;
    panel.zeros[row] = stored.zero;
  }
  static void Numbers(const Stored& stored, int unit, uint8_t* numbers) {
    SplitNibbles(stored.nibbles + unit * 16, numbers);
  }
};

template <int64_t kKindOfGroup, int kGroup>
struct Int8Group : BlockFormat {
  static constexpr int64_t kKind = kKindOfGroup, kColumns = kGroup;
  static constexpr const char* kName = kGroup == 32 ? "INT8_G32" : "INT8_G128";
  static constexpr int kOffset = 128, kLargest = 255, kScalesOfUnit = 1;
  static constexpr bool kHasMinimum = false;

  struct __attribute__((packed)) Stored {
    Float scale;
    uint8_t bytes[kGroup];
  };
  struct Panel {
    Float scales[kPanelRows];
    PanelBytes numbers[kGroup / kUnitColumns];
  };
  struct Scales : PlainScales<Float> {
    explicit Scales(const Panel& panel) : PlainScales<Float>{panel.scales, nullptr} {}
  };

  static void Take(const Stored& stored, int row, Panel& panel) { panel.scales[row] = stored.scale; }
  static void Numbers(const Stored& stored, int unit, uint8_t* numbers) {
    std::memcpy(numbers, stored.bytes + unit * kUnitColumns, kUnitColumns);
  }
};

// kLanes numbers of E4M3, of four bits of exponent and three of fraction, as float16 has room for: 256 times as small there.
inline Vec FromE4M3(const uint8_t* source) {
  Half halves[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    halves[i].bits = static_cast<uint16_t>((source[i] & 0x80) << 8 | (source[i] & 0x7f) << 7);
  }
  return Load(halves) * 256.0f;
}

// Floats of 8 bits, which are multiplied as floats (dot_fp8.h). Source: Micikevicius et al. 2022, "FP8 Formats for Deep
// Learning"; the kind without infinities, in which all ones is no number: then the scale is none either.
template <int64_t kKindOfGroup, int kGroup>
struct Fp8Group : BlockFormat {
  static constexpr int64_t kKind = kKindOfGroup, kColumns = kGroup;
  static constexpr const char* kName = kGroup == 32 ? "FP8_G32" : "FP8_G128";
  static constexpr bool kAreFloats = true;

  struct __attribute__((packed)) Stored {
    Float scale;
    uint8_t numbers[kGroup];
  };
  struct Panel {
    Float scales[kPanelRows];
    uint8_t numbers[kGroup][kPanelRows];
  };
  struct Scales : PlainScales<Float> {
    explicit Scales(const Panel& panel) : PlainScales<Float>{panel.scales, nullptr} {}
  };

  static void Place(const Stored& stored, int row, Panel& panel) {
    panel.scales[row] = stored.scale;
    for (int i = 0; i < kGroup; ++i) {
      panel.numbers[i][row] = stored.numbers[i];
      if ((stored.numbers[i] & 0x7f) == 0x7f) panel.scales[row].number = std::numeric_limits<float>::quiet_NaN();
    }
  }
};

// All formats of blocks: a new one is a struct above and a name here, and a row in formats/weight_format.py.
template <typename... Format>
struct FormatList {};
using BlockFormats =
    FormatList<Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4, Int4Group<100, 32>,
               Int4Group<101, 64>, Int4Group<102, 128>, Int8Group<103, 32>, Int8Group<104, 128>, Fp8Group<105, 32>, Fp8Group<106, 128>>;

template <typename... Format>
constexpr bool PanelsAreOfTheSameSize(FormatList<Format...>) {
  return ((sizeof(typename Format::Panel) == kPanelRows * sizeof(typename Format::Stored)) && ...) &&
         ((alignof(typename Format::Panel) == 1 || alignof(typename Format::Panel) == alignof(Half)) && ...);
}
static_assert(PanelsAreOfTheSameSize(BlockFormats()));

}  // namespace paged_ops
