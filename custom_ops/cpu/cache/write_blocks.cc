// write_blocks: put whole blocks, that read_blocks once gave, back into the paged cache of a layer, or of several.
//
//   key_cache, value_cache  [NB, BS, K, D], or of several layers [C, NB, BS, K, D]; changed in place
//   pages                   [L, 2, P, BS, K, D] of the caches' type: for every layer keys, then values
//   block_ids               [P] int32; -1 = the page is not written
//   layer                   int64 scalar: which of the L layers these caches belong to, the first of several
//   output                  [1] int32, always 0: something for later operators to depend on
//
// All layers read one and the same `pages`: cutting it up in the graph would copy each part once more.

#include "op/cache_calls.h"

PAGED_OPS_EXPORT int WriteBlocks(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                 void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  const WriteBlocksCall call = ParseWriteBlocks(Arguments(kWriteBlocks, 6, nparam, params, ndims, shapes, dtypes));
  const int64_t block_bytes = BlockBytes(call.caches.first), count = call.num_ids();
  for (int64_t cache = 0; cache < 2 * call.caches.num_layers; ++cache) {
    const Pages caches = call.caches[cache / 2];
    char* target = (cache % 2 ? caches.values : caches.keys).as<char>();
    const char* source = call.pages.as<char>() + (call.layer * 2 + cache) * count * block_bytes;
    for (int64_t p = 0; p < count; ++p) {
      const int64_t id = call.block_ids.as<int32_t>()[p];
      if (id >= 0) std::memcpy(target + id * block_bytes, source + p * block_bytes, block_bytes);
    }
  }
  call.output.as<int32_t>()[0] = 0;
  return 0;
}
