// GGUF's formats whose blocks have 32 columns.
#pragma once

#include "cpu/linear/formats/block_format.h"

namespace paged_ops {

struct Q4_0 : OneHalf<PanelNibbles> {
  static constexpr int64_t kKind = 2;
  static constexpr const char* kName = "Q4_0";
  static constexpr int kOffset = 8, kLargest = 15;

  struct Stored {
    Half scale;
    uint8_t nibbles[16];
  };

  static void Numbers(const Stored& stored, int, uint8_t* numbers) { SplitNibbles(stored.nibbles, numbers); }
};

struct Q4_1 : TwoHalves<PanelNibbles> {
  static constexpr int64_t kKind = 3;
  static constexpr const char* kName = "Q4_1";
  static constexpr int kOffset = 0, kLargest = 15;

  struct Stored {
    Half scale, minimum;
    uint8_t nibbles[16];
  };

  static void Numbers(const Stored& stored, int, uint8_t* numbers) { SplitNibbles(stored.nibbles, numbers); }
};

// Bit i of `bits` is the fifth of number i.
inline void AddFifthBits(const uint8_t bits[4], uint8_t numbers[kUnitColumns]) {
  for (int i = 0; i < kUnitColumns; ++i) numbers[i] |= (bits[i / 8] >> i % 8 & 1) << 4;
}

struct Q5_0 : OneHalf<PanelFiveBits> {
  static constexpr int64_t kKind = 6;
  static constexpr const char* kName = "Q5_0";
  static constexpr int kOffset = 16, kLargest = 31;

  struct Stored {
    Half scale;
    uint8_t fifth_bits[4];
    uint8_t nibbles[16];
  };

  static void Numbers(const Stored& stored, int, uint8_t* numbers) {
    SplitNibbles(stored.nibbles, numbers);
    AddFifthBits(stored.fifth_bits, numbers);
  }
};

struct Q5_1 : TwoHalves<PanelFiveBits> {
  static constexpr int64_t kKind = 7;
  static constexpr const char* kName = "Q5_1";
  static constexpr int kOffset = 0, kLargest = 31;

  struct Stored {
    Half scale, minimum;
    uint8_t fifth_bits[4];
    uint8_t nibbles[16];
  };

  static void Numbers(const Stored& stored, int, uint8_t* numbers) {
    SplitNibbles(stored.nibbles, numbers);
    AddFifthBits(stored.fifth_bits, numbers);
  }
};

struct Q8_0 : OneHalf<PanelBytes> {
  static constexpr int64_t kKind = 8;
  static constexpr const char* kName = "Q8_0";
  static constexpr int kOffset = 128, kLargest = 255;

  struct Stored {
    Half scale;
    uint8_t bytes[32];
  };

  static void Numbers(const Stored& stored, int, uint8_t* numbers) { std::memcpy(numbers, stored.bytes, 32); }
};

// Tables of numbers, each with 128, or 12, added.
inline constexpr uint8_t kIQ4Table[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
inline constexpr uint8_t kMXFP4Table[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

struct IQ4_NL : OneHalf<PanelTable<kIQ4Table>> {
  static constexpr int64_t kKind = 20;
  static constexpr const char* kName = "IQ4_NL";
  static constexpr int kOffset = 128, kLargest = 241;

  struct Stored {
    Half scale;
    uint8_t nibbles[16];
  };

  static void Numbers(const Stored& stored, int, uint8_t* numbers) { SplitNibbles(stored.nibbles, numbers); }
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

}  // namespace paged_ops
