// paged_attention on the emulated chip: op_kernel/paged_attention_custom.cpp.

#include "../../op_kernel/paged_attention_tiling.h"
#include "emulated_call.h"
#include "op/attention_call.h"

#define PAGED_ATTENTION_KERNEL(types)                                                                             \
  void paged_attention_custom_##types(uint8_t* query, uint8_t* key_cache, uint8_t* value_cache, uint8_t* block_table, \
                                      uint8_t* rows, uint8_t* context_lens, uint8_t* attention, uint8_t* workspace,   \
                                      uint8_t* tiling)
extern "C" {
PAGED_ATTENTION_KERNEL(float_half);
PAGED_ATTENTION_KERNEL(float_bfloat16_t);
PAGED_ATTENTION_KERNEL(half_half);
PAGED_ATTENTION_KERNEL(bfloat16_t_bfloat16_t);
PAGED_ATTENTION_KERNEL(float_int8_t);
PAGED_ATTENTION_KERNEL(half_int8_t);
PAGED_ATTENTION_KERNEL(bfloat16_t_int8_t);
}

namespace paged_ops {
namespace {

PagedAttentionLaunch MakeLaunch(const AttentionCall& call) {
  PagedAttentionShapes shapes;
  shapes.num_tokens = static_cast<uint32_t>(call.num_tokens());
  shapes.num_heads = static_cast<uint32_t>(call.num_heads());
  shapes.num_kv_heads = static_cast<uint32_t>(call.pages.num_kv_heads);
  shapes.head_dim = static_cast<uint32_t>(call.pages.head_dim);
  shapes.num_blocks = static_cast<uint32_t>(call.pages.num_blocks);
  shapes.block_size = static_cast<uint32_t>(call.pages.block_size);
  shapes.num_rows = static_cast<uint32_t>(call.block_table.shape[0]);
  shapes.blocks_per_row = static_cast<uint32_t>(call.block_table.shape[1]);
  shapes.query_bytes = static_cast<uint32_t>(ByteSize(call.query.dtype));
  shapes.cache_bytes = static_cast<uint32_t>(ByteSize(call.pages.keys.dtype));
  shapes.window = call.window;
  shapes.scale = call.scale;
  const PagedAttentionCores cores{Chip().vector_cores, Chip().cube_cores};
  if (Chip().attention_key != 0) return MakePagedAttentionLaunchFor(Chip().attention_key, shapes, cores);
  return MakePagedAttentionLaunch(shapes, cores);
}

void RequireWidth(const char* name, int64_t num_heads, int64_t head_dim) {
  if (num_heads * head_dim <= kPagedAttentionMaxWidth) return;
  Refuse(kPagedAttention, name, " has ", num_heads, " heads of ", head_dim, " numbers, together more than ",
         kPagedAttentionMaxWidth, ", which is as far as a copy can stride");
}

// What op_host refuses.
void RequireSupported(const AttentionCall& call, const PagedAttentionLaunch& launch) {
  RequireNarrowCache(kPagedAttention, call.pages);
  RequireInt8Heads(kPagedAttention, call.pages);
  if (call.pages.head_dim % 16 != 0 || call.pages.head_dim > kPagedAttentionMaxHeadDim) {
    Refuse(kPagedAttention, "head_dim ", call.pages.head_dim, " is not supported: it must be a multiple of 16, at most ",
           kPagedAttentionMaxHeadDim);
  }
  RequireWidth("query", call.num_heads(), call.pages.head_dim);
  RequireWidth("key_cache", call.pages.num_kv_heads, call.pages.head_dim);
  if (launch.tiling.group > MaxGroup(launch.tiling.cut)) {
    Refuse(kPagedAttention, "query has ", launch.tiling.group, " heads for each KV head, at most ",
           MaxGroup(launch.tiling.cut), " are supported");
  }
  const bool any_query = call.pages.keys.dtype == DType::kInt8;
  if (!any_query && call.query.dtype != DType::kFloat32 && call.query.dtype != call.pages.keys.dtype) {
    Refuse(kPagedAttention, "query has dtype ", call.query.dtype_name, ", it must be float32 or that of the cache, ",
           call.pages.keys.dtype_name);
  }
}

auto KernelOf(const AttentionCall& call) {
  if (call.pages.keys.dtype == DType::kInt8) {
    if (call.query.dtype == DType::kFloat32) return paged_attention_custom_float_int8_t;
    return call.query.dtype == DType::kFloat16 ? paged_attention_custom_half_int8_t
                                               : paged_attention_custom_bfloat16_t_int8_t;
  }
  const bool half = call.pages.keys.dtype == DType::kFloat16;
  if (call.query.dtype == DType::kFloat32) {
    return half ? paged_attention_custom_float_half : paged_attention_custom_float_bfloat16_t;
  }
  return half ? paged_attention_custom_half_half : paged_attention_custom_bfloat16_t_bfloat16_t;
}

}  // namespace
}  // namespace paged_ops

PAGED_OPS_EXPORT int PagedAttention(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                    void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  const AttentionCall call = ParseCall(Arguments(kPagedAttention, 9, nparam, params, ndims, shapes, dtypes));
  const PagedAttentionLaunch launch = MakeLaunch(call);
  RequireSupported(call, launch);
  if (!Chip().trusts_indices) RequireTokens(call);
  const bool cube = launch.tiling_key != kPagedAttentionVectorKey;
  const GmBuffer query = Input(call.query), keys = Input(call.pages.keys), values = Input(call.pages.values),
                 block_table = Input(call.block_table), rows = Input(call.rows), contexts = Input(call.context_lens),
                 attention = Output(call.output);
  RunKernel(kPagedAttention, cube ? ascendc_emulator::KernelType::kMixAic12 : ascendc_emulator::KernelType::kMixAiv10,
            launch.block_dim, launch.tiling_key, launch.workspace_bytes, launch.tiling,
            {query, keys, values, block_table, rows, contexts, attention}, [&](uint8_t* workspace, uint8_t* tiling) {
              KernelOf(call)(Address(query), Address(keys), Address(values), Address(block_table), Address(rows),
                             Address(contexts), Address(attention), workspace, tiling);
            });
  return 0;
}
