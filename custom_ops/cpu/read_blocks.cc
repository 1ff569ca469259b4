// read_blocks: copy whole blocks out of the paged cache, for the tiers below it.
//
//   key_cache, value_cache  [NB, BS, K, D]
//   block_ids               [P] int32
//   output                  [2, P, BS, K, D] of the caches' type: keys, then values

#include "cache_calls.h"

PAGED_OPS_EXPORT int ReadBlocks(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  const ReadBlocksCall call = ParseReadBlocks(Arguments(kReadBlocks, 4, nparam, params, ndims, shapes, dtypes));
  const int64_t block_bytes = BlockBytes(call.pages), count = call.num_ids();
  for (int64_t which = 0; which < 2; ++which) {
    const Tensor& cache = which ? call.pages.values : call.pages.keys;
    for (int64_t p = 0; p < count; ++p) {
      std::memcpy(call.output.as<char>() + (which * count + p) * block_bytes,
                  cache.as<char>() + call.block_ids.as<int32_t>()[p] * block_bytes, block_bytes);
    }
  }
  return 0;
}
