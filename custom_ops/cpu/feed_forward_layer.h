// The work of feed_forward_layer on arguments that are checked, and their checks: for the ops that have such layers.
#pragma once

#include "linear_call.h"
#include "op_times.h"

namespace paged_ops {

struct FeedForwardCall {
  Tensor x, norm_weight;
  Weights gate, up, down;
  float epsilon;
  bool adds_residual;
  Tensor output;

  int64_t num_tokens() const { return x.shape[0]; }
};

// Checks that the shapes of a call go together; a weight's columns were looked at when it was taken.
inline void RequireShapes(const char* op, const FeedForwardCall& call) {
  if (call.up.num_rows != call.gate.num_rows) {
    Refuse(op, "gate has ", call.gate.num_rows, " rows, up has ", call.up.num_rows);
  }
  if (call.down.num_rows != call.x.shape[1]) {
    Refuse(op, "down has ", call.down.num_rows, " rows, x has ", call.x.shape[1], " columns");
  }
  RequireShape(op, call.output, {call.num_tokens(), call.x.shape[1]});
}

// With the exponential of a number that is not positive, which cannot overflow.
inline Vec Silu(Vec a) {
  const Vec small = Exp(a > 0.0f ? -a : a);
  return a * (a > 0.0f ? Broadcast(1.0f) : small) / (small + 1.0f);
}

// hidden[t][n] = silu(gate) * up, in the place of up.
inline void Combine(const float (*gates)[kPanelRows], float (*ups)[kPanelRows], int64_t num_tokens) {
  for (int64_t t = 0; t < num_tokens; ++t) {
    PAGED_OPS_UNROLL_TILE
    for (int v = 0; v < kRowVecs; ++v) {
      float* up = ups[t] + v * kLanes;
      Store(up, Silu(Load(gates[t] + v * kLanes)) * Load(up));
    }
  }
}

inline void GateAndUp(const float* normalized, int64_t num_tokens, const Weights& gate, const Weights& up,
                      float* target) {
  const int64_t width = gate.num_rows;
  const auto combine = [=](int64_t token, int64_t count, int64_t row, int64_t num_rows, const float (*gates)[kPanelRows],
                           float (*ups)[kPanelRows]) {
    Combine(gates, ups, count);
    for (int64_t t = 0; t < count; ++t) std::copy_n(ups[t], num_rows, target + (token + t) * width + row);
  };
  Multiply(InputFor(normalized, num_tokens, gate, up), ProductOfTwo{gate, up, combine});
}

inline void RunLayer(const FeedForwardCall& call) {
  const int64_t num_tokens = call.num_tokens();
  float* normalized = Scratch(kNormalized, num_tokens * call.x.shape[1]);
  float* hidden = Scratch(kHidden, num_tokens * call.gate.num_rows);
  {
    const OpTimer timer(kTimeGateUp, call.gate.bytes() + call.up.bytes(), 2 * call.gate.products(num_tokens));
    NormalizeTokens(call.x, call.norm_weight, call.epsilon, normalized);
    GateAndUp(normalized, num_tokens, call.gate, call.up, hidden);
  }
  const OpTimer timer(kTimeDown, call.down.bytes(), call.down.products(num_tokens));
  const float* residual = call.adds_residual ? call.x.as<float>() : nullptr;
  Multiply(InputFor(hidden, num_tokens, call.down), ProductInto(call.down, call.output.as<float>(), residual));
}

}  // namespace paged_ops
