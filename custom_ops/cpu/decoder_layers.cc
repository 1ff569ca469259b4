// decoder_layers: the L decoder layers of a LLaMA in turn, each attention_layer and then feed_forward_layer, plus x.
//
//   x                        [T, C] float32
//   cos_table, sin_table     as those of attention_layer, and so are
//   block_table              [R, M] int32
//   positions, rows          [T] int32
//   kinds                    [L, 2] int64: of a layer, the kinds of attention_layer and those of feed_forward_layer
//   of each layer:
//     norm_weight            [C] float32
//     query, key, value, out, key_cache, value_cache   as those of attention_layer
//     norm_weight            [C] float32
//     gate, up, down         as those of feed_forward_layer
//   epsilon, scale           float32 scalars
//   output                   [T, C] float32
// One operator, because MindSpore takes tens of microseconds to start each. Padding (row -1) behind the last token of a
// row is not computed, its output is zeros: so a step costs what its tokens cost in a graph of any size.

#include <string>

#include "attention_layer.h"
#include "feed_forward_layer.h"

namespace paged_ops {
namespace {

constexpr char kDecoderLayers[] = "decoder_layers";

// Parameters before those of the layers, of a layer's two parts, and behind the layers.
constexpr int kBefore = 7, kAttention = 7, kFeedForward = 4, kBehind = 3;
constexpr int kLayer = kAttention + kFeedForward;

// All parameters of a call.
struct Parameters {
  int count;
  void** data;
  int* ndims;
  int64_t** shapes;
  const char** dtypes;

  // Some of them, refused in the name of `op`.
  Arguments Some(const char* op, int first, int number) const {
    return Arguments(op, number, number, data + first, ndims + first, shapes + first, dtypes + first);
  }
};

struct DecoderLayer {
  AttentionLayerCall attention;
  FeedForwardCall feed_forward;
};

int NumLayers(const Parameters& parameters) {
  const int of_layers = parameters.count - kBefore - kBehind;
  if (of_layers <= 0 || of_layers % kLayer != 0) {
    Refuse(kDecoderLayers, "got ", parameters.count, " inputs and outputs, it takes ", kBefore + kBehind, " and ",
           kLayer, " for each layer");
  }
  return of_layers / kLayer;
}

// The shapes of a call without the padding at its end.
struct TokenShapes {
  int64_t vectors[2];  // of x and output
  int64_t numbers[1];  // of positions and rows

  int64_t num_tokens() const { return numbers[0]; }
};

// Up to the last token of a row; what is behind is padding.
int64_t NumTokens(const Tensor& rows) {
  int64_t count = rows.shape[0];
  while (count > 0 && rows.as<int32_t>()[count - 1] == -1) --count;
  return count;
}

// What the layers have in common: x is that of the first.
AttentionLayerCall ParseCommon(const Parameters& parameters, TokenShapes* shapes, Tensor* kinds) {
  Arguments before = parameters.Some(kDecoderLayers, 0, kBefore);
  AttentionLayerCall common;
  common.x = NextTokens(before, "x");
  common.cos_table = before.Next("cos_table", 3, {DType::kFloat32});
  common.sin_table = before.Next("sin_table", 3, {DType::kFloat32});
  common.block_table = before.NextInt32("block_table", 2);
  common.positions = before.NextInt32("positions", 1);
  common.rows = before.NextInt32("rows", 1);
  *kinds = before.Next("kinds", 2, {DType::kInt64});
  Arguments behind = parameters.Some(kDecoderLayers, parameters.count - kBehind, kBehind);
  common.epsilon = NextEpsilon(behind);
  common.scale = behind.Next("scale", 0, {DType::kFloat32}).as<float>()[0];
  common.adds_residual = true;
  common.output = NextTokens(behind, "output");
  RequireShape(kDecoderLayers, common.positions, {common.num_tokens()});
  RequireShape(kDecoderLayers, common.rows, {common.num_tokens()});
  RequireShape(kDecoderLayers, *kinds, {NumLayers(parameters), 2});
  RequireShape(kDecoderLayers, common.output, {common.num_tokens(), common.x.shape[1]});
  const int64_t num_tokens = NumTokens(common.rows);
  *shapes = {{num_tokens, common.x.shape[1]}, {num_tokens}};
  common.x.shape = common.output.shape = shapes->vectors;
  common.positions.shape = common.rows.shape = shapes->numbers;
  return common;
}

AttentionLayerCall ParseAttention(const char* op, const Parameters& parameters, int first, int64_t kinds,
                                  const AttentionLayerCall& common) {
  Arguments arguments = parameters.Some(op, first, kAttention);
  AttentionLayerCall call = common;
  call.norm_weight = NextNormWeight(op, arguments, call.x);
  const AttentionTensors tensors = NextAttentionTensors(arguments);
  call.pages = NextPages(op, arguments);
  SetWeights(op, tensors, Kinds(kinds), &call);
  return call;
}

// Of what the attention put out, and in its place.
FeedForwardCall ParseFeedForward(const char* op, const Parameters& parameters, int first, int64_t kinds,
                                 const AttentionLayerCall& common) {
  Arguments arguments = parameters.Some(op, first, kFeedForward);
  FeedForwardCall call;
  call.x = call.output = common.output;
  call.norm_weight = NextNormWeight(op, arguments, call.x);
  call.epsilon = common.epsilon;
  call.adds_residual = true;
  SetWeights(op, NextFeedForwardTensors(arguments), Kinds(kinds), &call);
  return call;
}

bool HaveSameBlocks(const Pages& a, const Pages& b) {
  return a.num_blocks == b.num_blocks && a.block_size == b.block_size;
}

// The layers point into `shapes`.
std::vector<DecoderLayer> Parse(const Parameters& parameters, TokenShapes* shapes) {
  std::vector<DecoderLayer> layers(NumLayers(parameters));
  Tensor all_kinds;
  AttentionLayerCall common = ParseCommon(parameters, shapes, &all_kinds);
  for (size_t i = 0; i < layers.size(); ++i) {
    const int first = kBefore + static_cast<int>(i) * kLayer;
    const int64_t* kinds = all_kinds.as<int64_t>() + 2 * i;
    const std::string name = std::string(kDecoderLayers) + ": layer " + std::to_string(i);
    layers[i].attention = ParseAttention((name + ", attention").c_str(), parameters, first, kinds[0], common);
    layers[i].feed_forward =
        ParseFeedForward((name + ", feed forward").c_str(), parameters, first + kAttention, kinds[1], common);
    // Of the pages a token's checks need the size only, which is that of the layer before.
    const AttentionLayerCall& attention = layers[i].attention;
    if (i == 0 || !HaveSameBlocks(attention.pages, layers[i - 1].attention.pages)) {
      RequireTokens(kDecoderLayers, attention);
    }
    common.x = common.output;  // of the layers behind the first
  }
  return layers;
}

}  // namespace
}  // namespace paged_ops

PAGED_OPS_EXPORT int DecoderLayers(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                   void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  TokenShapes token_shapes;
  const std::vector<DecoderLayer> layers = Parse({nparam, params, ndims, shapes, dtypes}, &token_shapes);
  const int64_t* all = shapes[nparam - 1];
  float* output = static_cast<float*>(params[nparam - 1]);
  std::fill(output + token_shapes.num_tokens() * all[1], output + all[0] * all[1], 0.0f);
  if (token_shapes.num_tokens() == 0) return 0;
  for (const DecoderLayer& layer : layers) {
    RunLayer(layer.attention);
    RunLayer(layer.feed_forward);
  }
  return 0;
}
