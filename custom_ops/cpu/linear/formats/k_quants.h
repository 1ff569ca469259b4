// GGUF's formats whose blocks have 256 columns: scales are whole numbers times one float16.
#pragma once

#include "cpu/linear/formats/block_format.h"
#include "cpu/linear/formats/small_blocks.h"

namespace paged_ops {

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

// 256 columns with scales and minimums of six bits.
template <typename PanelNumbers>
struct SixBitFormat : BlockFormat {
  static constexpr int64_t kColumns = 256;
  static constexpr int kOffset = 0, kScalesOfUnit = 1;
  static constexpr bool kHasMinimum = true;

  struct Panel {
    PanelSixBitScales scales;
    PanelNumbers numbers[8];
  };
  struct Scales : UnpackedSixBitScales {
    explicit Scales(const Panel& panel) : UnpackedSixBitScales(panel.scales) {}
  };

  template <typename Stored>
  static void Take(const Stored& stored, int row, Panel& panel) {
    panel.scales.Take(stored.scales, row);
  }
};

struct Q4_K : SixBitFormat<PanelNibbles> {
  static constexpr int64_t kKind = 12;
  static constexpr const char* kName = "Q4_K";
  static constexpr int kLargest = 15;

  struct Stored {
    SixBitScales scales;
    uint8_t nibbles[128];
  };

  static void Numbers(const Stored& stored, int unit, uint8_t* numbers) {
    for (int i = 0; i < 32; ++i) numbers[i] = stored.nibbles[unit / 2 * 32 + i] >> unit % 2 * 4 & 15;
  }
};

struct Q5_K : SixBitFormat<PanelFiveBits> {
  static constexpr int64_t kKind = 13;
  static constexpr const char* kName = "Q5_K";
  static constexpr int kLargest = 31;

  struct Stored {
    SixBitScales scales;
    uint8_t fifth_bits[32];
    uint8_t nibbles[128];
  };

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

}  // namespace paged_ops
