// The tokens that a linear layer multiplies, also as whole numbers: those are what blocks are multiplied with.
//
// 32 neighbours of a token share a scale, as those of a row do. They have 16 bits, so that a sum of 32 products with 8
// bits is exact in 32, and what rounding takes from a token is less than a 65,000th of the largest of the 32; on AVX2
// products of 16 bits cost no more than those of 8. Source: the blocks of GGUF, see weights.h.
#pragma once

#include <algorithm>
#include <cfloat>
#include <vector>

#include "panels.h"
#include "threads.h"

namespace paged_ops {

struct LinearInput {
  const float* floats;  // [num_tokens, num_columns]
  int64_t num_tokens;
  int64_t num_columns;
  const int16_t* numbers = nullptr;  // [num_tokens, num_columns]; null where no weight is of blocks
  const float* scales = nullptr;     // [num_tokens, num_columns / 32]: floats are about numbers * scale
  const float* sums = nullptr;       // of the 32 that share a scale, as floats

  // `count` tokens from `first` on.
  LinearInput Part(int64_t first, int64_t count) const {
    const int64_t weights = first * num_columns, blocks = weights / kBlockWeights;
    const LinearInput part{floats + weights, count, num_columns};
    if (numbers == nullptr) return part;
    return {part.floats, count, num_columns, numbers + weights, scales + blocks, sums + blocks};
  }
};

constexpr float kLargestNumber = 32767;
constexpr int kBlockVecs = kBlockWeights / kLanes;

// 32 numbers of a token. Where all are below 1e-33 they become zeros; where one is no number, or infinite, the scale is
// not a number, and so is all that comes of it.
inline void RoundBlock(const float* floats, int16_t* numbers, float& scale, float& sum) {
  typedef int16_t ShortNumbers __attribute__((vector_size(kLanes * 2)));
  Vec values[kBlockVecs], largest = {}, nothing = {};
  PAGED_OPS_UNROLL_TILE
  for (int v = 0; v < kBlockVecs; ++v) {
    values[v] = Load(floats + v * kLanes);
    largest = Max(Max(values[v], -values[v]), largest);
    nothing += values[v] - values[v];
  }
  const auto add = [](auto a, auto b) { return a + b; };
  const Vec none = AllLanes(nothing, add);
  const Vec step = AllLanes(largest, Max) / kLargestNumber + none;
  const Vec inverse = step > FLT_MIN ? 1.0f / step : Vec{};
  BitVec total = {};  // unsigned, because the bits of what is no number may overflow
  PAGED_OPS_UNROLL_TILE
  for (int v = 0; v < kBlockVecs; ++v) {
    // A float near 1.5 * 2^23 has no fraction bits, which is the rounding, and ends in the bits of the whole number.
    const BitVec bits = (BitVec)(values[v] * inverse + 0x1.8p23f);
    const ShortNumbers shorts = __builtin_convertvector(bits, ShortNumbers);
    std::memcpy(numbers + v * kLanes, &shorts, sizeof shorts);
    total += bits - 0x4b400000;
  }
  scale = step[0] > FLT_MIN ? step[0] : none[0];
  sum = static_cast<float>(static_cast<int32_t>(AllLanes(total, add)[0])) * scale;
}

// The tokens with their numbers, which stay until the calling thread's next call.
inline LinearInput RoundTokens(const LinearInput& tokens) {
  thread_local std::vector<int16_t> numbers;
  thread_local std::vector<float> scales, sums;
  const int64_t count = tokens.num_tokens * tokens.num_columns;
  numbers.resize(std::max<size_t>(numbers.size(), count));
  scales.resize(numbers.size() / kBlockWeights);
  sums.resize(numbers.size() / kBlockWeights);
  constexpr int64_t kChunk = 128, kAlone = 512;  // blocks
  const int64_t num_blocks = count / kBlockWeights;
  int16_t* to_numbers = numbers.data();
  float *to_scales = scales.data(), *to_sums = sums.data();
  const int64_t num_chunks = (num_blocks + kChunk - 1) / kChunk;
  Threads::Get().For(num_chunks, num_blocks < kAlone, [=](int64_t chunk, int) {
    for (int64_t b = chunk * kChunk; b < std::min(num_blocks, (chunk + 1) * kChunk); ++b) {
      RoundBlock(tokens.floats + b * kBlockWeights, to_numbers + b * kBlockWeights, to_scales[b], to_sums[b]);
    }
  });
  return {tokens.floats, tokens.num_tokens, tokens.num_columns, to_numbers, to_scales, to_sums};
}

}  // namespace paged_ops
