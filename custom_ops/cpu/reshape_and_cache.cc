// reshape_and_cache: put the keys and values of T tokens into their slots of the paged cache.
//
//   key, value              [T, K, D] float32, float16 or bfloat16
//   key_cache, value_cache  [NB, BS, K, D], written in place, rounded to their own type
//   slot_mapping            [T] int32: block * BS + position in the block; -1 = do not store
//   output                  [1] int32, always 0: something for later operators to depend on

#include "aot_op.h"
#include "simd.h"

namespace paged_ops {
namespace {

constexpr char kOp[] = "reshape_and_cache";

template <typename From, typename To>
void Convert(const From* source, To* target, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(target + i, Load(source + i));
  if (i < count) StorePart(target + i, LoadPart(source + i, count - i), count - i);
}

template <typename T>
void Convert(const T* source, T* target, int64_t count) {
  std::memcpy(target, source, count * sizeof(T));
}

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

void RequireSlots(const Tensor& slot_mapping, int64_t num_slots) {
  const int32_t* slots = slot_mapping.as<int32_t>();
  for (int64_t t = 0; t < slot_mapping.shape[0]; ++t) {
    if (slots[t] < -1 || slots[t] >= num_slots) {
      Refuse(kOp, "token ", t, ": slot ", slots[t], " is outside [-1, ", num_slots, ")");
    }
  }
}

}  // namespace
}  // namespace paged_ops

PAGED_OPS_EXPORT int ReshapeAndCache(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                     void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  Arguments arguments(kOp, 6, nparam, params, ndims, shapes, dtypes);
  const Tensor key = arguments.NextFloat("key", 3);
  const Tensor value = arguments.NextFloat("value", 3);
  const Pages pages = NextPages(kOp, arguments);
  const Tensor slot_mapping = arguments.NextInt32("slot_mapping", 1);
  const Tensor output = arguments.NextInt32("output", 1);

  const int64_t num_tokens = slot_mapping.shape[0];
  RequireShape(kOp, key, {num_tokens, pages.num_kv_heads, pages.head_dim});
  RequireShape(kOp, value, {num_tokens, pages.num_kv_heads, pages.head_dim});
  RequireSameDType(kOp, value, key);
  RequireShape(kOp, output, {1});
  RequireSlots(slot_mapping, pages.num_blocks * pages.block_size);

  // One thread a cache: each walks the tokens in order, so of two tokens with one slot the later always wins.
  const int64_t width = pages.token_stride();
#pragma omp parallel for num_threads(2) if (num_tokens * width * ByteSize(pages.keys.dtype) > kParallelBytes)
  for (int which = 0; which < 2; ++which) {
    StoreTokens(which ? value : key, which ? pages.values : pages.keys, slot_mapping, width);
  }
  output.as<int32_t>()[0] = 0;
  return 0;
}
