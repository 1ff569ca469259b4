// What the two halves of a decoder layer, attention and feed forward, have in common: what goes in and what comes out.
#pragma once

#include "cpu/step/layer_weights.h"

namespace paged_ops {

// norm(x) goes in. What comes out may be normalized and scaled, and x is added to it; or, where a rank's part is to be
// summed with others first, nothing is done with it.
struct HalfLayer {
  Tensor x;           // [T, C]
  const float* norm;  // [C], as all norms of tokens
  float epsilon;      // of all norms
  bool adds_residual;
  const float* output_norm = nullptr;  // null: none
  float residual_scale = 1.0f;
  Tensor output;

  int64_t num_tokens() const { return x.shape[0]; }
};

// x + scale * norm(product) -> output, which may be x. The product is overwritten.
inline void AddNormalized(const HalfLayer& half, float* product) {
  constexpr int64_t kTokens = 16;  // of a chunk
  const int64_t num_tokens = half.num_tokens(), columns = half.x.shape[1];
  const float* x = half.x.as<float>();
  const float scale = half.residual_scale;
  float* output = half.output.as<float>();
  const bool alone = num_tokens * columns < kParallelProducts;
  Threads::Get().For((num_tokens + kTokens - 1) / kTokens, alone, [&](int64_t chunk, int) {
    const int64_t first = chunk * kTokens, end = std::min(num_tokens, first + kTokens);
    if (half.output_norm != nullptr) {
      NormalizeEach(product + first * columns, half.output_norm, half.epsilon, columns, end - first);
    }
    int64_t i = first * columns;
    for (; i + kLanes <= end * columns; i += kLanes) Store(output + i, Load(x + i) + Load(product + i) * scale);
    for (; i < end * columns; ++i) output[i] = x[i] + product[i] * scale;
  });
}

// input W^T, with what the layer does with that -> output.
inline void PutOut(const HalfLayer& half, const float* input, const Weights& weights) {
  const int64_t num_tokens = half.num_tokens();
  const LinearInput tokens = InputFor(input, num_tokens, weights);
  ApplyDown(input, num_tokens, weights);
  if (!half.adds_residual || (half.output_norm == nullptr && half.residual_scale == 1.0f)) {
    const float* residual = half.adds_residual ? half.x.as<float>() : nullptr;
    return Multiply(tokens, ProductInto(weights, half.output.as<float>(), residual));
  }
  float* product = Scratch(kPutOut, num_tokens * half.x.shape[1]);
  Multiply(tokens, ProductInto(weights, product));
  AddNormalized(half, product);
}

}  // namespace paged_ops
