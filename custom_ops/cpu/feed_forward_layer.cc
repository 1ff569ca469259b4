// feed_forward_layer: SwiGLU, (silu(norm(x) Wg^T) * (norm(x) Wu^T)) Wd^T with silu(a) = a / (1 + e^-a); plus x.
//
//   x             [T, C] float32
//   norm_weight   [C] float32, of the RMSNorm
//   gate, up      [N, C], as the weight of norm_linear
//   down          [C, N]
//   epsilon       float32 scalar
//   kinds         int64 scalar: those of gate, up and down
//   adds_residual int64 scalar: 1 to add x, 0 where a rank's part is to be summed with others first
//   output        [T, C] float32
// Source: Shazeer 2020, "GLU Variants Improve Transformer".

#include "feed_forward_layer.h"

namespace paged_ops {
namespace {

constexpr char kFeedForward[] = "feed_forward_layer";

FeedForwardCall Parse(Arguments arguments) {
  FeedForwardCall call;
  call.x = NextTokens(arguments, "x");
  call.norm_weight = NextNormWeight(kFeedForward, arguments, call.x);
  const Tensor gate = NextWeight(arguments, "gate"), up = NextWeight(arguments, "up");
  const Tensor down = NextWeight(arguments, "down");
  call.epsilon = NextEpsilon(arguments);
  const Kinds kinds(NextInteger(arguments, "kinds"));
  call.adds_residual = NextInteger(arguments, "adds_residual") != 0;
  call.output = NextTokens(arguments, "output");
  call.gate = WeightsOf(kFeedForward, gate, kinds[0], call.x.shape[1]);
  call.up = WeightsOf(kFeedForward, up, kinds[1], call.x.shape[1]);
  call.down = WeightsOf(kFeedForward, down, kinds[2], call.gate.num_rows);
  RequireShapes(kFeedForward, call);
  return call;
}

}  // namespace
}  // namespace paged_ops

PAGED_OPS_EXPORT int FeedForwardLayer(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                      void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  RunLayer(Parse(Arguments(kFeedForward, 9, nparam, params, ndims, shapes, dtypes)));
  return 0;
}
