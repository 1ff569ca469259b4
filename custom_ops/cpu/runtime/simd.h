// A vector of floats as wide as the target's registers, and the few operations that the kernels need on it.
//
// Vec is a GCC/Clang vector: + - * / and comparisons are the language's own, so one source serves AVX-512, AVX2 and
// anything else (4 lanes). Only what the language cannot say, half precision and sums across lanes, is written per
// target.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "op/dtypes.h"

#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512BW__)
#define PAGED_OPS_AVX512 1
#if defined(__AVX512VNNI__)
#define PAGED_OPS_VNNI 1
#endif
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define PAGED_OPS_AVX2 1
#endif

// Matrix tiles, of whole numbers and of bfloat16; whether a process may use them is asked when it runs (tiles.h).
#if defined(PAGED_OPS_VNNI) && defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__linux__)
#define PAGED_OPS_AMX 1
#elif defined(PAGED_OPS_AVX512) && defined(__AVX512BF16__)
#define PAGED_OPS_AVX512_BF16 1  // products of two bfloat16 at a time, which tiles make unnecessary
#endif

#if defined(PAGED_OPS_AVX512) || defined(PAGED_OPS_AVX2)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// Before a loop over a small array of vectors: GCC keeps the array in registers only if the loop is gone early.
#define PAGED_OPS_UNROLL _Pragma("GCC unroll 4")
#define PAGED_OPS_UNROLL_TILE _Pragma("GCC unroll 8")

namespace paged_ops {

// Floats of a vector.
#if defined(PAGED_OPS_AVX512)
constexpr int kLanes = 16;
#elif defined(PAGED_OPS_AVX2)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IntVec __attribute__((vector_size(kLanes * 4)));
typedef uint32_t BitVec __attribute__((vector_size(kLanes * 4)));
typedef uint16_t ShortVec __attribute__((vector_size(kLanes * 2)));
typedef int8_t ByteVec __attribute__((vector_size(kLanes)));

inline Vec Broadcast(float value) { return value - Vec{}; }  // x - 0 is x; x + 0 would be an addition, for -0

// The same vector, held in a register. Left alone, GCC loads a vector again for each of its uses, and loads are scarcer
// than multiplications.
template <typename AnyVec>
inline AnyVec InRegister(AnyVec vec) {
#if defined(__x86_64__)
  asm("" : "+v"(vec));
#endif
  return vec;
}

inline Vec Max(Vec a, Vec b) { return a > b ? a : b; }

// a * b + c, rounded once where the target can do that. Said here, and -ffp-contract=off keeps the compiler from joining
// other products and sums: left to it, GCC joins them in some loops and not in others (for AMD's Zen, not in chains), and
// a token's result would depend on the loop that it stands in.
inline Vec MulAdd(Vec a, Vec b, Vec c) {
#if defined(PAGED_OPS_AVX512)
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(PAGED_OPS_AVX2)
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

inline Vec Load(const float* source) {
  Vec vec;
  std::memcpy(&vec, source, sizeof vec);
  return vec;
}

inline Vec Load(const BFloat16* source) {
  ShortVec shorts;
  std::memcpy(&shorts, source, sizeof shorts);
  return (Vec)(__builtin_convertvector(shorts, BitVec) << 16);
}

inline Vec Load(const Half* source) {
#if defined(PAGED_OPS_AVX512)
  return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
#elif defined(PAGED_OPS_AVX2)
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
#else
  Vec vec;
  for (int i = 0; i < kLanes; ++i) vec[i] = HalfToFloat(source[i]);
  return vec;
#endif
}

inline Vec Load(const int8_t* source) {
#if defined(PAGED_OPS_AVX512)
  return (Vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source))));
#elif defined(PAGED_OPS_AVX2)
  return (Vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(source))));
#else
  ByteVec bytes;
  std::memcpy(&bytes, source, sizeof bytes);
  return __builtin_convertvector(__builtin_convertvector(bytes, IntVec), Vec);
#endif
}

inline void Store(float* target, Vec vec) { std::memcpy(target, &vec, sizeof vec); }

inline void Store(BFloat16* target, Vec vec) {  // to nearest, ties to even; a NaN stays a NaN
  const BitVec bits = (BitVec)vec;
  const BitVec rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const BitVec quiet_nan = bits | 0x400000;
  const ShortVec shorts = __builtin_convertvector((vec == vec ? rounded : quiet_nan) >> 16, ShortVec);
  std::memcpy(target, &shorts, sizeof shorts);
}

