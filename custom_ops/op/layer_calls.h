// The arguments of the ops between the products of a layer, checked.
#pragma once

#include "op/cache_calls.h"

namespace paged_ops {

constexpr char kFusedAddRmsNorm[] = "fused_add_rms_norm";
constexpr char kRopeAndCache[] = "rope_and_cache";
constexpr char kActAndMul[] = "act_and_mul";

struct FusedAddRmsNormCall {
  Tensor x;
  Tensor added;
  Tensor added_weight;
  Tensor weight;
  float epsilon;
  float residual_scale;
  int64_t options;
  Tensor output;

  int64_t num_tokens() const { return x.shape[0]; }
  int64_t width() const { return x.shape[1]; }
};

struct RopeAndCacheCall {
  Tensor qkv;
  Tensor bias;
  Tensor head_norms;
  Tensor rotation;
  Pages pages;
  Tensor slot_mapping;
  float epsilon;
  int64_t options;
  Tensor output;

  int64_t num_tokens() const { return slot_mapping.shape[0]; }
  int64_t num_heads() const { return output.shape[1]; }
  int64_t rotated() const { return rotation.shape[1]; }
};

struct ActAndMulCall {
  Tensor gate_up;
  Tensor bias;
  int64_t activation;
  int64_t has_bias;
  Tensor output;

  int64_t num_tokens() const { return output.shape[0]; }
  int64_t width() const { return output.shape[1]; }
};

// A number that a graph fixes, in [0, end).
inline int64_t NextChoice(const char* op, Arguments& arguments, const char* name, int64_t end) {
  const int64_t value = arguments.Next(name, 0, {DType::kInt64}).as<int64_t>()[0];
  if (value < 0 || value >= end) Refuse(op, name, " ", value, " is outside [0, ", end, ")");
  return value;
}

inline float NextNumber(Arguments& arguments, const char* name) {
  return arguments.Next(name, 0, {DType::kFloat32}).as<float>()[0];
}

inline FusedAddRmsNormCall ParseFusedAddRmsNorm(Arguments arguments) {
  const char* op = kFusedAddRmsNorm;
  const Tensor x = arguments.NextFloat("x", 2), added = arguments.NextFloat("added", 2);
  const Tensor added_weight = arguments.NextFloat("added_weight", 1), weight = arguments.NextFloat("weight", 1);
  const float epsilon = NextNumber(arguments, "epsilon"), residual_scale = NextNumber(arguments, "residual_scale");
  const int64_t options = NextChoice(op, arguments, "options", 4);
  const Tensor output = arguments.NextFloat("output", 2);
  for (const Tensor* tensor : {&added, &output}) RequireShape(op, *tensor, {x.shape[0], x.shape[1]});
  for (const Tensor* tensor : {&added_weight, &weight}) RequireShape(op, *tensor, {x.shape[1]});
  for (const Tensor* tensor : {&added, &added_weight, &weight, &output}) RequireSameDType(op, *tensor, x);
  return {x, added, added_weight, weight, epsilon, residual_scale, options, output};
}

inline RopeAndCacheCall ParseRopeAndCache(Arguments arguments) {
  const char* op = kRopeAndCache;
  const Tensor qkv = arguments.NextFloat("qkv", 2), bias = arguments.NextFloat("bias", 1);
  const Tensor head_norms = arguments.NextFloat("head_norms", 2);
  const Tensor rotation = arguments.Next("rotation", 2, {DType::kFloat32});
  const Pages pages = NextPages(op, arguments);
  const Tensor slot_mapping = arguments.NextInt32("slot_mapping", 1);
  const float epsilon = NextNumber(arguments, "epsilon");
  const int64_t options = NextChoice(op, arguments, "options", 8);
  const Tensor output = arguments.NextFloat("output", 3);

  const int64_t num_tokens = slot_mapping.shape[0], head_dim = pages.head_dim;
  const int64_t num_heads = qkv.shape[1] / head_dim - 2 * pages.num_kv_heads;
  if (num_heads <= 0 || num_heads % pages.num_kv_heads != 0 || qkv.shape[1] % head_dim != 0) {
    Refuse(op, "qkv has ", qkv.shape[1], " columns, no queries beside keys and values of ", pages.num_kv_heads,
           " KV heads of ", head_dim);
  }
  RequireShape(op, qkv, {num_tokens, qkv.shape[1]});
  RequireShape(op, bias, {qkv.shape[1]});
  RequireShape(op, head_norms, {2, head_dim});
  RequireShape(op, rotation, {num_tokens, rotation.shape[1]});
  RequireShape(op, output, {num_tokens, num_heads, head_dim});
  for (const Tensor* tensor : {&bias, &head_norms, &output}) RequireSameDType(op, *tensor, qkv);
  RequireSlots(op, slot_mapping, pages.num_blocks * pages.block_size);
  return {qkv, bias, head_norms, rotation, pages, slot_mapping, epsilon, options, output};
}

inline ActAndMulCall ParseActAndMul(Arguments arguments) {
  const char* op = kActAndMul;
  const Tensor gate_up = arguments.NextFloat("gate_up", 2), bias = arguments.NextFloat("bias", 1);
  const int64_t activation = NextChoice(op, arguments, "activation", 2);
  const int64_t has_bias = NextChoice(op, arguments, "has_bias", 2);
  const Tensor output = arguments.NextFloat("output", 2);
  RequireShape(op, gate_up, {output.shape[0], 2 * output.shape[1]});
  RequireShape(op, bias, {gate_up.shape[1]});
  for (const Tensor* tensor : {&bias, &output}) RequireSameDType(op, *tensor, gate_up);
  return {gate_up, bias, activation, has_bias, output};
}

}  // namespace paged_ops
