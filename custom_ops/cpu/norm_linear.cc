// norm_linear: the head of a model, norm(x) W^T.
//
//   x            [T, K] float32
//   norm_weight  [K] float32, of the RMSNorm
//   weight       [N, K] float32, float16 or bfloat16, or uint8 [N, bytes of a row's blocks]
//   epsilon      float32 scalar
//   kind         int64 scalar: which blocks, by GGML's number; not looked at for floats
//   output       [T, N] float32

#include "linear_call.h"
#include "op_times.h"

PAGED_OPS_EXPORT int NormLinear(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  constexpr char kNormLinear[] = "norm_linear";
  Arguments arguments(kNormLinear, 6, nparam, params, ndims, shapes, dtypes);
  const Tensor x = NextTokens(arguments, "x");
  const Tensor norm_weight = NextNormWeight(kNormLinear, arguments, x);
  const Tensor weight = NextWeight(arguments, "weight");
  const float epsilon = NextEpsilon(arguments);
  const Weights weights = WeightsOf(kNormLinear, weight, NextInteger(arguments, "kind"), x.shape[1]);
  const Tensor output = NextTokens(arguments, "output");
  RequireShape(kNormLinear, output, {x.shape[0], weights.num_rows});

  const OpTimer timer(kTimeHead, weights.bytes(), weights.products(x.shape[0]));
  float* normalized = Scratch(kNormalized, x.shape[0] * x.shape[1]);
  NormalizeTokens(x, norm_weight, epsilon, normalized);
  Multiply(TokensFor(normalized, x.shape[0], weights), ProductInto(weights, output.as<float>()));
  return 0;
}