inline void Store(int8_t* target, Vec vec) {  // of numbers in [-128, 127]: to nearest, ties to even
  // A float near 1.5 * 2^23 has no fraction bits, which is the rounding, and ends in the bits of the whole number.
  const ByteVec bytes = __builtin_convertvector((IntVec)(vec + 0x1.8p23f), ByteVec);
  std::memcpy(target, &bytes, sizeof bytes);
}

inline void Store(Half* target, Vec vec) {
#if defined(PAGED_OPS_AVX512)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), _mm512_cvtps_ph((__m512)vec, _MM_FROUND_TO_NEAREST_INT));
#elif defined(PAGED_OPS_AVX2)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm256_cvtps_ph((__m256)vec, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes; ++i) target[i] = FloatToHalf(vec[i]);
#endif
}

// The first `count` < kLanes elements, zeros in the other lanes; what lies behind them in memory is not touched.
template <typename T>
inline Vec LoadPart(const T* source, int64_t count) {
  T padded[kLanes] = {};
  std::memcpy(padded, source, count * sizeof(T));
  return Load(padded);
}

template <typename T>
inline void StorePart(T* target, Vec vec, int64_t count) {
  T padded[kLanes];
  Store(padded, vec);
  std::memcpy(target, padded, count * sizeof(T));
}

// Lane i has what lane i ^ kDistance had: with kLanes / 2, ... 2, 1 in turn, all lanes come to have what all had.
template <int kDistance, typename AnyVec>
inline AnyVec Exchanged(AnyVec vec) {
  constexpr int d = kDistance;
#if defined(PAGED_OPS_AVX512)
  return __builtin_shufflevector(vec, vec, 0 ^ d, 1 ^ d, 2 ^ d, 3 ^ d, 4 ^ d, 5 ^ d, 6 ^ d, 7 ^ d, 8 ^ d, 9 ^ d, 10 ^ d,
                                 11 ^ d, 12 ^ d, 13 ^ d, 14 ^ d, 15 ^ d);
#elif defined(PAGED_OPS_AVX2)
  return __builtin_shufflevector(vec, vec, 0 ^ d, 1 ^ d, 2 ^ d, 3 ^ d, 4 ^ d, 5 ^ d, 6 ^ d, 7 ^ d);
#else
  return __builtin_shufflevector(vec, vec, 0 ^ d, 1 ^ d, 2 ^ d, 3 ^ d);
#endif
}

// Every lane: the lanes' combination, a function of two vectors.
template <typename AnyVec, typename Combine>
inline AnyVec AllLanes(AnyVec vec, Combine&& combine) {
  if constexpr (kLanes > 8) vec = combine(vec, Exchanged<kLanes / 2>(vec));
  if constexpr (kLanes > 4) vec = combine(vec, Exchanged<4>(vec));
  vec = combine(vec, Exchanged<2>(vec));
  return combine(vec, Exchanged<1>(vec));
}

// sums[i] = the sum over the lanes of vecs[i]. The order of additions is the same for each of the four.
inline void SumLanes(const Vec vecs[4], float sums[4]) {
#if defined(PAGED_OPS_AVX512)
  const auto halves = [](Vec x, Vec y) {  // [x0+x2, x1+x3, y0+y2, y1+y3] in quarters of a register
    const __m512 a = (__m512)x, b = (__m512)y;
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  };
  const __m512 low = halves(vecs[0], vecs[1]);
  const __m512 high = halves(vecs[2], vecs[3]);
  __m512 sum = _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
  sum = _mm512_add_ps(sum, _mm512_permute_ps(sum, 0x4e));
  sum = _mm512_add_ps(sum, _mm512_permute_ps(sum, 0xb1));
  const __m512i first_of_quarters = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
  _mm_storeu_ps(sums, _mm512_castps512_ps128(_mm512_permutexvar_ps(first_of_quarters, sum)));
#elif defined(PAGED_OPS_AVX2)
  const __m256 low = _mm256_hadd_ps((__m256)vecs[0], (__m256)vecs[1]);
  const __m256 high = _mm256_hadd_ps((__m256)vecs[2], (__m256)vecs[3]);
  const __m256 sum = _mm256_hadd_ps(low, high);
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1)));
#else
  for (int i = 0; i < 4; ++i) sums[i] = (vecs[i][0] + vecs[i][2]) + (vecs[i][1] + vecs[i][3]);
