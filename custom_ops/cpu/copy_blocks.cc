// copy_blocks: copy whole blocks of the paged cache, for copy-on-write and compaction.
//
//   key_cache, value_cache  [NB, BS, K, D], changed in place
//   pairs                   [P, 2] int32: source and destination block, done in order; -1, -1 = nothing
//   output                  [1] int32, always 0: something for later operators to depend on

#include "aot_op.h"

namespace paged_ops {
namespace {

constexpr char kOp[] = "copy_blocks";

void RequirePairs(const Tensor& pairs, int64_t num_blocks) {
  const int32_t* ids = pairs.as<int32_t>();
  for (int64_t p = 0; p < pairs.shape[0]; ++p) {
    if (ids[2 * p] == -1 && ids[2 * p + 1] == -1) continue;
    for (int side = 0; side < 2; ++side) {
      const int32_t id = ids[2 * p + side];
      if (id < 0 || id >= num_blocks) {
        Refuse(kOp, "pair ", p, ": ", side ? "destination" : "source", " block ", id, " is outside [0, ", num_blocks,
               ")");
      }
    }
  }
}

void CopyPairs(const Tensor& cache, const Tensor& pairs, int64_t block_bytes) {
  const int32_t* ids = pairs.as<int32_t>();
  for (int64_t p = 0; p < pairs.shape[0]; ++p) {
    const int64_t source = ids[2 * p], destination = ids[2 * p + 1];
    if (source == destination) continue;  // also the pair that means nothing
    std::memcpy(cache.as<char>() + destination * block_bytes, cache.as<char>() + source * block_bytes, block_bytes);
  }
}

}  // namespace
}  // namespace paged_ops

PAGED_OPS_EXPORT int CopyBlocks(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  Arguments arguments(kOp, 4, nparam, params, ndims, shapes, dtypes);
  const Pages pages = NextPages(kOp, arguments);
  const Tensor pairs = arguments.NextInt32("pairs", 2);
  const Tensor output = arguments.NextInt32("output", 1);
  RequireShape(kOp, pairs, {pairs.shape[0], 2});
  RequireShape(kOp, output, {1});
  RequirePairs(pairs, pages.num_blocks);

  // One thread a cache, so that the pairs keep their order.
  const int64_t block_bytes = pages.block_size * pages.token_stride() * ByteSize(pages.keys.dtype);
#pragma omp parallel for num_threads(2) if (pairs.shape[0] * block_bytes > kParallelBytes)
  for (int which = 0; which < 2; ++which) CopyPairs(which ? pages.values : pages.keys, pairs, block_bytes);
  output.as<int32_t>()[0] = 0;
  return 0;
}
