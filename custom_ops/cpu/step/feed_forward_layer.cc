// feed_forward_layer: (act(norm(x) Wg^T) * (norm(x) Wu^T)) Wd^T; plus x.
//
//   x             [T, C] float32
//   mlp_norm      [C] float32, of the RMSNorm
//   gate, up      [N, C], as the weight of norm_linear
//   down          [C, N]
//   gate_bias, up_bias, down_bias   float32 [rows], those that there are
//   epsilon       float32 scalar
//   kinds         int64 scalar: those of gate, up and down
//   activation    int64 scalar: 0 silu(a) = a / (1 + e^-a), 1 gelu_pytorch_tanh
//   adds_residual int64 scalar: 1 to add x, 0 where a rank's part is to be summed with others first
//   optional      int64 scalar: which biases there are, a bit for each of the three, that of gate lowest
//   output        [T, C] float32
// Source: Shazeer 2020, "GLU Variants Improve Transformer": SwiGLU and GeGLU.

#include "cpu/step/feed_forward_layer.h"

namespace paged_ops {
namespace {

constexpr char kFeedForward[] = "feed_forward_layer";

// Parameters before the biases, and behind them.
constexpr int kBefore = 5, kBehind = 6;

FeedForwardCall Parse(const Parameters& parameters) {
  const int number = parameters.count - kBefore - kBehind;
  if (number < 0) {
    Refuse(kFeedForward, "got ", parameters.count, " inputs and outputs, it takes at least ", kBefore + kBehind);
  }
  Arguments arguments = parameters.Some(kFeedForward, 0, kBefore);
  Arguments behind = parameters.Some(kFeedForward, kBefore + number, kBehind);
  FeedForwardCall call;
  InputWeights weights(kFeedForward);
  call.x = NextTokens(arguments, "x");
  weights.TakeRow(kMlpNorm, arguments);
  for (Role role : {kGate, kUp, kDown}) weights.TakeMatrix(role, arguments);
  call.epsilon = NextNumber(behind, "epsilon");
  weights.SetKinds(Kinds(NextInteger(behind, "kinds")), {kGate, kUp, kDown});
  call.activation = ActivationOf(kFeedForward, NextInteger(behind, "activation"));
  call.adds_residual = NextInteger(behind, "adds_residual") != 0;
  weights.TakeOptional(parameters, kBefore, number, NextInteger(behind, "optional"), {kGateBias, kUpBias, kDownBias});
  call.output = NextTokens(behind, "output");
  TakeWeights(kFeedForward, weights, call);
  return call;
}

}  // namespace
}  // namespace paged_ops

PAGED_OPS_EXPORT int FeedForwardLayer(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                      void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  RunLayer(Parse({nparam, params, ndims, shapes, dtypes}));
  return 0;
}
