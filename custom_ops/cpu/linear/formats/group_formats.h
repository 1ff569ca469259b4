// The formats of Hugging Face's quantized folders: whole numbers, or floats of 8 bits, with a float32 as scale of a group.
#pragma once

#include "cpu/linear/formats/block_format.h"

namespace paged_ops {

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

}  // namespace paged_ops
