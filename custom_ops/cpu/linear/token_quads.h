// Whole numbers of tokens as two bytes each, for CPUs that multiply bytes by fours (number_quads.h).
#pragma once

#include <vector>

#include "cpu/linear/round_block.h"

namespace paged_ops {

constexpr int kGroupTokens = 8;

// 32 columns of 8 tokens: a number is 256 * high + low, both signed. The bytes are a tile.
struct alignas(64) TokenBlock {
  int8_t high[kGroupTokens][kBlockWeights];
  int8_t low[kGroupTokens][kBlockWeights];
  float scales[kGroupTokens];    // floats are about numbers * scale
  float sums[kGroupTokens];      // of a token's numbers, as floats
  int32_t totals[kGroupTokens];  // the same as whole numbers
};

struct TokenNumbers {
  const TokenBlock* blocks;  // [num_tokens / 8, num_columns / 32]

  // The tokens from `first`, a multiple of 8, on.
  TokenNumbers From(int64_t first, int64_t num_columns) const {
    return {blocks + first / kGroupTokens * (num_columns / kBlockWeights)};
  }
};

// Their memory.
class RoundedTokens {
 public:
  void Resize(int64_t num_tokens, int64_t num_columns) {
    num_blocks_ = num_columns / kBlockWeights;
    const size_t count = (num_tokens + kGroupTokens - 1) / kGroupTokens * num_blocks_;
    blocks_.resize(std::max(blocks_.size(), count));
  }

  void Set(int64_t token, int64_t block, const RoundedBlock& rounded) {
    TokenBlock& target = blocks_[token / kGroupTokens * num_blocks_ + block];
    const int64_t t = token % kGroupTokens;
    for (int v = 0; v < kBlockVecs; ++v) {
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
    target.totals[t] = rounded.total;
  }

  TokenNumbers Get() const { return {blocks_.data()}; }

 private:
  std::vector<TokenBlock> blocks_;
  int64_t num_blocks_ = 0;
};

}  // namespace paged_ops
