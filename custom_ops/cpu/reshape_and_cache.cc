// reshape_and_cache: put the keys and values of T tokens into their slots of the paged cache.
//
//   key, value              [T, K, D] float32, float16 or bfloat16
//   key_cache, value_cache  [NB, BS, K, D], written in place, rounded to their own type
//   slot_mapping            [T] int32: block * BS + position in the block; -1 = do not store
//   output                  [1] int32, always 0: something for later operators to depend on

#include "cache_calls.h"
#include "cache_store.h"
#include "op_times.h"
#include "threads.h"

namespace paged_ops {
namespace {

void StoreTokens(const Tensor& tokens, const Tensor& cache, const Tensor& slot_mapping, int64_t width) {
  const int32_t* slots = slot_mapping.as<int32_t>();
  WithFloatType(tokens.dtype, [&](auto* from) {
    WithFloatType(cache.dtype, [&](auto* to) {
      const auto* source = tokens.as<std::remove_pointer_t<decltype(from)>>();
      auto* target = cache.as<std::remove_pointer_t<decltype(to)>>();
      for (int64_t t = 0; t < slot_mapping.shape[0]; ++t) {
        if (slots[t] >= 0) Convert(source + t * width, target + slots[t] * width, width);
      }
    });
  });
}

}  // namespace
}  // namespace paged_ops

PAGED_OPS_EXPORT int ReshapeAndCache(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                     void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  const ReshapeAndCacheCall call =
      ParseReshapeAndCache(Arguments(kReshapeAndCache, 6, nparam, params, ndims, shapes, dtypes));

  // One thread a cache: each walks the tokens in order, so of two tokens with one slot the later always wins.
  const int64_t width = call.pages.token_stride();
  const OpTimer timer(kTimeCacheWrite, 2 * call.num_tokens() * width * ByteSize(call.pages.keys.dtype), 0);
  const bool alone = call.num_tokens() * width * ByteSize(call.pages.keys.dtype) <= kParallelBytes;
  Threads::Get().For(2, alone, [&](int64_t which, int) {
    StoreTokens(which ? call.value : call.key, which ? call.pages.values : call.pages.keys, call.slot_mapping, width);
  });
  call.output.as<int32_t>()[0] = 0;
  return 0;
}
