// The weights of a linear layer: floats, or blocks of a format (formats.h), in panels of 16 rows (panels.h).
#pragma once

#include <algorithm>
#include <string>

#include "cpu/linear/formats.h"
#include "cpu/linear/low_rank.h"
#include "op/aot_op.h"

namespace paged_ops {

// A format by GGML's number for it; those of blocks are named in formats.h alone. kW16A16: bfloat16, multiplied with
// tokens that are rounded to bfloat16, too, where the CPU has such products and no tiles.
enum class WeightKind : int64_t { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 30, kW16A16 = 107 };

// All panels; then the rows that are too few for one, as they come in a file. bias: [num_rows], or null. low_rank: what
// adapters add to the products.
struct Weights {
  WeightKind kind;
  const char* data;
  int64_t num_rows;
  int64_t num_columns;
  int64_t row_bytes;
  const float* bias = nullptr;
  LowRank low_rank = {};

  int64_t bytes() const { return num_rows * row_bytes; }
  int64_t products(int64_t num_tokens) const { return num_tokens * num_rows * num_columns; }
  int64_t num_panels() const { return (num_rows + kPanelRows - 1) / kPanelRows; }
  int64_t rows_of(int64_t panel) const { return std::min<int64_t>(kPanelRows, num_rows - panel * kPanelRows); }
  const char* panel(int64_t index) const { return data + index * kPanelRows * row_bytes; }
};

// Calls use(Format{}) for a kind of blocks, use(Float{}) for one that is none.
template <typename Use, typename First, typename... Rest>
auto WithBlocksOf(int64_t kind, Use&& use, FormatList<First, Rest...>) {
  if (kind == First::kKind) return use(First{});
  if constexpr (sizeof...(Rest) == 0) {
    return use(Float{});
  } else {
    return WithBlocksOf(kind, use, FormatList<Rest...>());
  }
}

// Calls use(T{}) with a format of blocks, or the type of a kind's floats.
template <typename Use>
auto WithKind(WeightKind kind, Use&& use) {
  switch (kind) {
    case WeightKind::kFloat32: return use(Float{});
    case WeightKind::kFloat16: return use(Half{});
    case WeightKind::kBFloat16:
    case WeightKind::kW16A16: return use(BFloat16{});
    default: return WithBlocksOf(static_cast<int64_t>(kind), use, BlockFormats());
  }
}

// Of the blocks of a kind: weights, and bytes; zeros for floats and for what is no kind.
struct BlockSize {
  int64_t columns, bytes;
};

inline BlockSize BlockSizeOf(int64_t kind) {
  return WithBlocksOf(
      kind,
      [](auto of) -> BlockSize {
        using Format = decltype(of);
        if constexpr (kIsBlock<Format>) return {Format::kColumns, sizeof(typename Format::Stored)};
        return {0, 0};
      },
      BlockFormats());
}

// Whether a kind's numbers are multiplied with whole numbers of the tokens.
inline bool TakesWholeNumbers(WeightKind kind) {
  return WithKind(kind, [](auto of) {
    if constexpr (kIsBlock<decltype(of)>) return !decltype(of)::kAreFloats;
    return false;
  });
}

// "2 (Q4_0), 3 (Q4_1), …": what a refusal says is allowed.
template <typename... Format>
std::string NamesOf(FormatList<Format...>) {
  std::string names;
  ((names += (names.empty() ? "" : ", ") + std::to_string(Format::kKind) + " (" + Format::kName + ")"), ...);
  return names;
}

// Bytes of one float; 0 for kinds of blocks, and for what is no kind.
inline int64_t FloatBytesOf(int64_t kind) {
  switch (static_cast<WeightKind>(kind)) {
    case WeightKind::kFloat32: return 4;
    case WeightKind::kFloat16:
    case WeightKind::kBFloat16:
    case WeightKind::kW16A16: return 2;
    default: return 0;
  }
}

inline bool IsKind(int64_t kind) { return FloatBytesOf(kind) != 0 || BlockSizeOf(kind).columns != 0; }

// Bytes of a row of a kind, whose blocks divide it.
inline int64_t BytesOfRow(int64_t kind, int64_t columns) {
  const BlockSize block = BlockSizeOf(kind);
  return block.columns == 0 ? columns * FloatBytesOf(kind) : columns / block.columns * block.bytes;
}

inline void RequireWholeBlocks(const char* op, const char* name, int64_t kind, int64_t columns) {
  const BlockSize block = BlockSizeOf(kind);
  if (block.columns != 0 && columns % block.columns != 0) {
    Refuse(op, name, " has ", columns, " columns, not a multiple of the ", block.columns, " of a block");
  }
}

}  // namespace paged_ops
