// Weights of many layers in a few pieces of memory, the packs: MindSpore takes microseconds to tell an op of an input.
#pragma once

#include <string>
#include <vector>

#include "linear_call.h"

namespace paged_ops {

// Where a weight lies, as a row of the op's `layout`: from `offset` bytes of a pack on, [rows, columns] of a kind. A layer
// that has no such weight says kNoPack.
struct WeightPlace {
  int64_t pack, offset, kind, rows, columns;
};

constexpr int64_t kNoPack = -1;
constexpr int64_t kPlaceNumbers = sizeof(WeightPlace) / sizeof(int64_t);

// 0 for what is no kind.
inline int64_t BytesOfRow(int64_t kind, int64_t columns) {
  switch (static_cast<WeightKind>(kind)) {
    case WeightKind::kFloat32: return columns * 4;
    case WeightKind::kFloat16:
    case WeightKind::kBFloat16: return columns * 2;
    default: return columns / kBlockWeights * BytesOfBlock(static_cast<WeightKind>(kind));
  }
}

// Takes a layer's weights in their order, each checked; refused in the name of `op`.
class PackedLayer {
 public:
  PackedLayer(const std::vector<Tensor>& packs, const int64_t* layout) : packs_(packs), layout_(layout) {}

  // [rows, columns], the rows as they come.
  Weights NextWeight(const char* op, const char* name, int64_t columns) {
    const WeightPlace place = Next();
    if (BytesOfRow(place.kind, kBlockWeights) == 0) {
      Refuse(op, name, " has kind ", place.kind,
             ", allowed: 0 (float32), 1 (float16), 30 (bfloat16), 2 (Q4_0), 3 (Q4_1), 8 (Q8_0)");
    }
    RequireColumns(op, name, columns);
    const auto kind = static_cast<WeightKind>(place.kind);
    if (place.columns != columns) {
      Refuse(op, name, " has ", place.columns, " columns, it must have ", columns);
    }
    if (IsOfBlocks(kind) && columns % kBlockWeights != 0) {
      Refuse(op, name, " has ", columns, " columns, not a multiple of the ", kBlockWeights, " of a block");
    }
    const int64_t row_bytes = BytesOfRow(place.kind, columns);
    return {kind, Memory(op, name, place, row_bytes), place.rows, columns, row_bytes};
  }

  // float32 [columns], as one row.
  Tensor NextNormWeight(const char* op, const char* name, const int64_t* shape) {
    return {name, OneRow(op, name, Next(), shape[0]), 1, shape, "float32", DType::kFloat32};
  }

  // That of weights that were taken, unless the layer has none.
  void NextBias(const char* op, const char* of, Weights* weights) {
    const WeightPlace place = Next();
    if (place.pack == kNoPack) return;
    const std::string name = std::string("bias of ") + of;
    weights->bias = reinterpret_cast<const float*>(OneRow(op, name.c_str(), place, weights->num_rows));
  }

 private:
  char* OneRow(const char* op, const char* name, const WeightPlace& place, int64_t columns) const {
    if (place.kind != 0 || place.rows != 1 || place.columns != columns) {
      Refuse(op, name, " has kind ", place.kind, " and shape [", place.rows, ", ", place.columns,
             "], it must be 0 (float32) and [1, ", columns, "]");
    }
    return Memory(op, name, place, columns * sizeof(float));
  }

  WeightPlace Next() {
    const WeightPlace place{layout_[0], layout_[1], layout_[2], layout_[3], layout_[4]};
    layout_ += kPlaceNumbers;
    return place;
  }

  char* Memory(const char* op, const char* name, const WeightPlace& place, int64_t row_bytes) const {
    const int64_t num_packs = packs_.size();
    if (place.pack < 0 || place.pack >= num_packs) {
      Refuse(op, name, " is in pack ", place.pack, ", outside [0, ", num_packs, ")");
    }
    const int64_t held = packs_[place.pack].shape[0];
    const bool starts_inside = place.offset >= 0 && place.offset <= held;
    if (!starts_inside || place.rows < 0 || place.rows > (held - place.offset) / row_bytes) {
      Refuse(op, name, " has ", place.rows, " rows of ", row_bytes, " bytes from ", place.offset, " on in pack ",
             place.pack, ", which has ", held);
    }
    return packs_[place.pack].as<char>() + place.offset;
  }

  const std::vector<Tensor>& packs_;
  const int64_t* layout_;
};

}  // namespace paged_ops
