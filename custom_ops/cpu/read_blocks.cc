// read_blocks: copy whole blocks out of the paged cache, for the tiers below it.
//
//   key_cache, value_cache  [NB, BS, K, D]
//   block_ids               [P] int32
//   output                  [2, P, BS, K, D] of the caches' type: keys, then values

#include "aot_op.h"

namespace paged_ops {
namespace {

constexpr char kOp[] = "read_blocks";

void RequireBlocks(const Tensor& block_ids, int64_t num_blocks) {
  for (int64_t p = 0; p < block_ids.shape[0]; ++p) {
    const int32_t id = block_ids.as<int32_t>()[p];
    if (id < 0 || id >= num_blocks) Refuse(kOp, "place ", p, ": block ", id, " is outside [0, ", num_blocks, ")");
  }
}

}  // namespace
}  // namespace paged_ops

PAGED_OPS_EXPORT int ReadBlocks(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  Arguments arguments(kOp, 4, nparam, params, ndims, shapes, dtypes);
  const Pages pages = NextPages(kOp, arguments);
  const Tensor block_ids = arguments.NextInt32("block_ids", 1);
  const Tensor output = arguments.NextFloat("output", 5);
  const int64_t count = block_ids.shape[0];
  RequireShape(kOp, output, {2, count, pages.block_size, pages.num_kv_heads, pages.head_dim});
  RequireSameDType(kOp, output, pages.keys);
  RequireBlocks(block_ids, pages.num_blocks);

  const int64_t block_bytes = pages.block_size * pages.token_stride() * ByteSize(pages.keys.dtype);
  for (int64_t which = 0; which < 2; ++which) {
    const Tensor& cache = which ? pages.values : pages.keys;
    for (int64_t p = 0; p < count; ++p) {
      std::memcpy(output.as<char>() + (which * count + p) * block_bytes,
                  cache.as<char>() + block_ids.as<int32_t>()[p] * block_bytes, block_bytes);
    }
  }
  return 0;
}
