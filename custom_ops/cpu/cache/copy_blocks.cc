// copy_blocks: copy whole blocks of the paged cache, for copy-on-write and compaction.
//
//   key_cache, value_cache  [NB, BS, K, D], or of several layers [L, NB, BS, K, D]; changed in place
//   pairs                   [P, 2] int32: source and destination block, done in order; -1, -1 = nothing
//   output                  [1] int32, always 0: something for later operators to depend on

#include "cpu/runtime/threads.h"
#include "op/cache_calls.h"

namespace paged_ops {
namespace {

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
  const CopyBlocksCall call = ParseCopyBlocks(Arguments(kCopyBlocks, 4, nparam, params, ndims, shapes, dtypes));

  // One thread a cache, so that the pairs keep their order.
  const int64_t block_bytes = BlockBytes(call.pages.first), num_caches = 2 * call.pages.num_layers;
  const bool alone = num_caches / 2 * call.num_pairs() * block_bytes <= kParallelBytes;
  Threads::Get().For(num_caches, alone, [&](int64_t cache, int) {
    const Pages pages = call.pages[cache / 2];
    CopyPairs(cache % 2 ? pages.values : pages.keys, call.pairs, block_bytes);
  });
  call.output.as<int32_t>()[0] = 0;
  return 0;
}
