// Where an element of a matrix lies in the fractal layouts of the cube unit (Atlas A2), counted in elements.
//
// A fractal is 512 bytes: 16 rows of 32 bytes, so C0 = 32 / sizeof(T) elements in a row. The first letter of a layout
// says how the fractals follow each other, the second how the elements of one do: z by rows, n by columns.
//
//   Nz  L1, from an ND matrix [rows, columns]  (columns/C0, rows/16, 16, C0)
//   Zz  L0A, the left matrix [m, k]            (m/16, k/C0, 16, C0)
//   Zn  L0B, the right matrix [k, n]           (k/C0, n/16, 16 of n, C0 of k)
//   Nz  L0C, the result [m, n]                 (n/16, m/16, 16, 16), whatever the type
#pragma once

#include <algorithm>
#include <cstdint>

namespace ascendc_emulator {

constexpr uint32_t kFractalBytes = 512;
constexpr uint32_t kFractalRows = 16;
constexpr uint32_t kFractalRowBytes = 32;  // C0 elements
constexpr uint32_t kAccumulatorFractal = 16 * 16;  // elements of a fractal of L0C

inline constexpr uint32_t CeilDivide(uint32_t n, uint32_t by) { return (n + by - 1) / by; }

// Elements in a row of a fractal.
template <typename T>
inline constexpr uint32_t kC0 = kFractalRowBytes / sizeof(T);

// What of one fractal counts: its first `rows` rows, and of these the first `row_elements` elements.
struct FractalPart {
  uint32_t element;  // where the fractal starts
  uint32_t rows;
  uint32_t row_elements;
};

// The layout of an operand of Mmad: `lanes` (m of the left, n of the right matrix) by k.
struct OperandLayout {
  uint32_t lanes;
  uint32_t k;
  uint32_t c0;
  uint32_t k_fractals;  // kDirectionAlign makes it even for 32-bit types
  bool is_left;

  uint32_t LaneFractals() const { return CeilDivide(lanes, kFractalRows); }

  FractalPart Part(uint32_t lane_fractal, uint32_t k_fractal) const {
    const uint32_t index =
        is_left ? lane_fractal * k_fractals + k_fractal : k_fractal * LaneFractals() + lane_fractal;
    const uint32_t lanes_left = lanes - lane_fractal * kFractalRows;
    const uint32_t k_left = k - k_fractal * c0;
    return {index * kFractalRows * c0, std::min(lanes_left, kFractalRows), std::min(k_left, c0)};
  }
};

// Offset of C[m, n] in an L0C tile whose columns of fractals are `column_stride` rows apart.
inline uint32_t AccumulatorOffset(uint32_t m, uint32_t n, uint32_t column_stride) {
  return (n / 16) * column_stride * 16 + m * 16 + n % 16;
}

}  // namespace ascendc_emulator
