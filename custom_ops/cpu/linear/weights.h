// The weights of a linear layer: floats, or the blocks of a GGUF file, in panels of 16 rows (panels.h).
//
// A row has num_columns weights. Blocks hold 32 neighbours of a row: a scale (and a minimum), then the numbers of few
// bits. Kinds bear GGML's own numbers.
// Source: the GGUF specification, github.com/ggml-org/ggml/blob/master/docs/gguf.md.
#pragma once

#include <algorithm>

#include "cpu/runtime/simd.h"
#include "op/aot_op.h"

namespace paged_ops {

enum class WeightKind : int64_t { kFloat32 = 0, kFloat16 = 1, kQ4_0 = 2, kQ4_1 = 3, kQ8_0 = 8, kBFloat16 = 30 };

constexpr int64_t kBlockWeights = 32;

// A float32 of a weight: as the other kinds, it may lie at any address.
struct __attribute__((packed)) Float {
  float number;
};

struct Q4_0 {  // (q - 8) * scale; byte i has the weights i, low bits, and i + 16
  Half scale;
  uint8_t nibbles[16];
};

struct Q4_1 {  // q * scale + minimum
  Half scale, minimum;
  uint8_t nibbles[16];
};

// A column's number among the 16 bytes of a Q4_0 or Q4_1.
inline int NibbleOf(const uint8_t* nibbles, int column) {
  return column < 16 ? nibbles[column] & 15 : nibbles[column - 16] >> 4;
}

struct Q8_0 {  // q * scale
  Half scale;
  int8_t numbers[32];
};

constexpr int kPanelRows = 16;
constexpr int kRowVecs = kPanelRows / kLanes;

// All panels; then the rows that are too few for one, as they come in a file. bias: [num_rows], or null.
struct Weights {
  WeightKind kind;
  const char* data;
  int64_t num_rows;
  int64_t num_columns;
  int64_t row_bytes;
  const float* bias = nullptr;

  int64_t bytes() const { return num_rows * row_bytes; }
  int64_t products(int64_t num_tokens) const { return num_tokens * num_rows * num_columns; }
  int64_t num_panels() const { return (num_rows + kPanelRows - 1) / kPanelRows; }
  int64_t rows_of(int64_t panel) const { return std::min<int64_t>(kPanelRows, num_rows - panel * kPanelRows); }
  const char* panel(int64_t index) const { return data + index * kPanelRows * row_bytes; }
};

inline int64_t BytesOfBlock(WeightKind kind) {
  switch (kind) {
    case WeightKind::kQ4_0: return sizeof(Q4_0);
    case WeightKind::kQ4_1: return sizeof(Q4_1);
    case WeightKind::kQ8_0: return sizeof(Q8_0);
    default: return 0;
  }
}

inline bool IsOfBlocks(WeightKind kind) { return BytesOfBlock(kind) != 0; }

inline float Number(Half half) {
#if defined(PAGED_OPS_AVX512) || defined(PAGED_OPS_AVX2)
  return _cvtsh_ss(half.bits);
#else
  return HalfToFloat(half);
#endif
}

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

// Calls use(T{}) with the type that a kind's weights, or blocks of them, have.
template <typename Use>
auto WithKind(WeightKind kind, Use&& use) {
  switch (kind) {
    case WeightKind::kFloat16: return use(Half{});
    case WeightKind::kBFloat16: return use(BFloat16{});
    case WeightKind::kQ4_0: return use(Q4_0{});
    case WeightKind::kQ4_1: return use(Q4_1{});
    case WeightKind::kQ8_0: return use(Q8_0{});
    default: return use(Float{});
  }
}

}  // namespace paged_ops
