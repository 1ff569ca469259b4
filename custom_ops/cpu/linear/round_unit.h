// Rounding 32 neighbours of a token to whole numbers with one scale.
#pragma once

#include <cfloat>
#include <limits>

#include "cpu/linear/numbers.h"

namespace paged_ops {

constexpr int32_t kLargestNumber = 32639;  // 127 * 256 + 127, the largest that two signed bytes hold
constexpr int kUnitVecs = kUnitColumns / kLanes;
constexpr int kHalves = 2;  // of a unit, 16 columns each: some formats have a scale for each

struct RoundedUnit {
  IntVec numbers[kUnitVecs];
  int32_t totals[kHalves];  // of each half's numbers
  float scale;

  int32_t total() const { return totals[0] + totals[1]; }
  float sum() const { return static_cast<float>(total()) * scale; }
  float sum_of_half(int half) const { return static_cast<float>(totals[half]) * scale; }
};

// Where all are below 1e-33 they become zeros, and so they do where one is no number, or infinite: then the scale is not
// a number, nor is anything that comes of it.
inline RoundedUnit RoundUnit(const float* floats) {
  constexpr uint32_t kInfinity = 0x7f800000;
  Vec values[kUnitVecs];
  BitVec largest = {};  // magnitudes as whole numbers, which have their order; what is no number is above infinity
  const auto larger = [](BitVec a, BitVec b) { return a > b ? a : b; };
  PAGED_OPS_UNROLL_TILE
  for (int v = 0; v < kUnitVecs; ++v) {
    values[v] = Load(floats + v * kLanes);
    largest = larger((BitVec)values[v] & 0x7fffffff, largest);
  }
  const uint32_t bits_of_largest = AllLanes(largest, larger)[0];
  float magnitude;
  std::memcpy(&magnitude, &bits_of_largest, sizeof magnitude);
  const float step = magnitude / static_cast<float>(kLargestNumber);
  const bool is_finite = bits_of_largest < kInfinity, is_nothing = !(step > FLT_MIN);
  const Vec inverse = Broadcast(is_finite && !is_nothing ? 1.0f / step : 0.0f);
  const uint32_t kept = is_finite ? 0xffffffffu : 0;  // NaN times 0 is NaN, whose bits are no whole number to add up
  RoundedUnit rounded;
  BitVec totals[kHalves] = {};
  PAGED_OPS_UNROLL_TILE
  for (int v = 0; v < kUnitVecs; ++v) {
    // A float near 1.5 * 2^23 has no fraction bits, which is the rounding, and ends in the bits of the whole number.
    const BitVec bits = ((BitVec)(values[v] * inverse + 0x1.8p23f) - 0x4b400000) & kept;
    rounded.numbers[v] = (IntVec)bits;
    totals[v * kHalves / kUnitVecs] += bits;
  }
  for (int half = 0; half < kHalves; ++half) {
    rounded.totals[half] = static_cast<int32_t>(AllLanes(totals[half], [](BitVec a, BitVec b) { return a + b; })[0]);
  }
  rounded.scale = !is_finite ? std::numeric_limits<float>::quiet_NaN() : is_nothing ? 0.0f : step;
  return rounded;
}

}  // namespace paged_ops
