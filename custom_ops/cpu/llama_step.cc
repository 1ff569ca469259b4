// llama_step: a whole step of a LLaMA. Entries of block_table are written, then tokens embedded and taken through the L
// decoder layers, each attention_layer and then feed_forward_layer, plus x; norm and head make logits of those wanted.
//
//   input_ids                [T] int32
//   positions, rows          [T] int32, and so are
//   cos_table, sin_table     as those of attention_layer
//   logit_indices            [N] int32: tokens whose logits are wanted, -1 = none
//   table_indices            [E, 2] int32: (row, column) of block_table to be written, in order
//   table_values             [E] int32: what to write there
//   block_table              [R, M] int32, written in place
//   layout                   [L, 16, 5] int64: of each weight of a layer its pack, first byte there, kind, rows, columns.
//                            A layer's are, in this order: norm_weight [1, C], query, key, value, out of
//                            attention_layer and the biases [1, rows] of the four; norm_weight [1, C], gate, up, down
//                            of feed_forward_layer and the biases of the three. Pack -1: the layer has no such bias
//   table                    [V, C], rows of the embedding, as the weight of norm_linear
//   norm_weight              [C] float32, of the last norm
//   head                     [V, C], as the weight of norm_linear; may be the table itself
//   key_cache, value_cache   [L, NB, BS, K, D], written in place: of each layer those of attention_layer
//   packs                    [bytes] uint8, at least one: the layers' weights
//   epsilon, scale           float32 scalars
//   table_kind, head_kind    int64 scalars
//   output                   [N, V] float32
// One operator of few inputs, because MindSpore takes 20 us for an operator and 3 us for each input when weights have
// just gone through the CPU's caches: with an input for each weight and each cache that was a fifth of a small model's
// step. Padding (row -1) behind the last token of a row is not computed, nor are logits behind the last one wanted, which
// are zeros: so a step costs what its tokens cost in a graph of any size.

#include <string>

#include "attention_layer.h"
#include "embedding.h"
#include "feed_forward_layer.h"
#include "norm_linear.h"
#include "weight_packs.h"

