// read_blocks: copy whole blocks out of the paged cache, for the tiers below it.
//
//   key_cache, value_cache  [NB, BS, K, D], or of several layers [L, NB, BS, K, D]
//   block_ids               [P] int32
//   output                  [2, P, BS, K, D] of the caches' type: keys, then values; of several layers [L, 2, P, …]

#include "op/cache_calls.h"

PAGED_OPS_EXPORT int ReadBlocks(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  const ReadBlocksCall call = ParseReadBlocks(Arguments(kReadBlocks, 4, nparam, params, ndims, shapes, dtypes));
  const int64_t block_bytes = BlockBytes(call.pages.first), count = call.num_ids();
  for (int64_t cache = 0; cache < 2 * call.pages.num_layers; ++cache) {
    const Pages pages = call.pages[cache / 2];
    const char* source = (cache % 2 ? pages.values : pages.keys).as<char>();
    char* target = call.output.as<char>() + cache * count * block_bytes;
    for (int64_t p = 0; p < count; ++p) {
      std::memcpy(target + p * block_bytes, source + call.block_ids.as<int32_t>()[p] * block_bytes, block_bytes);
    }
  }
  return 0;
}
