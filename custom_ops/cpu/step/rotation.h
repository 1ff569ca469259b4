// Rotary embedding of heads: each pair (i, i + rotary_dim / 2) of a head's first numbers is turned by an angle.
// Source: Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", in rotate-half order.
#pragma once

#include "cpu/runtime/simd.h"
#include "op/aot_op.h"

namespace paged_ops {

// cos and sin by position, as a layer rotates its heads; no cos: it does not.
struct Rotation {
  const float* cos = nullptr;
  const float* sin = nullptr;
  int64_t rotary_dim = 0;
};

constexpr int64_t kNoRotation = -1;

// cos_tables and sin_tables [S, P, 1, rotary_dim], of which a layer has one or none.
struct RotaryTables {
  Tensor cos, sin;

  int64_t num_tables() const { return cos.shape[0]; }
  int64_t num_positions() const { return cos.shape[1]; }
  int64_t rotary_dim() const { return cos.shape[3]; }

  // Refused in the name of `op`.
  Rotation Of(const char* op, int64_t table) const {
    if (table < kNoRotation || table >= num_tables()) {
      Refuse(op, "rope table is ", table, ", outside [-1, ", num_tables(), ")");
    }
    if (table == kNoRotation) return {};
    const int64_t offset = table * num_positions() * rotary_dim();
    return {cos.as<float>() + offset, sin.as<float>() + offset, rotary_dim()};
  }
};

inline RotaryTables NextRotaryTables(Arguments& arguments) {
  const Tensor cos = arguments.Next("cos_tables", 4, {DType::kFloat32});
  return {cos, arguments.Next("sin_tables", 4, {DType::kFloat32})};
}

inline void RequireTables(const char* op, const RotaryTables& tables, int64_t head_dim) {
  const int64_t rotary_dim = tables.rotary_dim();
  if (tables.cos.shape[2] != 1 || rotary_dim <= 0 || rotary_dim % 2 != 0 || rotary_dim > head_dim) {
    Refuse(op, "cos_tables has shape ", ShapeText(tables.cos.shape, 4),
           ", it must be [tables, positions, 1, rotary_dim], rotary_dim even and at most the head_dim of ", head_dim);
  }
  RequireShape(op, tables.sin, tables.cos.shape, 4);
}

// The same roundings as the unfused products and sum.
inline void Rotate(float* head, const float* cos, const float* sin, int64_t rotary_dim) {
  const int64_t half = rotary_dim / 2;
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const Vec first = Load(head + i), second = Load(head + i + half);
    Store(head + i, first * Load(cos + i) - second * Load(sin + i));
    Store(head + i + half, second * Load(cos + i + half) + first * Load(sin + i + half));
  }
  for (; i < half; ++i) {
    const float first = head[i], second = head[i + half];
    head[i] = first * cos[i] - second * sin[i];
    head[i + half] = second * cos[i + half] + first * sin[i + half];
  }
}

}  // namespace paged_ops