namespace paged_ops {
namespace {

constexpr char kLlamaStep[] = "llama_step";

// Parameters before the packs, and behind them.
constexpr int kBefore = 15, kBehind = 5;
constexpr int64_t kLayerWeights = 16;

// block_table and what is to be written there.
struct TableCall {
  Tensor indices, values, block_table;
};

struct DecoderLayer {
  AttentionLayerCall attention;
  FeedForwardCall feed_forward;
};

// What a step does, in this order; tensors between the parts are the calling thread's working memory.
struct Step {
  int64_t num_tokens;  // padding included
  TableCall table;
  EmbeddingCall embedding;
  std::vector<DecoderLayer> layers;
  Tensor logit_indices;
  NormLinearCall head;  // its x are the tokens whose logits are wanted
  Tensor output;
};

// Shapes of a step without the padding at its end, which tensors of the step point to.
struct StepShapes {
  int64_t tokens[2];   // x
  int64_t numbers[1];  // positions, rows and input_ids
  int64_t wanted[2];   // x of the head
};

std::vector<Tensor> Packs(const Parameters& parameters) {
  const int number = parameters.count - kBehind - kBefore;
  Arguments arguments = parameters.Some(kLlamaStep, kBefore, number);
  std::vector<Tensor> packs;
  for (int i = 0; i < number; ++i) packs.push_back(arguments.Next("pack", 1, {DType::kUInt8}));
  return packs;
}

// Up to the last that is not -1; what is behind is padding.
int64_t CountWithoutPadding(const Tensor& numbers) {
  int64_t count = numbers.shape[0];
  while (count > 0 && numbers.as<int32_t>()[count - 1] == -1) --count;
  return count;
}

Tensor WorkingTokens(ScratchPart part, const int64_t* shape) {
  return {"x", Scratch(part, shape[0] * shape[1]), 2, shape, "float32", DType::kFloat32};
}

void RequireTableEntries(const TableCall& call) {
  const int64_t* shape = call.block_table.shape;
  RequireShape(kLlamaStep, call.indices, {call.values.shape[0], 2});
  for (int64_t e = 0; e < call.values.shape[0]; ++e) {
    const int32_t* entry = call.indices.as<int32_t>() + 2 * e;
    if (entry[0] < 0 || entry[0] >= shape[0] || entry[1] < 0 || entry[1] >= shape[1]) {
      Refuse(kLlamaStep, "table entry ", e, ": [", entry[0], ", ", entry[1], "] is outside ", ShapeText(shape, 2));
    }
  }
}

void RequireLogitIndices(const Tensor& indices, int64_t num_tokens) {
  for (int64_t i = 0; i < indices.shape[0]; ++i) {
    const int64_t token = indices.as<int32_t>()[i];
    if (token < -1 || token >= num_tokens) {
      Refuse(kLlamaStep, "logit_indices[", i, "] is ", token, ", outside [-1, ", num_tokens, ")");
    }
  }
}

// Of the layers, by their number.
struct LayersCall {
  Tensor layout;
  PagesOfLayers pages;
};

LayersCall NextLayers(const Tensor& layout, Arguments& arguments) {
  const PagesOfLayers pages = NextPagesOfSeveral(kLlamaStep, arguments);
  if (pages.num_layers == 0) Refuse(kLlamaStep, "key_cache has no layers");
  RequireShape(kLlamaStep, layout, {pages.num_layers, kLayerWeights, kPlaceNumbers});
  return {layout, pages};
}

// All but the layers, and what these have in common: their x and output are the same memory.
AttentionLayerCall ParseCommon(const Parameters& parameters, Step* step, StepShapes* shapes, LayersCall* layers) {
  if (parameters.count <= kBefore + kBehind) {
    Refuse(kLlamaStep, "got ", parameters.count, " inputs and outputs, it takes at least ", kBefore + kBehind + 1);
  }
  Arguments before = parameters.Some(kLlamaStep, 0, kBefore);
  AttentionLayerCall common;
  step->embedding.ids = before.NextInt32("input_ids", 1);
  common.positions = before.NextInt32("positions", 1);
  common.rows = before.NextInt32("rows", 1);
  common.cos_table = before.Next("cos_table", 3, {DType::kFloat32});
  common.sin_table = before.Next("sin_table", 3, {DType::kFloat32});
  step->logit_indices = before.NextInt32("logit_indices", 1);
  step->table.indices = before.NextInt32("table_indices", 2);
  step->table.values = before.NextInt32("table_values", 1);
  step->table.block_table = common.block_table = before.NextInt32("block_table", 2);
  const Tensor layout = before.Next("layout", 3, {DType::kInt64});
  const Tensor table = NextWeight(before, "table");
  step->head.norm_weight = before.Next("norm_weight", 1, {DType::kFloat32});
  const Tensor head = NextWeight(before, "head");
  *layers = NextLayers(layout, before);
  Arguments behind = parameters.Some(kLlamaStep, parameters.count - kBehind, kBehind);
  step->head.epsilon = common.epsilon = NextEpsilon(behind);
  common.scale = behind.Next("scale", 0, {DType::kFloat32}).as<float>()[0];
  const int64_t columns = step->head.norm_weight.shape[0];
  step->embedding.table = WeightsOf(kLlamaStep, table, NextInteger(behind, "table_kind"), columns);
  step->head.weight = WeightsOf(kLlamaStep, head, NextInteger(behind, "head_kind"), columns);
  step->output = NextTokens(behind, "output");

  const int64_t num_all = step->num_tokens = step->embedding.ids.shape[0];
  RequireShape(kLlamaStep, common.positions, {num_all});
  RequireShape(kLlamaStep, common.rows, {num_all});
  RequireShape(kLlamaStep, step->output, {step->logit_indices.shape[0], step->head.weight.num_rows});
  const int64_t num_tokens = CountWithoutPadding(common.rows), num_wanted = CountWithoutPadding(step->logit_indices);
  *shapes = {{num_tokens, columns}, {num_tokens}, {num_wanted, columns}};
  common.adds_residual = true;
  common.x = common.output = WorkingTokens(kTokens, shapes->tokens);
  common.positions.shape = common.rows.shape = step->embedding.ids.shape = shapes->numbers;
  step->embedding.first_row = 0;
  step->embedding.vocab_size = step->embedding.table.num_rows;
  step->embedding.target = common.x.as<float>();
  step->head.x = WorkingTokens(kWanted, shapes->wanted);
  step->head.target = step->output.as<float>();
  RequireTableEntries(step->table);
  return common;
}

AttentionLayerCall ParseAttention(const char* op, const Pages& pages, PackedLayer& weights,
                                  const AttentionLayerCall& common) {
  AttentionLayerCall call = common;
  const int64_t columns = call.x.shape[1];
  call.pages = pages;
  call.norm_weight = weights.NextNormWeight(op, "norm_weight", call.x.shape + 1);
  call.query = weights.NextWeight(op, "query", columns);
  call.key = weights.NextWeight(op, "key", columns);
  call.value = weights.NextWeight(op, "value", columns);
  call.out = weights.NextWeight(op, "out", call.query.num_rows);
  RequireShapes(op, call);
  weights.NextBias(op, "query", &call.query);
  weights.NextBias(op, "key", &call.key);
  weights.NextBias(op, "value", &call.value);
  weights.NextBias(op, "out", &call.out);
  return call;
}

// Of what the attention put out, and in its place.
FeedForwardCall ParseFeedForward(const char* op, PackedLayer& weights, const AttentionLayerCall& common) {
  FeedForwardCall call;
  call.x = call.output = common.output;
  const int64_t columns = call.x.shape[1];
  call.epsilon = common.epsilon;
  call.adds_residual = true;
  call.norm_weight = weights.NextNormWeight(op, "norm_weight", call.x.shape + 1);
  call.gate = weights.NextWeight(op, "gate", columns);
  call.up = weights.NextWeight(op, "up", columns);
  call.down = weights.NextWeight(op, "down", call.gate.num_rows);
  RequireShapes(op, call);
  weights.NextBias(op, "gate", &call.gate);
  weights.NextBias(op, "up", &call.up);
  weights.NextBias(op, "down", &call.down);
  return call;
}

// The step points into `shapes`.
Step Parse(const Parameters& parameters, StepShapes* shapes) {
  Step step;
  LayersCall layers;
  const AttentionLayerCall common = ParseCommon(parameters, &step, shapes, &layers);
  step.layers.resize(layers.pages.num_layers);
  const std::vector<Tensor> packs = Packs(parameters);
  for (size_t i = 0; i < step.layers.size(); ++i) {
    const std::string name = std::string(kLlamaStep) + ": layer " + std::to_string(i);
    PackedLayer weights(packs, layers.layout.as<int64_t>() + i * kLayerWeights * kPlaceNumbers);
    const std::string attention = name + ", attention", feed_forward = name + ", feed forward";
    step.layers[i].attention = ParseAttention(attention.c_str(), layers.pages[i], weights, common);
    step.layers[i].feed_forward = ParseFeedForward(feed_forward.c_str(), weights, common);
  }
  return step;
}

void WriteEntries(const TableCall& call) {
  for (int64_t e = 0; e < call.values.shape[0]; ++e) {
    const int32_t* entry = call.indices.as<int32_t>() + 2 * e;
    call.block_table.as<int32_t>()[entry[0] * call.block_table.shape[1] + entry[1]] = call.values.as<int32_t>()[e];
  }
}

// All that a step says of its tokens, with the blocks that block_table has for them now. All layers have as many.
void RequireTokens(const Step& step) {
  RequireIds(kLlamaStep, step.embedding);
  RequireLogitIndices(step.logit_indices, step.num_tokens);
  RequireTokens(kLlamaStep, step.layers[0].attention);
}

// The tokens whose logits are wanted; what is padding has zeros.
void TakeWanted(const Step& step, const Tensor& tokens) {
  const int64_t columns = tokens.shape[1];
  for (int64_t i = 0; i < step.head.x.shape[0]; ++i) {
    const int64_t token = step.logit_indices.as<int32_t>()[i];
    float* target = step.head.x.as<float>() + i * columns;
    if (token >= 0 && token < tokens.shape[0]) {
      std::copy_n(tokens.as<float>() + token * columns, columns, target);
    } else {
      std::fill_n(target, columns, 0.0f);
    }
  }
}

void Run(const Step& step) {
  const Tensor& tokens = step.layers[0].attention.x;
  if (tokens.shape[0] > 0) {
    LookUp(step.embedding);
    for (const DecoderLayer& layer : step.layers) {
      RunLayer(layer.attention);
      RunLayer(layer.feed_forward);
    }
  }
  const int64_t num_logits = step.head.x.shape[0], width = step.output.shape[1];
  if (num_logits > 0) {
    TakeWanted(step, tokens);
    RunHead(step.head);
  }
  float* logits = step.output.as<float>();
  std::fill(logits + num_logits * width, logits + step.output.shape[0] * width, 0.0f);
}

}  // namespace
}  // namespace paged_ops

PAGED_OPS_EXPORT int LlamaStep(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                               void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  StepShapes step_shapes;
  const Step step = Parse({nparam, params, ndims, shapes, dtypes}, &step_shapes);
  WriteEntries(step.table);  // whatever is found below: the host takes what it sent as written
  RequireTokens(step);
  Run(step);
  return 0;
}
