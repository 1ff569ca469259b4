// Weights in panels: 16 rows of a matrix, interleaved so that one load has the next weight of many rows.
//
// A token's number is then multiplied with a whole vector of rows, sums of different rows never meet, and a thread
// reads memory straight on. A panel has the bytes of its rows, in another order:
//   floats    [columns][16 rows]; of bfloat16, row 8 + i stands beside row i, so that 32 bits hold the two, or, for
//             AVX-512 and AMX and of whole tiles' columns, [columns / 2][16 rows][2]
//   blocks    one of the rows' behind the other: their scales, byte by byte of all rows, then their numbers (numbers.h)
// Rows that are too few for a panel stay as they come, behind the last, and are arranged each time they are used.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "cpu/linear/weights.h"

namespace paged_ops {

// Whether a panel of bfloat16 stands by pairs of columns: 32 of them are a tile.
constexpr int64_t kTileColumns = 32;
inline bool StandsByPairs([[maybe_unused]] int64_t num_columns) {
#if defined(PAGED_OPS_AVX512)
  return num_columns % kTileColumns == 0;
#else
  return false;
#endif
}

// Where a panel of floats, of num_columns, has a row's weight of a column.
template <typename T>
int64_t PlaceOf(int64_t column, int row, int64_t num_columns) {
  if (!std::is_same_v<T, BFloat16>) return column * kPanelRows + row;
  if (StandsByPairs(num_columns)) return column / 2 * 2 * kPanelRows + row * 2 + column % 2;
  return column * kPanelRows + row % 8 * 2 + row / 8;
}

// A row's blocks into their place. The panel is zeros before.
template <typename Format>
void PlaceBlocks(const typename Format::Stored* row, int64_t num_blocks, int index, typename Format::Panel* panel) {
  for (int64_t b = 0; b < num_blocks; ++b) {
    if constexpr (Format::kAreFloats) {
      Format::Place(row[b], index, panel[b]);
    } else {
      uint8_t numbers[kUnitColumns];
      Format::Take(row[b], index, panel[b]);
      for (int unit = 0; unit < kUnitsOf<Format>; ++unit) {
        Format::Numbers(row[b], unit, numbers);
        panel[b].numbers[unit].Put(index, numbers);
      }
    }
  }
}

// A panel from num_rows rows as they come, each of `columns` weights; rows that are not there are zeros.
template <typename T>
void ArrangePanel(const char* rows, int64_t num_rows, int64_t row_bytes, int64_t columns, char* panel) {
  if (kIsBlock<T> || num_rows < kPanelRows) std::fill_n(panel, kPanelRows * row_bytes, '\0');
  for (int64_t r = 0; r < num_rows; ++r) {
    const char* row = rows + r * row_bytes;
    if constexpr (kIsBlock<T>) {
      PlaceBlocks<T>(reinterpret_cast<const typename T::Stored*>(row), columns / T::kColumns, r,
                     reinterpret_cast<typename T::Panel*>(panel));
    } else {
      T* numbers = reinterpret_cast<T*>(panel);
      for (int64_t k = 0; k < columns; ++k) {
        numbers[PlaceOf<T>(k, r, columns)] = reinterpret_cast<const T*>(row)[k];
      }
    }
  }
}

inline void ArrangePanel(WeightKind kind, const char* rows, int64_t num_rows, int64_t row_bytes, int64_t columns,
                         char* panel) {
  WithKind(kind, [&](auto of) { ArrangePanel<decltype(of)>(rows, num_rows, row_bytes, columns, panel); });
}

// Panels that were too few rows, arranged; one thread's memory.
class ArrangedPanel {
 public:
  // Panel `index` of the weights, as a panel whatever its number of rows.
  const char* Of(const Weights& weights, int64_t index) {
    const int64_t num_rows = weights.rows_of(index);
    if (num_rows == kPanelRows) return weights.panel(index);
    memory_.resize(kPanelRows * weights.row_bytes);
    ArrangePanel(weights.kind, weights.panel(index), num_rows, weights.row_bytes, weights.num_columns, memory_.data());
    return memory_.data();
  }

