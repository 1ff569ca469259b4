// Tokens as sums of three bfloat16, which have all the bits of a float: what tiles multiply weights of bfloat16 with.
//
//   float      1 + 23 bits of a fraction     |1.fffffff|ffffffff|ffffffff|
//   its parts                                  first     second   third
#pragma once

#include <algorithm>
#include <vector>

#include "panels.h"
#include "threads.h"
#include "tiles.h"

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

// Calls body(token, its columns from .. on) for every 32 columns of every token, shared among the threads.
template <typename Body>
void ForBlocksOfTokens(int64_t num_tokens, int64_t num_columns, Body&& body) {
  constexpr int64_t kAlone = 512;
  const int64_t num_blocks = num_columns / kTileColumns;
  Threads::Get().For(num_tokens, num_tokens * num_blocks < kAlone, [&](int64_t token, int) {
    for (int64_t block = 0; block < num_blocks; ++block) body(token, block);
  });
}

// The tokens' parts, which stay until the calling thread's next call: of one token, and where there are no tiles, for
// vectors.
inline TokenParts SplitTokens(const float* floats, int64_t num_tokens, int64_t num_columns) {
  thread_local std::vector<PartsBlock> for_tiles;
  thread_local std::vector<float> for_vectors;
  const int64_t num_blocks = num_columns / kTileColumns;
  const auto split = [=](int64_t token, int64_t block, auto&& put) {
    for (int64_t i = 0; i < kTileColumns; i += kLanes) {
      SplitFloats(floats + token * num_columns + block * kTileColumns + i,
                  [&](int part, BitVec bits) { put(part, i, bits); });
    }
  };
  if (num_tokens == 1 || !HasTiles()) {
    for_vectors.resize(std::max<size_t>(for_vectors.size(), kTokenParts * num_tokens * num_columns));
    float* target = for_vectors.data();
    ForBlocksOfTokens(num_tokens, num_columns, [&](int64_t token, int64_t block) {
      float* of_block = target + (token * num_blocks + block) * kTokenParts * kTileColumns;
      split(token, block, [=](int part, int64_t i, BitVec bits) { Store(of_block + part * kTileColumns + i, (Vec)bits); });
    });
    return {nullptr, target};
  }
  const int64_t count = (num_tokens + kTileRows - 1) / kTileRows * num_blocks;
  for_tiles.resize(std::max<size_t>(for_tiles.size(), count));
  PartsBlock* target = for_tiles.data();
  ForBlocksOfTokens(num_tokens, num_columns, [&](int64_t token, int64_t block) {
    PartsBlock& of_block = target[token / kTileRows * num_blocks + block];
    split(token, block, [&](int part, int64_t i, BitVec bits) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(of_block.parts[part][token % kTileRows] + i),
                          _mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)bits, 16)));
    });
  });
  return {target, nullptr};
}

#endif

}  // namespace paged_ops