#endif
}

// SumLanes adds neighbours in this order, then neighbouring pairs, and so on.
#if defined(PAGED_OPS_AVX512)
constexpr int kLaneOrder[kLanes] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};
#elif defined(PAGED_OPS_AVX2)
constexpr int kLaneOrder[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7};
#else
constexpr int kLaneOrder[kLanes] = {0, 2, 1, 3};
#endif

// target[i][r] = source[r][i] for i < 4 and r < kLanes.
inline void TransposeFours(const float* source, int64_t source_stride, float* target, int64_t target_stride) {
#if defined(PAGED_OPS_AVX512) || defined(PAGED_OPS_AVX2)
  // Rows r, r + 4, ... in the quarters of rows[r]; then each quarter by itself.
#if defined(PAGED_OPS_AVX512)
  __m512 rows[4];
  for (int r = 0; r < 4; ++r, source += source_stride) {
    rows[r] = _mm512_castps128_ps512(_mm_loadu_ps(source));
    rows[r] = _mm512_insertf32x4(rows[r], _mm_loadu_ps(source + 4 * source_stride), 1);
    rows[r] = _mm512_insertf32x4(rows[r], _mm_loadu_ps(source + 8 * source_stride), 2);
    rows[r] = _mm512_insertf32x4(rows[r], _mm_loadu_ps(source + 12 * source_stride), 3);
  }
  const auto low = [](__m512 a, __m512 b) { return _mm512_unpacklo_ps(a, b); };
  const auto high = [](__m512 a, __m512 b) { return _mm512_unpackhi_ps(a, b); };
#else
  __m256 rows[4];
  for (int r = 0; r < 4; ++r, source += source_stride) {
    rows[r] = _mm256_castps128_ps256(_mm_loadu_ps(source));
    rows[r] = _mm256_insertf128_ps(rows[r], _mm_loadu_ps(source + 4 * source_stride), 1);
  }
  const auto low = [](__m256 a, __m256 b) { return _mm256_unpacklo_ps(a, b); };
  const auto high = [](__m256 a, __m256 b) { return _mm256_unpackhi_ps(a, b); };
#endif
  // Two interleavings, of rows 0 with 2 and 1 with 3, then of the results.
  const auto even_low = low(rows[0], rows[2]), even_high = high(rows[0], rows[2]);
  const auto odd_low = low(rows[1], rows[3]), odd_high = high(rows[1], rows[3]);
  Store(target, (Vec)low(even_low, odd_low));
  Store(target + target_stride, (Vec)high(even_low, odd_low));
  Store(target + 2 * target_stride, (Vec)low(even_high, odd_high));
  Store(target + 3 * target_stride, (Vec)high(even_high, odd_high));
#else
  for (int i = 0; i < 4; ++i) {
    for (int r = 0; r < kLanes; ++r) target[i * target_stride + r] = source[r * source_stride + i];
  }
#endif
}

// e^x for x <= 0, within 2 units in the last place; 0 below -87.3, where the result would leave the normal numbers.
inline Vec Exp(Vec x) {
  // x = n ln 2 + r with |r| <= ln(2) / 2. Adding 1.5 * 2^23 drops the fraction bits: that is the rounding to n.
  const Vec magic = Broadcast(0x1.8p23f);
  const Vec shifted = MulAdd(x, Broadcast(1.44269504f), magic);
  const Vec n = shifted - magic;
  // ln 2 in two parts, the first with few bits
  const Vec r = MulAdd(n, Broadcast(-1.42860677e-6f), MulAdd(n, Broadcast(-0.693145752f), x));
  Vec p = Broadcast(1.0f / 720);
  for (const float coefficient : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) {
    p = MulAdd(p, r, Broadcast(coefficient));
  }
  // The lowest bits of the shifted number are n, of whatever sign; those above are shifted out. A conversion to int
  // would not be defined for NaN, and for scores that are so far from the largest that e^x is 0.
  const BitVec exponent = ((BitVec)shifted + 127) << 23;
  return x < -87.3f ? Vec{} : p * (Vec)exponent;
}

}  // namespace paged_ops
