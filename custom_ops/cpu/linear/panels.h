// Weights in panels: 16 rows of a matrix, interleaved so that one load has the next weight of many rows.
//
// A token's number is then multiplied with a whole vector of rows, sums of different rows never meet, and a thread
// reads memory straight on. A panel has the bytes of its rows, in another order:
//   floats    [columns][16 rows]; of bfloat16, row 8 + i stands beside row i, so that 32 bits hold the two, or, for the
//             tiles of AMX and of whole tiles' columns, [columns / 2][16 rows][2]
//   blocks    for each 32 columns the 16 scales (and minimums), then the numbers as the CPU multiplies them: by pairs of
//             columns (number_pairs.h) or by fours (number_quads.h)
// Rows that are too few for a panel stay as they come, behind the last, and are arranged each time they are used.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "cpu/linear/weights.h"
#if defined(PAGED_OPS_VNNI)
#include "cpu/linear/number_quads.h"
#else
#include "cpu/linear/number_pairs.h"
#endif

namespace paged_ops {

// Blocks of 16 rows.
struct PanelOfQ8_0 {
  Half scales[kPanelRows];
  PanelBytes numbers;
};

struct PanelOfQ4_0 {
  Half scales[kPanelRows];
  PanelNibbles numbers;
};

struct PanelOfQ4_1 {
  Half scales[kPanelRows], minimums[kPanelRows];
  PanelNibbles numbers;
};

static_assert(sizeof(PanelOfQ8_0) == kPanelRows * sizeof(Q8_0));
static_assert(sizeof(PanelOfQ4_0) == kPanelRows * sizeof(Q4_0));
static_assert(sizeof(PanelOfQ4_1) == kPanelRows * sizeof(Q4_1));

template <typename T>
struct PanelBlock {};  // of floats there is none
template <>
struct PanelBlock<Q8_0> {
  using Type = PanelOfQ8_0;
};
template <>
struct PanelBlock<Q4_0> {
  using Type = PanelOfQ4_0;
};
template <>
struct PanelBlock<Q4_1> {
  using Type = PanelOfQ4_1;
};

template <typename T>
constexpr bool kIsBlock = sizeof(T) > sizeof(Float);

// Whether a panel of bfloat16 stands by pairs of columns: 32 of them are a tile.
constexpr int64_t kTileColumns = 32;
inline bool StandsByPairs([[maybe_unused]] int64_t num_columns) {
#if defined(PAGED_OPS_AMX)
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

inline float WeightOf(const PanelOfQ8_0& block, int row, int column) {
  return static_cast<float>(NumberOf(block.numbers, row, column)) * Number(block.scales[row]);
}

inline float WeightOf(const PanelOfQ4_0& block, int row, int column) {
  return static_cast<float>(NumberOf(block.numbers, row, column) - 8) * Number(block.scales[row]);
}

// One product and one sum, each rounded, as the GGUF reference has it.
inline float WeightOf(const PanelOfQ4_1& block, int row, int column) {
  const float product = static_cast<float>(NumberOf(block.numbers, row, column)) * Number(block.scales[row]);
  return product + Number(block.minimums[row]);
}

inline void Place(const Q8_0& source, int row, PanelOfQ8_0& block) {
  block.scales[row] = source.scale;
  Place(source.numbers, row, block.numbers);
}

inline void Place(const Q4_0& source, int row, PanelOfQ4_0& block) {
  block.scales[row] = source.scale;
  Place(source.nibbles, row, block.numbers);
}

inline void Place(const Q4_1& source, int row, PanelOfQ4_1& block) {
  block.scales[row] = source.scale;
  block.minimums[row] = source.minimum;
  Place(source.nibbles, row, block.numbers);
}

// A panel from num_rows rows as they come, each of `columns` weights; rows that are not there are zeros.
template <typename T>
void ArrangePanel(const char* rows, int64_t num_rows, int64_t row_bytes, int64_t columns, char* panel) {
  if (num_rows < kPanelRows) std::fill_n(panel, kPanelRows * row_bytes, '\0');
  for (int64_t r = 0; r < num_rows; ++r) {
    const T* row = reinterpret_cast<const T*>(rows + r * row_bytes);
    if constexpr (kIsBlock<T>) {
      auto* blocks = reinterpret_cast<typename PanelBlock<T>::Type*>(panel);
      for (int64_t b = 0; b < columns / kBlockWeights; ++b) Place(row[b], r, blocks[b]);
    } else {
      T* numbers = reinterpret_cast<T*>(panel);
      for (int64_t k = 0; k < columns; ++k) numbers[PlaceOf<T>(k, r, columns)] = row[k];
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

// A row as floats, exactly.
template <typename T>
void CopyRow(const char* panel, int row, int64_t columns, float* target) {
  for (int64_t k = 0; k < columns; ++k) {
    if constexpr (kIsBlock<T>) {
      const auto* blocks = reinterpret_cast<const typename PanelBlock<T>::Type*>(panel);
      target[k] = WeightOf(blocks[k / kBlockWeights], row, k % kBlockWeights);
    } else {
      target[k] = Number(reinterpret_cast<const T*>(panel)[PlaceOf<T>(k, row, columns)]);
    }
  }
}

inline void CopyRow(const Weights& weights, int64_t row, ArrangedPanel& arranged, float* target) {
  const char* panel = arranged.Of(weights, row / kPanelRows);
  WithKind(weights.kind, [&](auto of) { CopyRow<decltype(of)>(panel, row % kPanelRows, weights.num_columns, target); });
}

// The weights that a panel of floats, not by pairs, has of one column.
template <typename T>
void LoadColumn(const T* column, Vec weights[kRowVecs]) {
  PAGED_OPS_UNROLL_TILE
  for (int v = 0; v < kRowVecs; ++v) weights[v] = InRegister(Load(column + v * kLanes));
}

inline void LoadColumn(const BFloat16* column, Vec weights[kRowVecs]) {
#if defined(PAGED_OPS_AVX512)
  const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(column));
  const __m256i first = _mm256_slli_epi32(both, 16), second = _mm256_and_si256(both, _mm256_set1_epi32(-65536));
  weights[0] = (Vec)_mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
#else
  PAGED_OPS_UNROLL_TILE
  for (int v = 0; v < kRowVecs / 2; ++v) {
    BitVec both;
    std::memcpy(&both, column + v * 2 * kLanes, sizeof both);
    weights[v] = InRegister((Vec)(both << 16));
    weights[v + kRowVecs / 2] = InRegister((Vec)(both & 0xffff0000u));
  }
#endif
}

// What a block adds to each number of a vector of rows, after scaling; the blocks of Q8_0 add nothing.
inline Vec MinimumOf(const PanelOfQ4_0& block, int vec) { return Load(block.scales + vec * kLanes) * -8.0f; }
inline Vec MinimumOf(const PanelOfQ4_1& block, int vec) { return Load(block.minimums + vec * kLanes); }

template <typename Block>
constexpr bool kHasMinimum = !std::is_same_v<Block, PanelOfQ8_0>;

}  // namespace paged_ops
