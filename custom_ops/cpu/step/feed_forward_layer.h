// The work of feed_forward_layer on arguments that are checked, and their checks: for the ops that have such layers.
#pragma once

#include "cpu/runtime/op_times.h"
#include "cpu/step/activation.h"
#include "cpu/step/half_layer.h"

namespace paged_ops {

struct FeedForwardCall : HalfLayer {
  Weights gate, up, down;
  Activation activation;
};

// The weights of a call that has x and output; refused in the name of `op` unless their shapes go together.
template <typename LayerWeights>
void TakeWeights(const char* op, const LayerWeights& weights, FeedForwardCall& call) {
  const int64_t columns = call.x.shape[1];
  call.norm = weights.NeededRow(kMlpNorm, columns);
  call.gate = weights.Matrix(kGate, columns);
  call.up = weights.Matrix(kUp, columns);
  call.down = weights.Matrix(kDown, call.gate.num_rows);
  if (call.up.num_rows != call.gate.num_rows) {
    Refuse(op, "gate has ", call.gate.num_rows, " rows, up has ", call.up.num_rows);
  }
  if (call.down.num_rows != columns) Refuse(op, "down has ", call.down.num_rows, " rows, x has ", columns, " columns");
  RequireShape(op, call.output, {call.num_tokens(), columns});
  call.gate.bias = weights.Row(kGateBias, call.gate.num_rows);
  call.up.bias = weights.Row(kUpBias, call.up.num_rows);
  call.down.bias = weights.Row(kDownBias, call.down.num_rows);
  call.output_norm = weights.Row(kMlpOutputNorm, columns);
}

// hidden[t][n] = activated(gate) * up, in the place of up.
template <typename Activated>
void Combine(const float (*gates)[kPanelRows], float (*ups)[kPanelRows], int64_t num_tokens, Activated activated) {
  for (int64_t t = 0; t < num_tokens; ++t) {
    PAGED_OPS_UNROLL_TILE
    for (int v = 0; v < kRowVecs; ++v) {
      float* up = ups[t] + v * kLanes;
      Store(up, activated(Load(gates[t] + v * kLanes)) * Load(up));
    }
  }
}

template <typename Activated>
void GateAndUp(const float* normalized, const FeedForwardCall& call, float* target, Activated activated) {
  const int64_t width = call.gate.num_rows;
  const auto combine = [=](int64_t token, int64_t count, int64_t row, int64_t num_rows,
                           const float (*gates)[kPanelRows], float (*ups)[kPanelRows]) {
    Combine(gates, ups, count, activated);
    for (int64_t t = 0; t < count; ++t) std::copy_n(ups[t], num_rows, target + (token + t) * width + row);
  };
  ApplyDown(normalized, call.num_tokens(), call.gate, call.up);
  Multiply(InputFor(normalized, call.num_tokens(), call.gate, call.up), ProductOfTwo{call.gate, call.up, combine});
}

inline void RunLayer(const FeedForwardCall& call) {
  const int64_t num_tokens = call.num_tokens();
  float* normalized = Scratch(kNormalized, num_tokens * call.x.shape[1]);
  float* hidden = Scratch(kHidden, num_tokens * call.gate.num_rows);
  {
    const OpTimer timer(kTimeGateUp, call.gate.bytes() + call.up.bytes(), 2 * call.gate.products(num_tokens));
    NormalizeTokens(call.x, call.norm, call.epsilon, normalized);
    WithActivation(call.activation, [&](auto activated) { GateAndUp(normalized, call, hidden, activated); });
  }
  const OpTimer timer(kTimeDown, call.down.bytes(), call.down.products(num_tokens));
  PutOut(call, hidden, call.down);
}

}  // namespace paged_ops
