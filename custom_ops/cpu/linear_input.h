// The tokens that a linear layer multiplies, also as whole numbers: those are what blocks are multiplied with.
//
// 32 neighbours of a token share a scale, as those of a row do. They have 16 bits, so that a sum of 32 products with 8
// bits is exact in 32, and what rounding takes from a token is less than a 65,000th of the largest of the 32.
// Source: the blocks of GGUF, see weights.h.
#pragma once

#include <algorithm>

#include "threads.h"
#include "weights.h"
#if defined(PAGED_OPS_VNNI)
#include "token_quads.h"
#else
#include "token_pairs.h"
#endif

namespace paged_ops {

struct LinearInput {
  const float* floats;  // [num_tokens, num_columns]
  int64_t num_tokens;
  int64_t num_columns;
  TokenNumbers whole = {};  // of no meaning where no weight is of blocks

  // `count` tokens from `first` on; of whole numbers, see TokenNumbers.
  LinearInput Part(int64_t first, int64_t count) const {
    return {floats + first * num_columns, count, num_columns, whole.From(first, num_columns)};
  }
};

// The tokens with their numbers, which stay until the calling thread's next call.
inline LinearInput RoundTokens(const LinearInput& tokens) {
  thread_local RoundedTokens memory;
  RoundedTokens& rounded = memory;  // of this thread, for all that share the loop
  const int64_t blocks_of_token = tokens.num_columns / kBlockWeights, num_blocks = tokens.num_tokens * blocks_of_token;
  rounded.Resize(tokens.num_tokens, tokens.num_columns);
  constexpr int64_t kChunk = 128, kAlone = 512;  // blocks
  const int64_t num_chunks = (num_blocks + kChunk - 1) / kChunk;
  Threads::Get().For(num_chunks, num_blocks < kAlone, [&](int64_t chunk, int) {
    for (int64_t b = chunk * kChunk; b < std::min(num_blocks, (chunk + 1) * kChunk); ++b) {
      rounded.Set(b / blocks_of_token, b % blocks_of_token, RoundBlock(tokens.floats + b * kBlockWeights));
    }
  });
  return {tokens.floats, tokens.num_tokens, tokens.num_columns, rounded.Get()};
}

}  // namespace paged_ops
