// Whole numbers of tokens as two bytes each, for CPUs that multiply bytes by fours (dot_vnni.h, amx_int8.h).
#pragma once

#include <vector>

#include "cpu/linear/round_unit.h"

namespace paged_ops {

constexpr int kGroupTokens = 8;

// 32 columns of 8 tokens: a number is 256 * high + low, both signed. The bytes are a tile.
struct alignas(64) TokenUnit {
  int8_t high[kGroupTokens][kUnitColumns];
  int8_t low[kGroupTokens][kUnitColumns];
  float scales[kGroupTokens];                   // floats are about numbers * scale
  float sums[kGroupTokens];                     // of a token's numbers, as floats
  float sums_of_halves[kHalves][kGroupTokens];  // the same of 16
  int32_t totals[kHalves][kGroupTokens];        // of 16, as whole numbers
};

struct TokenNumbers {
  const TokenUnit* units;  // [num_tokens / 8, num_columns / 32]

  // The tokens from `first`, a multiple of 8, on.
  TokenNumbers From(int64_t first, int64_t num_columns) const {
    return {units + first / kGroupTokens * (num_columns / kUnitColumns)};
  }
};

// Their memory.
class RoundedTokens {
 public:
  void Resize(int64_t num_tokens, int64_t num_columns) {
    num_units_ = num_columns / kUnitColumns;
    const size_t count = (num_tokens + kGroupTokens - 1) / kGroupTokens * num_units_;
    units_.resize(std::max(units_.size(), count));
  }

  void Set(int64_t token, int64_t unit, const RoundedUnit& rounded) {
    TokenUnit& target = units_[token / kGroupTokens * num_units_ + unit];
    const int64_t t = token % kGroupTokens;
    for (int v = 0; v < kUnitVecs; ++v) {
      const __m512i numbers = (__m512i)rounded.numbers[v];
      const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(numbers, _mm512_set1_epi32(128)), 8);
      const auto put = [v](int8_t* bytes, __m512i wide) {  // the lowest byte of each
        _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + v * kLanes), _mm512_cvtepi32_epi8(wide));
      };
      put(target.high[t], high);
      put(target.low[t], numbers);
    }
    target.scales[t] = rounded.scale;
    target.sums[t] = rounded.sum();
    for (int half = 0; half < kHalves; ++half) {
      target.sums_of_halves[half][t] = rounded.sum_of_half(half);
      target.totals[half][t] = rounded.totals[half];
    }
  }

  TokenNumbers Get() const { return {units_.data()}; }

 private:
  std::vector<TokenUnit> units_;
  int64_t num_units_ = 0;
};

}  // namespace paged_ops
