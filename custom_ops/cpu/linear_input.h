// The tokens that a linear layer multiplies, also as what weights of some kinds are multiplied with: whole numbers for
// blocks, parts (token_parts.h) for bfloat16 where there are tiles.
//
// Of whole numbers, 32 neighbours of a token share a scale, as those of a row do. They have 16 bits, so that a sum of 32 products with 8
// bits is exact in 32, and what rounding takes from a token is less than a 65,000th of the largest of the 32.
// Source: the blocks of GGUF, see weights.h.
#pragma once

#include <algorithm>

#include "threads.h"
#include "token_parts.h"
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
  TokenNumbers whole = {};  // null where no weight is of blocks
  TokenParts parts = {};    // of all tokens, these begin with first_token; null where no weight takes them
  int64_t first_token = 0;

  // `count` tokens from `first` on, a multiple of 16 (of pairs of whole numbers alone, any).
  LinearInput Part(int64_t first, int64_t count) const {
    const TokenNumbers numbers = whole.From(first, num_columns);
    return {floats + first * num_columns, count, num_columns, numbers, parts, first_token + first};
  }
};

// The tokens' whole numbers, which stay until the calling thread's next call.
inline TokenNumbers RoundTokens(const LinearInput& tokens) {
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
  return rounded.Get();
}

// Whether such weights are multiplied with tokens' parts.
inline bool TakesParts(const Weights& weights) {
  return weights.kind == WeightKind::kBFloat16 && StandsByPairs(weights.num_columns);
}

// Tokens to be multiplied with these weights, which have the same columns.
template <typename... OneOfWeights>
LinearInput TokensFor(const float* x, int64_t num_tokens, const OneOfWeights&... weights) {
  LinearInput tokens{x, num_tokens, std::max({weights.num_columns...})};
  if ((IsOfBlocks(weights.kind) || ...)) tokens.whole = RoundTokens(tokens);
#if defined(PAGED_OPS_AMX)
  if ((TakesParts(weights) || ...)) tokens.parts = SplitTokens(x, num_tokens, tokens.num_columns);
#endif
  return tokens;
}

}  // namespace paged_ops
