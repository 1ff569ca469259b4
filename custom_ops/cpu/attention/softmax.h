// A softmax in parts: the scores of a partition become weights, and partitions are joined by the online softmax.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>

#include "cpu/runtime/simd.h"

namespace paged_ops {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

using Floats = std::unique_ptr<float[], decltype(&std::free)>;

inline Floats AllocateFloats(int64_t count) {  // aligned to a cache line, not initialised
  constexpr int64_t kCacheLine = 64;
  const int64_t bytes = (count * static_cast<int64_t>(sizeof(float)) / kCacheLine + 1) * kCacheLine;
  auto* floats = static_cast<float*>(std::aligned_alloc(kCacheLine, bytes));
  if (floats == nullptr) throw std::bad_alloc();
  return Floats(floats, &std::free);
}

// Working memory that is kept from call to call: it grows to the largest that was asked for.
class KeptFloats {
 public:
  float* Get() const { return floats_.get(); }

  void Reserve(int64_t count) {
    if (count <= count_) return;
    floats_ = AllocateFloats(count);
    count_ = count;
  }

 private:
  Floats floats_{nullptr, &std::free};
  int64_t count_ = 0;
};

// The unfinished softmax of some queries: the weights exp(score - max) summed in `sum`, the cached values so weighted
// summed in `values`, a row of `stride` floats a query.
struct Softmax {
  float* values;
  float* max;
  float* sum;

  static int64_t FloatCount(int64_t queries, int64_t stride) { return queries * (stride + 2); }

  static Softmax In(float* floats, int64_t queries, int64_t stride) {
    float* max = floats + queries * stride;
    return {floats, max, max + queries};
  }

  Softmax OfQuery(int64_t query, int64_t stride) const { return {values + query * stride, max + query, sum + query}; }
};

// What to subtract from scores whose maximum is `max`: where all are -inf, they stay so, and weigh nothing.
inline float Shift(float max) { return max == kMinusInfinity ? 0.0f : max; }

// Scores from `first` to `end` -> weights, in place; each counts in the lane where it lies. Without a token, or with
// scores of -inf alone, the maximum is -inf and the sum 0.
inline void ScoresToWeights(float* scores, int64_t first, int64_t end, Softmax result) {
  const int64_t begin = first / kLanes * kLanes, padded = (end + kLanes - 1) / kLanes * kLanes;
  std::fill(scores + begin, scores + first, kMinusInfinity);
  std::fill(scores + end, scores + padded, kMinusInfinity);
  Vec lane_max = Broadcast(kMinusInfinity);
  for (int64_t i = begin; i < padded; i += kLanes) lane_max = Max(lane_max, Load(scores + i));
  float total_max = lane_max[0];
  for (int i = 1; i < kLanes; ++i) total_max = std::max(total_max, lane_max[i]);
  const float shift = Shift(total_max);
  Vec lane_sum = {};
  for (int64_t i = begin; i < padded; i += kLanes) {
    const Vec weights = Exp(Load(scores + i) - shift);
    Store(scores + i, weights);
    lane_sum += weights;
  }
  float total_sum = 0;
  for (int i = 0; i < kLanes; ++i) total_sum += lane_sum[i];
  *result.max = total_max;
  *result.sum = total_sum;
}

// What Join makes of the first partition in a softmax of nothing: -0 becomes 0, the maximum no NaN.
inline void BeginJoin(Softmax first, int64_t queries, int64_t stride) {
  for (int64_t q = 0; q < queries; ++q) first.max[q] = std::max(kMinusInfinity, first.max[q]);
  for (int64_t i = 0; i < queries * stride; i += kLanes) Store(first.values + i, Load(first.values + i) + 0.0f);
}

// total += partition, by their log-sum-exp: both are brought to the larger maximum. Never inlined: whoever joins two
// partitions, in whatever thread, runs these very instructions.
__attribute__((noinline)) inline void Join(Softmax total, Softmax partition, int64_t stride) {
  const float max = std::max(*total.max, *partition.max);
  const float keep = Exp(Broadcast(*total.max - Shift(max)))[0];
  const float add = Exp(Broadcast(*partition.max - Shift(max)))[0];
  *total.max = max;
  *total.sum = *total.sum * keep + *partition.sum * add;
  for (int64_t d = 0; d < stride; d += kLanes) {
    const Vec added = Load(partition.values + d) * add;
    Store(total.values + d, MulAdd(Load(total.values + d), Broadcast(keep), added));
  }
}

}  // namespace paged_ops
