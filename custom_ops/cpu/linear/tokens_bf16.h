// Tokens as bfloat16: rounded to one each, or as sums of three, which have all the bits of a float: what tiles multiply
// weights of bfloat16 with.
//
//   float      1 + 23 bits of a fraction     |1.fffffff|ffffffff|ffffffff|
//   its parts                                  first     second   third
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/linear/panels.h"
#include "cpu/linear/tiles.h"

namespace paged_ops {

constexpr int kTokenParts = 3;

// The parts of 16 tokens, of 32 columns: a tile of each part.
struct alignas(kTileRowBytes) PartsBlock {
  uint16_t parts[kTokenParts][kTileRows][kTileColumns];
};

// For tiles [num_tokens / 16][num_columns / 32] blocks; for vectors [num_tokens][num_columns / 32][3][32] floats.
struct TokenParts {
  const PartsBlock* blocks;
  const float* floats;
};

#if defined(PAGED_OPS_AMX)

// 16 floats, each the sum of its parts; one that is not finite is its own first part. put(part, its numbers)
template <typename Put>
inline void SplitFloats(const float* source, Put&& put) {
  Vec rest = Load(source);
  PAGED_OPS_UNROLL_TILE
  for (int part = 0; part < kTokenParts; ++part) {
    const BitVec bits = (BitVec)rest & 0xffff0000u;  // cut, not rounded: the largest float must not become infinite
    put(part, bits);
    rest = rest - rest == 0.0f ? rest - (Vec)bits : Vec{};
  }
}

// Their memory.
class SplitTokens {
 public:
  // They stay until the next call. Of one token, and where there are no tiles, they are for vectors.
  TokenParts Split(const float* floats, int64_t num_tokens, int64_t num_columns) {
    const int64_t num_blocks = num_columns / kTileColumns;
    const auto split = [=](int64_t token, int64_t block, auto&& put) {
      for (int64_t i = 0; i < kTileColumns; i += kLanes) {
        SplitFloats(floats + token * num_columns + block * kTileColumns + i,
                    [&](int part, BitVec bits) { put(part, i, bits); });
      }
    };
    if (num_tokens == 1 || !HasTiles()) {
      floats_.resize(std::max<size_t>(floats_.size(), kTokenParts * num_tokens * num_columns));
      float* target = floats_.data();
      for (int64_t i = 0; i < num_tokens * num_blocks; ++i, target += kTokenParts * kTileColumns) {
        split(i / num_blocks, i % num_blocks, [=](int part, int64_t column, BitVec bits) {
          Store(target + part * kTileColumns + column, (Vec)bits);
        });
      }
      return {nullptr, floats_.data()};
    }
    const int64_t count = (num_tokens + kTileRows - 1) / kTileRows * num_blocks;
    blocks_.resize(std::max<size_t>(blocks_.size(), count));
    for (int64_t t = 0; t < num_tokens; ++t) {
      PartsBlock* of_group = blocks_.data() + t / kTileRows * num_blocks;
      for (int64_t b = 0; b < num_blocks; ++b) {
        split(t, b, [&](int part, int64_t column, BitVec bits) {
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(of_group[b].parts[part][t % kTileRows] + column),
                              _mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)bits, 16)));
        });
      }
    }
    return {blocks_.data(), nullptr};
  }

 private:
  std::vector<PartsBlock> blocks_;
  std::vector<float> floats_;
};

#elif defined(PAGED_OPS_AVX512_BF16)

// Memory of tokens that are rounded to bfloat16, to nearest, ties to even: off by a 256th of themselves at most.
class TokensOfBFloat16 {
 public:
  // count: numbers of all tokens, whose rows whole vectors make up. They stay until the next call.
  const BFloat16Pair* Round(const float* floats, int64_t count) {
    numbers_.resize(std::max<size_t>(numbers_.size(), count));
    for (int64_t i = 0; i < count; i += kLanes) Store(numbers_.data() + i, Load(floats + i));
    return reinterpret_cast<const BFloat16Pair*>(numbers_.data());
  }

 private:
  std::vector<BFloat16> numbers_;
};

#endif

}  // namespace paged_ops
