// Weights of many layers in a few pieces of memory, the packs: MindSpore takes microseconds to tell an op of an input.
#pragma once

#include <vector>

#include "cpu/step/layer_weights.h"

namespace paged_ops {

// Where a weight lies, as a row of the op's `layout`: from `offset` bytes of a pack on, [rows, columns] of a kind. Of a
// weight that the layer lacks the pack is kNoPack.
struct WeightPlace {
  int64_t pack, offset, kind, rows, columns;
};

constexpr int64_t kNoPack = -1;
constexpr int64_t kPlaceNumbers = sizeof(WeightPlace) / sizeof(int64_t);

// A layer's weights, each checked when it is asked for; refused in the name of `op`.
class PackedWeights {
 public:
  // layout: [kNumRoles, kPlaceNumbers] of the layer.
  PackedWeights(const char* op, const std::vector<Tensor>& packs, const int64_t* layout)
      : op_(op), packs_(packs), layout_(layout) {}

  // [rows, columns], the rows as they come.
  Weights Matrix(Role role, int64_t columns) const {
    const char* name = kRoleNames[role];
    const WeightPlace place = PlaceOfNeeded(role);
    if (!IsKind(place.kind)) {
      Refuse(op_, name, " has kind ", place.kind, ", allowed: 0 (float32), 1 (float16), 30 (bfloat16), ",
             NamesOf(BlockFormats()));
    }
    RequireColumns(op_, name, columns);
    if (place.columns != columns) {
      Refuse(op_, name, " has ", place.columns, " columns, it must have ", columns);
    }
    RequireWholeBlocks(op_, name, place.kind, columns);
    const int64_t row_bytes = BytesOfRow(place.kind, columns);
    return {static_cast<WeightKind>(place.kind), Memory(name, place, row_bytes), place.rows, columns, row_bytes};
  }

  // float32 [columns]; null if the layer has none.
  const float* Row(Role role, int64_t columns) const {
    const WeightPlace place = PlaceOf(role);
    return place.pack == kNoPack ? nullptr : RowAt(role, place, columns);
  }

  // One that every layer has.
  const float* NeededRow(Role role, int64_t columns) const { return RowAt(role, PlaceOfNeeded(role), columns); }

 private:
  WeightPlace PlaceOf(Role role) const {
    const int64_t* row = layout_ + role * kPlaceNumbers;
    return {row[0], row[1], row[2], row[3], row[4]};
  }

  WeightPlace PlaceOfNeeded(Role role) const {
    const WeightPlace place = PlaceOf(role);
    if (place.pack == kNoPack) Refuse(op_, kRoleNames[role], " is absent (pack -1), every layer must have it");
    return place;
  }

  const float* RowAt(Role role, const WeightPlace& place, int64_t columns) const {
    const char* name = kRoleNames[role];
    if (place.kind != 0 || place.rows != 1 || place.columns != columns) {
      Refuse(op_, name, " has kind ", place.kind, " and shape [", place.rows, ", ", place.columns,
             "], it must be 0 (float32) and [1, ", columns, "]");
    }
    return reinterpret_cast<const float*>(Memory(name, place, columns * sizeof(float)));
  }

  char* Memory(const char* name, const WeightPlace& place, int64_t row_bytes) const {
    const int64_t num_packs = packs_.size();
    if (place.pack < 0 || place.pack >= num_packs) {
      Refuse(op_, name, " is in pack ", place.pack, ", outside [0, ", num_packs, ")");
    }
    const int64_t held = packs_[place.pack].shape[0];
    const bool starts_inside = place.offset >= 0 && place.offset <= held;
    if (!starts_inside || place.rows < 0 || place.rows > (held - place.offset) / row_bytes) {
      Refuse(op_, name, " has ", place.rows, " rows of ", row_bytes, " bytes from ", place.offset, " on in pack ",
             place.pack, ", which has ", held);
    }
    return packs_[place.pack].as<char>() + place.offset;
  }

  const char* op_;
  const std::vector<Tensor>& packs_;
  const int64_t* layout_;
};

}  // namespace paged_ops
