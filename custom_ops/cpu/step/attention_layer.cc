// attention_layer: norm, projections, norms of heads, rotary embedding, keys and values into the paged cache, attention
// to what the cache then holds, output projection; plus x.
//
//   x                        [T, C] float32
//   attention_norm           [C] float32, of the RMSNorm
//   q, k, v                  weights [H D, C], [K D, C], [K D, C], each as the weight of norm_linear
//   o                        weight [C, H D]
//   cos_tables, sin_tables   [S, P, 1, rotary_dim] float32, by position: of the rotations that layers may have
//   key_cache, value_cache   [NB, BS, K, D], written in place
//   block_table              [R, M] int32
//   positions, rows          [T] int32, a token's position in its sequence and that sequence's row; row -1 = padding
//   q_bias, k_bias, v_bias, o_bias, q_norm, k_norm
//                            float32 [rows], and [D] of the norms of heads of queries and keys, those that there are
//   epsilon, scale           float32 scalars: of all norms, and of the scores
//   window                   int64 scalar: tokens that one attends to, itself included; 0 = all up to itself
//   rope_table               int64 scalar: which of the S; -1 = heads are not rotated
//   kinds                    int64 scalar: those of q, k, v and o
//   adds_residual            int64 scalar: 1 to add x, 0 where a rank's part is to be summed with others first
//   optional                 int64 scalar: which of the six there are, a bit for each, that of q_bias lowest
//   output                   [T, C] float32
// A token's context is all of its row up to itself, or the last of it that the window holds.
// Source: Kwon et al. 2023; of the rotation, see rotation.h.

#include "cpu/step/attention_layer.h"

namespace paged_ops {
namespace {

constexpr char kAttentionLayer[] = "attention_layer";

// Parameters before the optional weights, and behind them.
constexpr int kBefore = 13, kBehind = 8;

AttentionLayerCall Parse(const Parameters& parameters) {
  const int number = parameters.count - kBefore - kBehind;
  if (number < 0) {
    Refuse(kAttentionLayer, "got ", parameters.count, " inputs and outputs, it takes at least ", kBefore + kBehind);
  }
  Arguments arguments = parameters.Some(kAttentionLayer, 0, kBefore);
  Arguments behind = parameters.Some(kAttentionLayer, kBefore + number, kBehind);
  AttentionLayerCall call;
  InputWeights weights(kAttentionLayer);
  call.x = NextTokens(arguments, "x");
  weights.TakeRow(kAttentionNorm, arguments);
  for (Role role : {kQuery, kKey, kValue, kOut}) weights.TakeMatrix(role, arguments);
  const RotaryTables tables = NextRotaryTables(arguments);
  call.pages = NextPages(kAttentionLayer, arguments);
  call.block_table = arguments.NextInt32("block_table", 2);
  call.positions = arguments.NextInt32("positions", 1);
  call.rows = arguments.NextInt32("rows", 1);
  call.epsilon = NextNumber(behind, "epsilon");
  call.scale = NextNumber(behind, "scale");
  call.window = WindowOf(kAttentionLayer, NextInteger(behind, "window"));
  RequireTables(kAttentionLayer, tables, call.pages.head_dim);
  call.rotation = tables.Of(kAttentionLayer, NextInteger(behind, "rope_table"));
  call.num_positions = tables.num_positions();
  weights.SetKinds(Kinds(NextInteger(behind, "kinds")), {kQuery, kKey, kValue, kOut});
  call.adds_residual = NextInteger(behind, "adds_residual") != 0;
  weights.TakeOptional(parameters, kBefore, number, NextInteger(behind, "optional"),
                       {kQueryBias, kKeyBias, kValueBias, kOutBias, kQueryNorm, kKeyNorm});
  call.output = NextTokens(behind, "output");
  TakeWeights(kAttentionLayer, weights, call);
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
