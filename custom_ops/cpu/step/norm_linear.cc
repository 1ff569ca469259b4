// norm_linear: the head of a model, norm(x) W^T.
//
//   x            [T, K] float32
//   norm_weight  [K] float32, of the RMSNorm
//   weight       [N, K] float32, float16 or bfloat16, or uint8 [N, bytes of a row's blocks]
//   epsilon      float32 scalar
//   kind         int64 scalar: which blocks, by GGML's number; not looked at for floats
//   output       [T, N] float32

#include "cpu/step/norm_linear.h"

namespace paged_ops {
namespace {

constexpr char kNormLinear[] = "norm_linear";

NormLinearCall Parse(Arguments arguments) {
  NormLinearCall call;
  call.x = NextTokens(arguments, "x");
  call.norm_weight = arguments.Next("norm_weight", 1, {DType::kFloat32});
  RequireShape(kNormLinear, call.norm_weight, {call.x.shape[1]});
  const Tensor weight = NextWeight(arguments, "weight");
  call.epsilon = NextNumber(arguments, "epsilon");
  call.weight = WeightsOf(kNormLinear, weight, NextInteger(arguments, "kind"), call.x.shape[1]);
  const Tensor output = NextTokens(arguments, "output");
  RequireShape(kNormLinear, output, {call.x.shape[0], call.weight.num_rows});
  call.target = output.as<float>();
  return call;
}

}  // namespace
}  // namespace paged_ops

PAGED_OPS_EXPORT int NormLinear(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  RunHead(Parse(Arguments(kNormLinear, 6, nparam, params, ndims, shapes, dtypes)));
  return 0;
}
