// feed_forward_layer: SwiGLU, (silu(norm(x) Wg^T) * (norm(x) Wu^T)) Wd^T with silu(a) = a / (1 + e^-a); plus x.
//
//   x             [T, C] float32
//   norm_weight   [C] float32, of the RMSNorm
//   gate, up      [N, C], as the weight of norm_linear
//   down          [C, N]
//   biases of gate, up, down   float32 [rows], those that there are
//   epsilon       float32 scalar
//   kinds         int64 scalar: those of gate, up and down
//   adds_residual int64 scalar: 1 to add x, 0 where a rank's part is to be summed with others first
//   biases        int64 scalar: which there are, a bit for each of the three, that of gate lowest
//   output        [T, C] float32
// Source: Shazeer 2020, "GLU Variants Improve Transformer".

#include "feed_forward_layer.h"

namespace paged_ops {
namespace {

constexpr char kFeedForward[] = "feed_forward_layer";

// Parameters before the biases, and behind them.
constexpr int kBefore = 5, kBehind = 5;

FeedForwardCall Parse(const Parameters& parameters) {
  const int number = parameters.count - kBefore - kBehind;
  if (number < 0) {
    Refuse(kFeedForward, "got ", parameters.count, " inputs and outputs, it takes at least ", kBefore + kBehind);
  }
  Arguments arguments = parameters.Some(kFeedForward, 0, kBefore);
  Arguments behind = parameters.Some(kFeedForward, kBefore + number, kBehind);
  FeedForwardCall call;
  call.x = NextTokens(arguments, "x");
  call.norm_weight = NextNormWeight(kFeedForward, arguments, call.x);
  const Tensor gate = NextWeight(arguments, "gate"), up = NextWeight(arguments, "up");
  const Tensor down = NextWeight(arguments, "down");
  call.epsilon = NextEpsilon(behind);
  const Kinds kinds(NextInteger(behind, "kinds"));
  call.adds_residual = NextInteger(behind, "adds_residual") != 0;
  const int64_t biases = NextInteger(behind, "biases");
  call.output = NextTokens(behind, "output");
  call.gate = WeightsOf(kFeedForward, gate, kinds[0], call.x.shape[1]);
  call.up = WeightsOf(kFeedForward, up, kinds[1], call.x.shape[1]);
  call.down = WeightsOf(kFeedForward, down, kinds[2], call.gate.num_rows);
  RequireShapes(kFeedForward, call);
  TakeBiases(kFeedForward, parameters.Some(kFeedForward, kBefore, number), number, biases,
             {&call.gate, &call.up, &call.down});
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
