// The tokens that a linear layer multiplies, and what weights of some kinds are multiplied with: whole numbers for blocks,
// parts (tokens_bf16.h) for bfloat16 where there are tiles, bfloat16 for W16A16 where there are products of these.
//
// Of whole numbers, 32 neighbours of a token share a scale, as those of a row do. They have 16 bits, so that a sum of 32
// products with 8 bits is exact in 32, and what rounding takes from a token is less than a 65,000th of the largest of
// the 32. Source: the blocks of GGUF, see formats.h.
#pragma once

#include <algorithm>

#include "cpu/linear/tokens_bf16.h"
#if defined(PAGED_OPS_VNNI)
#include "cpu/linear/tokens_vnni.h"
#else
#include "cpu/linear/tokens_madd.h"
#endif

namespace paged_ops {

struct LinearInput {
  const float* floats;  // [num_tokens, num_columns]
  int64_t num_tokens;
  int64_t num_columns;
  bool takes_whole_numbers;
  bool takes_parts;
  bool takes_bfloat16;
};

// Whether such weights are multiplied with tokens' parts.
inline bool TakesParts([[maybe_unused]] const Weights& weights) {
#if defined(PAGED_OPS_AMX)
  const bool are_bfloat16 = weights.kind == WeightKind::kBFloat16 || weights.kind == WeightKind::kW16A16;
  return are_bfloat16 && StandsByPairs(weights.num_columns);
#else
  return false;
#endif
}

// Whether they are multiplied with tokens that are bfloat16.
inline bool TakesBFloat16([[maybe_unused]] const Weights& weights) {
#if defined(PAGED_OPS_AVX512_BF16)
  return weights.kind == WeightKind::kW16A16 && StandsByPairs(weights.num_columns);
#else
  return false;
#endif
}

// Tokens to be multiplied with these weights, which have the same columns.
template <typename... OneOfWeights>
LinearInput InputFor(const float* x, int64_t num_tokens, const OneOfWeights&... weights) {
  return {x, num_tokens, std::max({weights.num_columns...}), (TakesWholeNumbers(weights.kind) || ...),
          (TakesParts(weights) || ...), (TakesBFloat16(weights) || ...)};
}

// Some of the tokens, as they are multiplied.
struct LinearTokens {
  const float* floats;
  int64_t num_tokens;
  int64_t num_columns;
  TokenNumbers whole;
  TokenParts parts;
  const BFloat16Pair* bfloat16;  // [num_tokens, num_columns / 2]
};

// Makes them in memory of one thread. Each thread does that for itself, though that is the same work twice: what another
// core has written is read as slowly as memory, a line at a time.
class TokenForms {
 public:
  // They stay until the next call.
  LinearTokens Of(const LinearInput& input, int64_t first, int64_t count) {
    const float* floats = input.floats + first * input.num_columns;
    LinearTokens tokens{floats, count, input.num_columns, {}, {}, nullptr};
    if (input.takes_whole_numbers) tokens.whole = Round(floats, count, input.num_columns);
#if defined(PAGED_OPS_AMX)
    if (input.takes_parts) tokens.parts = parts_.Split(floats, count, input.num_columns);
#elif defined(PAGED_OPS_AVX512_BF16)
    if (input.takes_bfloat16) tokens.bfloat16 = bfloat16_.Round(floats, count * input.num_columns);
#endif
    return tokens;
  }

 private:
  TokenNumbers Round(const float* floats, int64_t num_tokens, int64_t num_columns) {
    rounded_.Resize(num_tokens, num_columns);
    for (int64_t t = 0; t < num_tokens; ++t) {
      for (int64_t b = 0; b < num_columns / kUnitColumns; ++b) {
        rounded_.Set(t, b, RoundUnit(floats + t * num_columns + b * kUnitColumns));
      }
    }
    return rounded_.Get();
  }

  RoundedTokens rounded_;
#if defined(PAGED_OPS_AMX)
  SplitTokens parts_;
#elif defined(PAGED_OPS_AVX512_BF16)
  TokensOfBFloat16 bfloat16_;
#endif
};

}  // namespace paged_ops
