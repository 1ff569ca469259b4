// attention_layer: norm, projections, rotary embedding in rotate-half order, keys and values into the paged cache,
// attention to what the cache then holds, output projection; plus x.
//
//   x                        [T, C] float32
//   norm_weight              [C] float32, of the RMSNorm
//   query, key, value        weights [H D, C], [K D, C], [K D, C], each as the weight of norm_linear
//   out                      weight [C, H D]
//   cos_table, sin_table     [P, 1, D] float32, by position
//   key_cache, value_cache   [NB, BS, K, D], written in place
//   block_table              [R, M] int32
//   positions, rows          [T] int32, a token's place in its sequence and that sequence's row; row -1 = padding
//   biases of query, key, value, out   float32 [rows], those that there are
//   epsilon, scale           float32 scalars
//   kinds                    int64 scalar: those of query, key, value and out
//   adds_residual            int64 scalar: 1 to add x, 0 where a rank's part is to be summed with others first
//   biases                   int64 scalar: which there are, a bit for each of the four, that of query lowest
//   output                   [T, C] float32
// A token's context is all of its row up to itself. Source: Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary
// Position Embedding"; Kwon et al. 2023.

#include "attention_layer.h"

namespace paged_ops {
namespace {

constexpr char kAttentionLayer[] = "attention_layer";

// Parameters before the biases, and behind them.
constexpr int kBefore = 13, kBehind = 6;

AttentionLayerCall Parse(const Parameters& parameters) {
  const int number = parameters.count - kBefore - kBehind;
  if (number < 0) {
    Refuse(kAttentionLayer, "got ", parameters.count, " inputs and outputs, it takes at least ", kBefore + kBehind);
  }
  Arguments arguments = parameters.Some(kAttentionLayer, 0, kBefore);
  Arguments behind = parameters.Some(kAttentionLayer, kBefore + number, kBehind);
  AttentionLayerCall call;
  call.x = NextTokens(arguments, "x");
  call.norm_weight = NextNormWeight(kAttentionLayer, arguments, call.x);
  const Tensor query = NextWeight(arguments, "query"), key = NextWeight(arguments, "key");
  const Tensor value = NextWeight(arguments, "value"), out = NextWeight(arguments, "out");
  call.cos_table = arguments.Next("cos_table", 3, {DType::kFloat32});
  call.sin_table = arguments.Next("sin_table", 3, {DType::kFloat32});
  call.pages = NextPages(kAttentionLayer, arguments);
  call.block_table = arguments.NextInt32("block_table", 2);
  call.positions = arguments.NextInt32("positions", 1);
  call.rows = arguments.NextInt32("rows", 1);
  call.epsilon = NextEpsilon(behind);
  call.scale = behind.Next("scale", 0, {DType::kFloat32}).as<float>()[0];
  const Kinds kinds(NextInteger(behind, "kinds"));
  call.adds_residual = NextInteger(behind, "adds_residual") != 0;
  const int64_t biases = NextInteger(behind, "biases");
  call.output = NextTokens(behind, "output");
  const int64_t columns = call.x.shape[1];
  call.query = WeightsOf(kAttentionLayer, query, kinds[0], columns);
  call.key = WeightsOf(kAttentionLayer, key, kinds[1], columns);
  call.value = WeightsOf(kAttentionLayer, value, kinds[2], columns);
  call.out = WeightsOf(kAttentionLayer, out, kinds[3], call.query.num_rows);
  RequireShapes(kAttentionLayer, call);
  TakeBiases(kAttentionLayer, parameters.Some(kAttentionLayer, kBefore, number), number, biases,
             {&call.query, &call.key, &call.value, &call.out});
  RequireTokens(kAttentionLayer, call);
  return call;
}

}  // namespace
}  // namespace paged_ops

PAGED_OPS_EXPORT int AttentionLayer(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                    void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  RunLayer(Parse({nparam, params, ndims, shapes, dtypes}));
  return 0;
}
