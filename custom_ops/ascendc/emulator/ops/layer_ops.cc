// The ops between the products of a layer, on the emulated chip.

#include "../../op_kernel/act_and_mul_tiling.h"
#include "../../op_kernel/fused_add_rms_norm_tiling.h"
#include "../../op_kernel/rope_and_cache_tiling.h"
#include "emulated_call.h"
#include "op/layer_calls.h"

#define NORM_KERNEL(type)                                                                                       \
  void fused_add_rms_norm_custom_##type(uint8_t* x, uint8_t* added, uint8_t* added_weight, uint8_t* weight, \
                                        uint8_t* normed, uint8_t* workspace, uint8_t* tiling)
#define ROPE_KERNEL(types)                                                                                       \
  void rope_and_cache_custom_##types(uint8_t* qkv, uint8_t* bias, uint8_t* head_norms, uint8_t* rotation,    \
                                     uint8_t* key_cache, uint8_t* value_cache, uint8_t* slot_mapping,            \
                                     uint8_t* query, uint8_t* workspace, uint8_t* tiling)
#define ACT_KERNEL(type)                                                                               \
  void act_and_mul_custom_##type(uint8_t* gate_up, uint8_t* bias, uint8_t* gated, uint8_t* workspace, \
                                 uint8_t* tiling)
extern "C" {
NORM_KERNEL(float);
NORM_KERNEL(half);
NORM_KERNEL(bfloat16_t);
ROPE_KERNEL(float_half);
ROPE_KERNEL(float_bfloat16_t);
ROPE_KERNEL(float_int8_t);
ROPE_KERNEL(half_half);
ROPE_KERNEL(half_bfloat16_t);
ROPE_KERNEL(half_int8_t);
ROPE_KERNEL(bfloat16_t_half);
ROPE_KERNEL(bfloat16_t_bfloat16_t);
ROPE_KERNEL(bfloat16_t_int8_t);
ACT_KERNEL(float);
ACT_KERNEL(half);
ACT_KERNEL(bfloat16_t);
}

namespace paged_ops {
namespace {

constexpr auto kVectorOnly = ascendc_emulator::KernelType::kAivOnly;

// Of three functions, the one for a type of tokens.
template <typename Kernel>
Kernel OfTokenType(const Tensor& tokens, Kernel of_float, Kernel of_half, Kernel of_bfloat16) {
  if (tokens.dtype == DType::kFloat32) return of_float;
  return tokens.dtype == DType::kFloat16 ? of_half : of_bfloat16;
}

auto KernelOf(const RopeAndCacheCall& call) {
  if (call.pages.keys.dtype == DType::kInt8) {
    return OfTokenType(call.qkv, rope_and_cache_custom_float_int8_t, rope_and_cache_custom_half_int8_t,
                       rope_and_cache_custom_bfloat16_t_int8_t);
  }
  if (call.pages.keys.dtype == DType::kFloat16) {
    return OfTokenType(call.qkv, rope_and_cache_custom_float_half, rope_and_cache_custom_half_half,
                       rope_and_cache_custom_bfloat16_t_half);
  }
  return OfTokenType(call.qkv, rope_and_cache_custom_float_bfloat16_t, rope_and_cache_custom_half_bfloat16_t,
                     rope_and_cache_custom_bfloat16_t_bfloat16_t);
}

// What op_host refuses, as it does.
void RequireMultiple(const char* op, const char* name, int64_t value, int64_t step, int64_t most) {
  if (value % step == 0 && value <= most) return;
  Refuse(op, name, " ", value, " is not supported: it must be a multiple of ", step, ", at most ", most);
}

constexpr int64_t kAnyWidth = 2147483647;

RopeAndCacheShapes ShapesOf(const RopeAndCacheCall& call) {
  RopeAndCacheShapes shapes;
  shapes.num_tokens = static_cast<uint32_t>(call.num_tokens());
  shapes.num_heads = static_cast<uint32_t>(call.num_heads());
  shapes.num_kv_heads = static_cast<uint32_t>(call.pages.num_kv_heads);
  shapes.head_dim = static_cast<uint32_t>(call.pages.head_dim);
  shapes.rotated = static_cast<uint32_t>(call.rotated());
  shapes.num_blocks = static_cast<uint32_t>(call.pages.num_blocks);
  shapes.block_size = static_cast<uint32_t>(call.pages.block_size);
  shapes.options = static_cast<uint32_t>(call.options);
  shapes.epsilon = call.epsilon;
  return shapes;
}

}  // namespace
}  // namespace paged_ops

