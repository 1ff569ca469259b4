// reshape_and_cache: put the keys and values of T tokens into their slots of the paged cache.
//
//   key, value              [T, K, D] float32, float16 or bfloat16
//   key_cache, value_cache  [NB, BS, K, D], written in place, rounded to their own type; int8: [NB, BS, K, D + 4], each
//                           head of a token with a scale of its own (aot_op.h)
//   slot_mapping            [T] int32: block * BS + position in the block; -1 = do not store
//   output                  [1] int32, always 0: something for later operators to depend on

#include "cpu/cache/cache_store.h"
#include "cpu/runtime/op_times.h"
#include "cpu/runtime/threads.h"
#include "op/cache_calls.h"

namespace paged_ops {
namespace {

void StoreTokens(const Tensor& tokens, const Tensor& cache, const Pages& pages, const Tensor& slot_mapping) {
  const int32_t* slots = slot_mapping.as<int32_t>();
  WithFloatType(tokens.dtype, [&](auto* from) {
    WithCacheType(cache.dtype, [&](auto* to) {
      const auto* source = tokens.as<std::remove_pointer_t<decltype(from)>>();
      auto* target = cache.as<std::remove_pointer_t<decltype(to)>>();
      for (int64_t t = 0; t < slot_mapping.shape[0]; ++t) {
        if (slots[t] >= 0) StoreToken(source + t * pages.token_stride(), target, pages, slots[t]);
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
  const int64_t bytes = call.num_tokens() * call.pages.token_stride() * ByteSize(call.pages.keys.dtype);
  const OpTimer timer(kTimeCacheWrite, 2 * bytes, 0);
  Threads::Get().For(2, bytes <= kParallelBytes, [&](int64_t which, int) {
    StoreTokens(which ? call.value : call.key, which ? call.pages.values : call.pages.keys, call.pages,
                call.slot_mapping);
  });
  call.output.as<int32_t>()[0] = 0;
  return 0;
}
