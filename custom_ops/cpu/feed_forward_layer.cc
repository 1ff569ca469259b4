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

#include "linear_call.h"
#include "op_times.h"

namespace paged_ops {
namespace {

constexpr char kFeedForward[] = "feed_forward_layer";

// With the exponential of a number that is not positive, which cannot overflow.
inline Vec Silu(Vec a) {
  const Vec small = Exp(a > 0.0f ? -a : a);
  return a * (a > 0.0f ? Broadcast(1.0f) : small) / (small + 1.0f);
}

void Combine(const float (*gate)[kPanel], float (*up)[kPanel], int64_t num_tokens) {
  const float* gates = gate[0];
  float* ups = up[0];
  const int64_t count = num_tokens * kPanel;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(ups + i, Silu(Load(gates + i)) * Load(ups + i));
  if (i < count) StorePart(ups + i, Silu(LoadPart(gates + i, count - i)) * LoadPart(ups + i, count - i), count - i);
}

void GateAndUp(const float* normalized, int64_t num_tokens, const Weights& gate, const Weights& up, float* target) {
  const int64_t width = gate.num_rows;
  const auto combine = [&](int64_t token, int64_t count, int64_t row, int64_t num_rows, float (*ups)[kPanel]) {
    float gates[kBlockTokens][kPanel];
    ThisThreadsWorker().Multiply(normalized + token * gate.num_columns, count, gate, row, gates);
    Combine(gates, ups, count);
    for (int64_t t = 0; t < count; ++t) std::copy_n(ups[t], num_rows, target + (token + t) * width + row);
  };
  Multiply(normalized, num_tokens, Product{up, combine});
}

}  // namespace
}  // namespace paged_ops

PAGED_OPS_EXPORT int FeedForwardLayer(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                      void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  Arguments arguments(kFeedForward, 9, nparam, params, ndims, shapes, dtypes);
  const Tensor x = NextTokens(arguments, "x");
  const int64_t num_tokens = x.shape[0], columns = x.shape[1];
  const Tensor norm_weight = NextNormWeight(kFeedForward, arguments, x);
  const Tensor gate_weight = NextWeight(arguments, "gate"), up_weight = NextWeight(arguments, "up");
  const Tensor down_weight = NextWeight(arguments, "down");
  const float epsilon = NextEpsilon(arguments);
  const Kinds kinds(NextInteger(arguments, "kinds"));
  const bool adds_residual = NextInteger(arguments, "adds_residual") != 0;
  const Weights gate = WeightsOf(kFeedForward, gate_weight, kinds[0], columns);
  const Weights up = WeightsOf(kFeedForward, up_weight, kinds[1], columns);
  const Weights down = WeightsOf(kFeedForward, down_weight, kinds[2], gate.num_rows);
  const Tensor output = NextTokens(arguments, "output");
  if (up.num_rows != gate.num_rows) Refuse(kFeedForward, "gate has ", gate.num_rows, " rows, up has ", up.num_rows);
  if (down.num_rows != columns) Refuse(kFeedForward, "down has ", down.num_rows, " rows, x has ", columns, " columns");
  RequireShape(kFeedForward, output, {num_tokens, columns});

  float* normalized = Scratch(kNormalized, num_tokens * columns);
  float* hidden = Scratch(kHidden, num_tokens * gate.num_rows);
  {
    const OpTimer timer(kTimeGateUp, gate.bytes() + up.bytes(), 2 * gate.products(num_tokens));
    NormalizeTokens(x, norm_weight, epsilon, normalized);
    GateAndUp(normalized, num_tokens, gate, up, hidden);
  }
  const OpTimer timer(kTimeDown, down.bytes(), down.products(num_tokens));
  Multiply(hidden, num_tokens, ProductInto(down, output.as<float>(), adds_residual ? x.as<float>() : nullptr));
  return 0;
}
