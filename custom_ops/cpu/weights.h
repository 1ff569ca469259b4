// The weights of a linear layer as they are stored: floats, or the blocks of a GGUF file, and how these become floats.
//
// A row has num_columns weights. Blocks hold 32 neighbours of a row: a scale (and a minimum), then the numbers of few
// bits. Unpacking rounds exactly as the GGUF reference does, one product and one sum, so that a block means the same
// number in every kernel. Kinds bear GGML's own numbers.
// Source: the GGUF specification, github.com/ggml-org/ggml/blob/master/docs/gguf.md.
#pragma once

#include <algorithm>

#include "aot_op.h"
#include "simd.h"

namespace paged_ops {

enum class WeightKind : int64_t { kFloat32 = 0, kFloat16 = 1, kQ4_0 = 2, kQ4_1 = 3, kQ8_0 = 8, kBFloat16 = 30 };

constexpr int64_t kBlockWeights = 32;

struct Q4_0 {  // (q - 8) * scale; byte i has the weights i, low bits, and i + 16
  Half scale;
  uint8_t nibbles[16];
};

struct Q4_1 {  // q * scale + minimum
  Half scale, minimum;
  uint8_t nibbles[16];
};

struct Q8_0 {  // q * scale
  Half scale;
  int8_t numbers[32];
};

struct Weights {
  WeightKind kind;
  const char* data;
  int64_t num_rows;
  int64_t num_columns;
  int64_t row_bytes;

  int64_t bytes() const { return num_rows * row_bytes; }
  int64_t products(int64_t num_tokens) const { return num_tokens * num_rows * num_columns; }

  template <typename T>
  const T* row(int64_t index) const {
    return reinterpret_cast<const T*>(data + index * row_bytes);
  }
};

// A row is read ahead of its use by this much: rows follow each other, so that this runs into the next one in time.
constexpr int64_t kPrefetchBytes = 4096;

inline void PrefetchWeights(const void* source) { __builtin_prefetch(static_cast<const char*>(source) + kPrefetchBytes); }

inline float Number(Half half) {
#if defined(PAGED_OPS_AVX512) || defined(PAGED_OPS_AVX2)
  return _cvtsh_ss(half.bits);
#else
  return HalfToFloat(half);
#endif
}

// `kLanes` bytes, each a number.
inline IntVec LoadIntegers(const int8_t* source) {
#if defined(PAGED_OPS_AVX512)
  return (IntVec)_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
#elif defined(PAGED_OPS_AVX2)
  return (IntVec)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(source)));
#else
  IntVec integers;
  for (int i = 0; i < kLanes; ++i) integers[i] = source[i];
  return integers;
#endif
}

inline IntVec LoadIntegers(const uint8_t* source) {
#if defined(PAGED_OPS_AVX512)
  return (IntVec)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
#elif defined(PAGED_OPS_AVX2)
  return (IntVec)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(source)));
#else
  IntVec integers;
  for (int i = 0; i < kLanes; ++i) integers[i] = source[i];
  return integers;
#endif
}

inline Vec ToFloat(IntVec integers) { return __builtin_convertvector(integers, Vec); }

constexpr int kBlockVecs = kBlockWeights / kLanes;

inline void UnpackBlock(const Q8_0& block, Vec weights[kBlockVecs]) {
  const Vec scale = Broadcast(Number(block.scale));
  PAGED_OPS_UNROLL_TILE
  for (int v = 0; v < kBlockVecs; ++v) weights[v] = ToFloat(LoadIntegers(block.numbers + v * kLanes)) * scale;
}

// to_weight(number of 4 bits) for each of a block's; a byte has two weights, half a block apart.
template <typename ToWeight>
void UnpackNibbles(const uint8_t* nibbles, Vec weights[kBlockVecs], ToWeight&& to_weight) {
  constexpr int kHalf = kBlockVecs / 2;
  PAGED_OPS_UNROLL_TILE
  for (int v = 0; v < kHalf; ++v) {
    const IntVec pairs = LoadIntegers(nibbles + v * kLanes);
    weights[v] = to_weight(ToFloat(pairs & 15));
    weights[v + kHalf] = to_weight(ToFloat(pairs >> 4));
  }
}

inline void UnpackBlock(const Q4_0& block, Vec weights[kBlockVecs]) {
  const Vec scale = Broadcast(Number(block.scale));
  UnpackNibbles(block.nibbles, weights, [=](Vec numbers) { return (numbers - 8.0f) * scale; });
}

inline void UnpackBlock(const Q4_1& block, Vec weights[kBlockVecs]) {
  const Vec scale = Broadcast(Number(block.scale)), minimum = Broadcast(Number(block.minimum));
  UnpackNibbles(block.nibbles, weights, [=](Vec numbers) { return numbers * scale + minimum; });
}

template <typename Block>
void UnpackBlocks(const Block* row, int64_t first, int64_t count, float* target) {
  const Block* block = row + first / kBlockWeights;
  for (int64_t i = 0; i < count; i += kBlockWeights, ++block) {
    PrefetchWeights(block);
    Vec weights[kBlockVecs];
    UnpackBlock(*block, weights);
    PAGED_OPS_UNROLL_TILE
    for (int v = 0; v < kBlockVecs; ++v) Store(target + i + v * kLanes, weights[v]);
  }
}

template <typename T>
void Widen(const T* row, int64_t count, float* target) {
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    PrefetchWeights(row + i);
    Store(target + i, Load(row + i));
    Store(target + i + kLanes, Load(row + i + kLanes));
  }
  for (; i + kLanes <= count; i += kLanes) Store(target + i, Load(row + i));
  if (i < count) StorePart(target + i, LoadPart(row + i, count - i), count - i);
}

// `count` weights of a row from column `first` on, as floats; of blocks, both are multiples of kBlockWeights.
inline void Unpack(const Weights& weights, int64_t row, int64_t first, int64_t count, float* target) {
  switch (weights.kind) {
    case WeightKind::kFloat32: return Widen(weights.row<float>(row) + first, count, target);
    case WeightKind::kFloat16: return Widen(weights.row<Half>(row) + first, count, target);
    case WeightKind::kBFloat16: return Widen(weights.row<BFloat16>(row) + first, count, target);
    case WeightKind::kQ4_0: return UnpackBlocks(weights.row<Q4_0>(row), first, count, target);
    case WeightKind::kQ4_1: return UnpackBlocks(weights.row<Q4_1>(row), first, count, target);
    case WeightKind::kQ8_0: return UnpackBlocks(weights.row<Q8_0>(row), first, count, target);
  }
}

}  // namespace paged_ops