PAGED_OPS_EXPORT int FusedAddRmsNorm(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                     void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  const FusedAddRmsNormCall call =
      ParseFusedAddRmsNorm(Arguments(kFusedAddRmsNorm, 8, nparam, params, ndims, shapes, dtypes));
  RequireMultiple(kFusedAddRmsNorm, "the width of x", call.width(), kNormWidthStep, kNormMostWidth);
  FusedAddRmsNormTiling tiling;
  tiling.num_tokens = static_cast<uint32_t>(call.num_tokens());
  tiling.width = static_cast<uint32_t>(call.width());
  tiling.options = static_cast<uint32_t>(call.options);
  tiling.epsilon = call.epsilon;
  tiling.residual_scale = call.residual_scale;
  const FusedAddRmsNormLaunch launch = MakeFusedAddRmsNormLaunch(tiling, Chip().vector_cores);
  const auto kernel = OfTokenType(call.x, fused_add_rms_norm_custom_float, fused_add_rms_norm_custom_half,
                                  fused_add_rms_norm_custom_bfloat16_t);
  const GmBuffer x = InOut(call.x), added = Input(call.added), added_weight = Input(call.added_weight),
                 weight = Input(call.weight), normed = Output(call.output);
  RunKernel(kFusedAddRmsNorm, kVectorOnly, launch.block_dim, 0, 0, launch.tiling,
            {x, added, added_weight, weight, normed}, [&](uint8_t* workspace, uint8_t* tiling_data) {
              kernel(Address(x), Address(added), Address(added_weight), Address(weight), Address(normed), workspace,
                     tiling_data);
            });
  return 0;
}

PAGED_OPS_EXPORT int RopeAndCache(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                  void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  const RopeAndCacheCall call = ParseRopeAndCache(Arguments(kRopeAndCache, 10, nparam, params, ndims, shapes, dtypes));
  RequireNarrowCache(kRopeAndCache, call.pages);
  RequireInt8Heads(kRopeAndCache, call.pages);
  RequireMultiple(kRopeAndCache, "head_dim", call.pages.head_dim, kRopeHeadDimStep, kRopeMostHeadDim);
  RequireMultiple(kRopeAndCache, "the width of rotation", call.rotated(), kRopeRotatedStep, call.pages.head_dim);
  const RopeAndCacheLaunch launch = MakeRopeAndCacheLaunch(ShapesOf(call), Chip().vector_cores);
  const GmBuffer qkv = Input(call.qkv), bias = Input(call.bias), head_norms = Input(call.head_norms),
                 rotation = Input(call.rotation), keys = InOut(call.pages.keys), values = InOut(call.pages.values),
                 slots = Input(call.slot_mapping), query = Output(call.output);
  RunKernel(kRopeAndCache, kVectorOnly, launch.block_dim, 0, 0, launch.tiling,
            {qkv, bias, head_norms, rotation, keys, values, slots, query}, [&](uint8_t* workspace, uint8_t* tiling) {
              KernelOf(call)(Address(qkv), Address(bias), Address(head_norms), Address(rotation), Address(keys),
                             Address(values), Address(slots), Address(query), workspace, tiling);
            });
  return 0;
}

PAGED_OPS_EXPORT int ActAndMul(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                               void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  const ActAndMulCall call = ParseActAndMul(Arguments(kActAndMul, 5, nparam, params, ndims, shapes, dtypes));
  RequireMultiple(kActAndMul, "half the width of gate_up", call.width(), kActWidthStep, kAnyWidth);
  const ActAndMulLaunch launch = MakeActAndMulLaunch(
      static_cast<uint32_t>(call.num_tokens()), static_cast<uint32_t>(call.width()),
      static_cast<uint32_t>(call.activation), static_cast<uint32_t>(call.has_bias), Chip().vector_cores);
  const auto kernel = OfTokenType(call.gate_up, act_and_mul_custom_float, act_and_mul_custom_half,
                                  act_and_mul_custom_bfloat16_t);
  const GmBuffer gate_up = Input(call.gate_up), bias = Input(call.bias), gated = Output(call.output);
  RunKernel(kActAndMul, kVectorOnly, launch.block_dim, 0, 0, launch.tiling, {gate_up, bias, gated},
            [&](uint8_t* workspace, uint8_t* tiling) {
              kernel(Address(gate_up), Address(bias), Address(gated), workspace, tiling);
            });
  return 0;
}
