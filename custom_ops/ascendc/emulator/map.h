// Element loops. Types that compute as they lie in memory get one loop that the compiler vectorizes; the 16-bit
// floating types go through chunks of float.
#pragma once

#include <algorithm>

#include "element.h"

namespace ascendc_emulator {

constexpr uint32_t kChunk = 128;

template <typename T>
void LoadChunk(const uint8_t* from, uint32_t count, Computed<T>* to) {
  const ConstSpan<T> source(from);
  uint32_t i = 0;
#ifdef __F16C__
  if constexpr (std::is_same_v<T, half>) {
    for (; i + 8 <= count; i += 8) {
      _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 2 * i))));
    }
  }
#endif
  for (; i < count; ++i) to[i] = source.Get(i);
}

template <typename T>
void StoreChunk(const Computed<T>* from, uint32_t count, uint8_t* to) {
  const Span<T> target(to);
  uint32_t i = 0;
#ifdef __F16C__
  if constexpr (std::is_same_v<T, half>) {
    for (; i + 8 <= count; i += 8) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * i),
                       _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
    }
  }
#endif
  for (; i < count; ++i) target.Set(i, from[i]);
}

template <typename T>
constexpr bool kIsPlain = std::is_same_v<T, Computed<T>>;

// to[i] = op(a[i])
template <typename D, typename S, typename Op>
void MapUnary(uint8_t* to, const uint8_t* a, uint32_t count, Op op) {
  if constexpr (kIsPlain<D> && kIsPlain<S>) {
    const Span<D> target(to);
    const ConstSpan<S> source(a);
    for (uint32_t i = 0; i < count; ++i) target.data[i] = op(source.data[i]);
  } else {
    Computed<S> in[kChunk];
    Computed<D> out[kChunk];
    for (uint32_t done = 0; done < count; done += kChunk) {
      const uint32_t size = std::min(kChunk, count - done);
      LoadChunk<S>(a + done * sizeof(S), size, in);
      for (uint32_t i = 0; i < size; ++i) out[i] = op(in[i]);
      StoreChunk<D>(out, size, to + done * sizeof(D));
    }
  }
}

// to[i] = op(a[i], b[i])
template <typename D, typename S, typename Op>
void MapBinary(uint8_t* to, const uint8_t* a, const uint8_t* b, uint32_t count, Op op) {
  if constexpr (kIsPlain<D> && kIsPlain<S>) {
    const Span<D> target(to);
    const ConstSpan<S> first(a), second(b);
    for (uint32_t i = 0; i < count; ++i) target.data[i] = op(first.data[i], second.data[i]);
  } else {
    Computed<S> in0[kChunk], in1[kChunk];
    Computed<D> out[kChunk];
    for (uint32_t done = 0; done < count; done += kChunk) {
      const uint32_t size = std::min(kChunk, count - done);
      LoadChunk<S>(a + done * sizeof(S), size, in0);
      LoadChunk<S>(b + done * sizeof(S), size, in1);
      for (uint32_t i = 0; i < size; ++i) out[i] = op(in0[i], in1[i]);
      StoreChunk<D>(out, size, to + done * sizeof(D));
    }
  }
}

// to[i] = op(to[i], a[i], b[i])
template <typename D, typename S, typename Op>
void MapInto(uint8_t* to, const uint8_t* a, const uint8_t* b, uint32_t count, Op op) {
  Computed<D> out[kChunk];
  Computed<S> in0[kChunk], in1[kChunk];
  for (uint32_t done = 0; done < count; done += kChunk) {
    const uint32_t size = std::min(kChunk, count - done);
    LoadChunk<D>(to + done * sizeof(D), size, out);
    LoadChunk<S>(a + done * sizeof(S), size, in0);
    LoadChunk<S>(b + done * sizeof(S), size, in1);
    for (uint32_t i = 0; i < size; ++i) out[i] = op(out[i], in0[i], in1[i]);
    StoreChunk<D>(out, size, to + done * sizeof(D));
  }
}

}  // namespace ascendc_emulator
