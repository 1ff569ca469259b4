// Whole numbers of tokens as 16 bits each, for CPUs that multiply those by pairs (dot_madd.h).
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/linear/round_unit.h"

namespace paged_ops {

constexpr int64_t kByteTokens = 8;  // so few are there as bytes, too

// 32 numbers as 256 * high + low.
struct TokenBytes {
  int8_t high[kUnitColumns], low[kUnitColumns];
};

struct TokenNumbers {
  const int16_t* numbers;  // [num_tokens, num_columns], of each quad the even columns and then the odd ones
  const float* scales;     // [num_tokens, num_columns / 32]: floats are about numbers * scale
  const float* sums;       // of the 32 that share a scale, as floats
  const float (*sums_of_halves)[kHalves];    // the same of 16
  const int32_t (*totals)[kHalves];          // of 16 numbers
  const TokenBytes* bytes;                   // of the first tokens, in the order of the columns

  // The tokens from `first` on; of those that are not there as bytes that pointer is not to be followed.
  TokenNumbers From(int64_t first, int64_t num_columns) const {
    const int64_t weights = first * num_columns, units = weights / kUnitColumns;
    return {numbers + weights, scales + units, sums + units, sums_of_halves + units, totals + units, bytes + units};
  }
};

// Their memory.
class RoundedTokens {
 public:
  void Resize(int64_t num_tokens, int64_t num_columns) {
    num_units_ = num_columns / kUnitColumns;
    const size_t units = num_tokens * num_units_;
    bytes_.resize(std::max<size_t>(bytes_.size(), std::min(num_tokens, kByteTokens) * num_units_));
    if (units <= scales_.size()) return;
    numbers_.resize(units * kUnitColumns);
    scales_.resize(units);
    sums_.resize(units);
    of_halves_.resize(units * kHalves);
    totals_.resize(units * kHalves);
  }

  void Set(int64_t token, int64_t unit, const RoundedUnit& rounded) {
    typedef int16_t ShortNumbers __attribute__((vector_size(kLanes * 2)));
    const int64_t place = token * num_units_ + unit;
    for (int v = 0; v < kUnitVecs; ++v) {
      const ShortNumbers shorts = EvenBeforeOdd(__builtin_convertvector(rounded.numbers[v], ShortNumbers));
      std::memcpy(&numbers_[place * kUnitColumns + v * kLanes], &shorts, sizeof shorts);
    }
    if (token < kByteTokens) SetBytes(rounded, bytes_[place]);
    scales_[place] = rounded.scale;
    sums_[place] = rounded.sum();
    for (int half = 0; half < kHalves; ++half) {
      of_halves_[place * kHalves + half] = rounded.sum_of_half(half);
      totals_[place * kHalves + half] = rounded.totals[half];
    }
  }

  TokenNumbers Get() const {
    return {numbers_.data(), scales_.data(), sums_.data(), reinterpret_cast<const float(*)[kHalves]>(of_halves_.data()),
            reinterpret_cast<const int32_t(*)[kHalves]>(totals_.data()), bytes_.data()};
  }

 private:
  // 0 2 1 3 4 6 5 7 …
  template <typename Shorts>
  static Shorts EvenBeforeOdd(Shorts shorts) {
#if defined(PAGED_OPS_AVX512)
    return __builtin_shufflevector(shorts, shorts, 0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
#elif defined(PAGED_OPS_AVX2)
    return __builtin_shufflevector(shorts, shorts, 0, 2, 1, 3, 4, 6, 5, 7);
#else
    return __builtin_shufflevector(shorts, shorts, 0, 2, 1, 3);
#endif
  }

  static void SetBytes(const RoundedUnit& rounded, TokenBytes& target) {
    for (int v = 0; v < kUnitVecs; ++v) {
      const IntVec high = (rounded.numbers[v] + 128) >> 8;
      const ByteVec highs = __builtin_convertvector(high, ByteVec);
      const ByteVec lows = __builtin_convertvector(rounded.numbers[v] - (high << 8), ByteVec);
      std::memcpy(target.high + v * kLanes, &highs, sizeof highs);
      std::memcpy(target.low + v * kLanes, &lows, sizeof lows);
    }
  }

  std::vector<int16_t> numbers_;
  std::vector<float> scales_, sums_, of_halves_;
  std::vector<int32_t> totals_;
  std::vector<TokenBytes> bytes_;
  int64_t num_units_ = 0;
};

}  // namespace paged_ops
