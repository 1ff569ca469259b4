// write_blocks: put whole blocks, that read_blocks once gave, back into one layer's paged cache.
//
//   key_cache, value_cache  [NB, BS, K, D], changed in place
//   pages                   [L, 2, P, BS, K, D] of the caches' type: for every layer keys, then values
//   block_ids               [P] int32; -1 = the page is not written
//   layer                   int64 scalar: which of the L layers these caches belong to
//   output                  [1] int32, always 0: something for later operators to depend on
//
// All layers read one and the same `pages`: cutting it up in the graph would copy each part once more.

#include "aot_op.h"

namespace paged_ops {
namespace {

constexpr char kOp[] = "write_blocks";

void RequireBlocks(const Tensor& block_ids, int64_t num_blocks) {
  for (int64_t p = 0; p < block_ids.shape[0]; ++p) {
    const int32_t id = block_ids.as<int32_t>()[p];
    if (id < -1 || id >= num_blocks) Refuse(kOp, "place ", p, ": block ", id, " is outside [-1, ", num_blocks, ")");
  }
}

}  // namespace
}  // namespace paged_ops

PAGED_OPS_EXPORT int WriteBlocks(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                 void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  Arguments arguments(kOp, 6, nparam, params, ndims, shapes, dtypes);
  const Pages caches = NextPages(kOp, arguments);
  const Tensor pages = arguments.NextFloat("pages", 6);
  const Tensor block_ids = arguments.NextInt32("block_ids", 1);
  const Tensor layer_scalar = arguments.Next("layer", 0, {DType::kInt64});
  const Tensor output = arguments.NextInt32("output", 1);
  const int64_t count = block_ids.shape[0], num_layers = pages.shape[0], layer = layer_scalar.as<int64_t>()[0];
  RequireShape(kOp, pages, {num_layers, 2, count, caches.block_size, caches.num_kv_heads, caches.head_dim});
  RequireShape(kOp, output, {1});
  RequireSameDType(kOp, pages, caches.keys);
  if (layer < 0 || layer >= num_layers) Refuse(kOp, "layer ", layer, " is outside [0, ", num_layers, ")");
  RequireBlocks(block_ids, caches.num_blocks);

  const int64_t block_bytes = caches.block_size * caches.token_stride() * ByteSize(caches.keys.dtype);
  for (int64_t which = 0; which < 2; ++which) {
    const Tensor& cache = which ? caches.values : caches.keys;
    const char* source = pages.as<char>() + (layer * 2 + which) * count * block_bytes;
    for (int64_t p = 0; p < count; ++p) {
      const int64_t id = block_ids.as<int32_t>()[p];
      if (id >= 0) std::memcpy(cache.as<char>() + id * block_bytes, source + p * block_bytes, block_bytes);
    }
  }
  output.as<int32_t>()[0] = 0;
  return 0;
}
