// Rounding 32 neighbours of a token to whole numbers with one scale.
#pragma once

#include <cfloat>

#include "weights.h"

namespace paged_ops {

constexpr int32_t kLargestNumber = 32639;  // 127 * 256 + 127, the largest that two signed bytes hold
constexpr int kBlockVecs = kBlockWeights / kLanes;

struct RoundedBlock {
  IntVec numbers[kBlockVecs];
  int32_t total;
  float scale;

  float sum() const { return static_cast<float>(total) * scale; }
};

// Where all are below 1e-33 they become zeros; where one is no number, or infinite, the scale is not a number, and so
// is all that comes of it.
inline RoundedBlock RoundBlock(const float* floats) {
  Vec values[kBlockVecs], largest = {}, nothing = {};
  PAGED_OPS_UNROLL_TILE
  for (int v = 0; v < kBlockVecs; ++v) {
    values[v] = Load(floats + v * kLanes);
    largest = Max(Max(values[v], -values[v]), largest);
    nothing += values[v] - values[v];
  }
  const auto add = [](auto a, auto b) { return a + b; };
  const Vec none = AllLanes(nothing, add);
  const Vec step = AllLanes(largest, Max) / static_cast<float>(kLargestNumber) + none;
  const Vec inverse = step > FLT_MIN ? 1.0f / step : Vec{};
  RoundedBlock rounded;
  BitVec total = {};  // unsigned, because the bits of what is no number may overflow
  PAGED_OPS_UNROLL_TILE
  for (int v = 0; v < kBlockVecs; ++v) {
    // A float near 1.5 * 2^23 has no fraction bits, which is the rounding, and ends in the bits of the whole number.
    const BitVec bits = (BitVec)(values[v] * inverse + 0x1.8p23f) - 0x4b400000;
    rounded.numbers[v] = (IntVec)bits;
    total += bits;
  }
  rounded.total = static_cast<int32_t>(AllLanes(total, add)[0]);
  rounded.scale = step[0] > FLT_MIN ? step[0] : none[0];
  return rounded;
}

}  // namespace paged_ops
