// The work of norm_linear on arguments that are checked: for the ops that have a model's head.
#pragma once

#include "cpu/linear/linear_call.h"
#include "cpu/runtime/op_times.h"

namespace paged_ops {

struct NormLinearCall {
  Tensor x, norm_weight;
  Weights weight;
  float epsilon;
  float* target;  // [T, N]
};

inline void RunHead(const NormLinearCall& call) {
  const int64_t num_tokens = call.x.shape[0];
  const OpTimer timer(kTimeHead, call.weight.bytes(), call.weight.products(num_tokens));
  float* normalized = Scratch(kNormalized, num_tokens * call.x.shape[1]);
  NormalizeTokens(call.x, call.norm_weight.as<float>(), call.epsilon, normalized);
  Multiply(InputFor(normalized, num_tokens, call.weight), ProductInto(call.weight, call.target));
}

}  // namespace paged_ops
