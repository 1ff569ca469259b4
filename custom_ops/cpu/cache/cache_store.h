// Puts the heads of one token into its slot of a cache, whatever the types of the two.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

#include "cpu/runtime/simd.h"
#include "op/aot_op.h"

namespace paged_ops {

// Calls body(offset, load) for every kLanes numbers of `count`, the last with fewer: load(source + offset) fills up with
// zeros, and store(target + offset, vec) leaves what lies behind as it is.
template <typename Body>
inline void EachVector(int64_t count, Body body) {
  const auto load = [](const auto* source) { return Load(source); };
  const auto store = [](auto* target, Vec vec) { Store(target, vec); };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, load, store);
  if (i == count) return;
  const int64_t left = count - i;
  const auto load_part = [left](const auto* source) { return LoadPart(source, left); };
  const auto store_part = [left](auto* target, Vec vec) { StorePart(target, vec, left); };
  body(i, load_part, store_part);
}

template <typename From, typename To>
inline void Convert(const From* source, To* target, int64_t count) {
  if constexpr (std::is_same_v<From, To>) {
    std::memcpy(target, source, count * sizeof(To));
  } else {
    EachVector(count, [&](int64_t i, auto load, auto store) { store(target + i, load(source + i)); });
  }
}

// What int8 numbers of a vector must be multiplied by: its largest magnitude / 127, so that none needs clipping. 0 where
// that would not be a normal number, of zeros above all, and NaN if any of the numbers is infinite or NaN.
template <typename From>
inline float ScaleOf(const From* source, int64_t count) {
  Vec largest = {}, not_finite = {};
  EachVector(count, [&](int64_t i, auto load, auto) {
    const Vec vec = load(source + i);
    largest = Max((Vec)((BitVec)vec & 0x7fffffff), largest);
    not_finite += vec - vec;  // 0, or NaN
  });
  float total = 0, sum = 0;
  for (int i = 0; i < kLanes; ++i) total = std::max(total, largest[i]), sum += not_finite[i];
  const float scale = total / 127.0f;
  if (sum != 0) return std::numeric_limits<float>::quiet_NaN();
  return scale < std::numeric_limits<float>::min() ? 0.0f : scale;
}

// Writes the numbers divided by their scale, to nearest, ties to even; gives the scale. Zeros with a scale of NaN.
template <typename From>
inline float Quantize(const From* source, int8_t* target, int64_t count) {
  const float scale = ScaleOf(source, count);
  if (!(scale > 0)) {
    std::memset(target, 0, count);
    return scale;
  }
  EachVector(count, [&](int64_t i, auto load, auto store) { store(target + i, load(source + i) / scale); });
  return scale;
}

// token: [K, D] of float, Half or BFloat16. cache: that of `pages`, keys or values. slot: checked by the caller.
template <typename From, typename To>
inline void StoreToken(const From* token, To* cache, const Pages& pages, int64_t slot) {
  const int64_t width = pages.token_stride(), block = slot / pages.block_size, inside = slot % pages.block_size;
  To* target = cache + block * pages.block_stride() + inside * width;
  if constexpr (std::is_same_v<To, int8_t>) {
    float* scales = pages.scales(cache, block) + inside * pages.num_kv_heads;
    for (int64_t head = 0; head < pages.num_kv_heads; ++head) {
      scales[head] = Quantize(token + head * pages.head_dim, target + head * pages.head_dim, pages.head_dim);
    }
  } else {
    Convert(token, target, width);
  }
}

// Calls `body` with a function (const float* token [K, D], slot) that stores into `cache`, one of the two of `pages`.
template <typename Body>
inline void WithCacheStore(const Pages& pages, const Tensor& cache, Body&& body) {
  WithCacheType(cache.dtype, [&](auto* to) {
    auto* target = cache.as<std::remove_pointer_t<decltype(to)>>();
    body([&, target](const float* token, int64_t slot) { StoreToken(token, target, pages, slot); });
  });
}

}  // namespace paged_ops