 private:
  std::vector<char> memory_;
};

template <typename Format>
void CopyFloats(const typename Format::Panel* panel, int row, int64_t num_blocks, float* target) {
  const int vec = row / kLanes, lane = row % kLanes;
  for (int64_t b = 0; b < num_blocks; ++b) {
    const Vec scales = typename Format::Scales(panel[b]).scale(0, 0, vec);
    for (int64_t column = 0; column < Format::kColumns; ++column, ++target) {
      *target = FromE4M3(panel[b].numbers[column] + vec * kLanes)[lane] * scales[lane];
    }
  }
}

// A row of blocks as floats: a product and, where there is a minimum, a sum, each rounded, as the GGUF reference has it.
template <typename Format>
void CopyBlocks(const typename Format::Panel* panel, int row, int64_t num_blocks, float* target) {
  constexpr int kGroupColumns = kUnitColumns / Format::kScalesOfUnit;
  const int vec = row / kLanes, lane = row % kLanes;
  for (int64_t b = 0; b < num_blocks; ++b) {
    const typename Format::Scales scales(panel[b]);
    for (int unit = 0; unit < kUnitsOf<Format>; ++unit) {
      for (int column = 0; column < kUnitColumns; ++column, ++target) {
        const int group = column / kGroupColumns;
        const int number = panel[b].numbers[unit].At(row, column) - Format::kOffset;
        *target = static_cast<float>(number) * scales.scale(unit, group, vec)[lane];
        if constexpr (Format::kHasMinimum) *target += scales.minimum(unit, group, vec)[lane];
      }
    }
  }
}

// A row as floats, exactly.
template <typename T>
void CopyRow(const char* panel, int row, int64_t columns, float* target) {
  if constexpr (kIsBlock<T>) {
    const auto* blocks = reinterpret_cast<const typename T::Panel*>(panel);
    if constexpr (T::kAreFloats) {
      CopyFloats<T>(blocks, row, columns / T::kColumns, target);
    } else {
      CopyBlocks<T>(blocks, row, columns / T::kColumns, target);
    }
  } else {
    for (int64_t k = 0; k < columns; ++k) {
      target[k] = Number(reinterpret_cast<const T*>(panel)[PlaceOf<T>(k, row, columns)]);
    }
  }
}

inline void CopyRow(const Weights& weights, int64_t row, ArrangedPanel& arranged, float* target) {
  const char* panel = arranged.Of(weights, row / kPanelRows);
  WithKind(weights.kind, [&](auto of) { CopyRow<decltype(of)>(panel, row % kPanelRows, weights.num_columns, target); });
}

// Two columns' weights of a row, side by side.
struct BFloat16Pair {
  BFloat16 weights[2];
};

template <typename T>
constexpr int kColumnsOfLoad = std::is_same_v<T, BFloat16Pair> ? 2 : 1;

// The weights that a panel of floats has of one column, or by pairs of two.
template <typename T>
void LoadColumns(const T* source, Vec weights[kColumnsOfLoad<T>][kRowVecs]) {
  PAGED_OPS_UNROLL_TILE
  for (int v = 0; v < kRowVecs; ++v) weights[0][v] = InRegister(Load(source + v * kLanes));
}

inline void LoadColumns(const BFloat16* source, Vec weights[1][kRowVecs]) {
#if defined(PAGED_OPS_AVX512)
  const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
  const __m256i first = _mm256_slli_epi32(both, 16), second = _mm256_and_si256(both, _mm256_set1_epi32(-65536));
  weights[0][0] = (Vec)_mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
#else
  PAGED_OPS_UNROLL_TILE
  for (int v = 0; v < kRowVecs / 2; ++v) {
    BitVec both;
    std::memcpy(&both, source + v * 2 * kLanes, sizeof both);
    weights[0][v] = InRegister((Vec)(both << 16));
    weights[0][v + kRowVecs / 2] = InRegister((Vec)(both & 0xffff0000u));
  }
#endif
}

#if defined(PAGED_OPS_AVX512)
inline void LoadColumns(const BFloat16Pair* source, Vec weights[2][kRowVecs]) {
  const BitVec both = (BitVec)_mm512_loadu_si512(source);
  weights[0][0] = InRegister((Vec)(both << 16));
  weights[1][0] = InRegister((Vec)(both & 0xffff0000u));
}
#endif

}  // namespace paged_ops
