// Putting a token's keys or values into its slot of the paged cache, rounded to the cache's type.
#pragma once

#include "aot_op.h"
#include "simd.h"

namespace paged_ops {

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

// Calls `body` with a function (const float* token, slot) that stores into `cache`, one of the two of `pages`.
template <typename Body>
void WithCacheStore(const Pages& pages, const Tensor& cache, Body&& body) {
  const int64_t width = pages.token_stride();
  WithFloatType(cache.dtype, [&](auto* to) {
    auto* target = cache.as<std::remove_pointer_t<decltype(to)>>();
    body([=](const float* token, int64_t slot) { Convert(token, target + slot * width, width); });
  });
}

}  // namespace paged_ops
