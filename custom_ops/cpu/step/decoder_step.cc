// decoder_step: a whole step of a model. Entries of block_table are written, then tokens embedded and taken through the
// L layers, each attention_layer and then feed_forward_layer, plus x; norm and head make logits of those wanted.
//
//   input_ids                [T] int32
//   positions, rows          [T] int32, and so are
//   cos_tables, sin_tables   as those of attention_layer
//   logit_indices            [N] int32: tokens whose logits are wanted, -1 = none
//   table_indices            [E, 2] int32: (row, column) of block_table to be written, in order
//   table_values             [E] int32: what to write there
//   block_table              [R, M] int32, written in place
//   layout                   [L, 20, 5] int64: of each role (layer_weights.h) of a layer the weight's pack, first byte
//                            there, kind, rows, columns; rows of floats are [1, columns]. Pack -1: it has none
//   options                  [L, 2] int64: each layer's window and rope_table, as attention_layer takes them
//   table                    [V, C], rows of the embedding, as the weight of norm_linear
//   norm_weight              [C] float32, of the last norm
//   head                     [V, C], as the weight of norm_linear; may be the table itself. Without one norm_weight again
//   key_cache, value_cache   [L, NB, BS, K, D], written in place: of each layer those of attention_layer
//   adapters                 [T] int32: each token's adapter, -1 = none; only with an adapter_rank
//   adapter_weights          [S, floats] float32, those of each adapter, as Adapters takes them; only with an adapter_rank
//   packs                    [bytes] uint8, at least one: the layers' weights
//   epsilon, scale           float32 scalars
//   embedding_scale, residual_scale, logit_scale
//                            float32 scalars: embeddings times; what half a layer adds to x, after its output norm,
//                            times; logits times
//   activation               int64 scalar, as feed_forward_layer takes it
//   adapter_rank             int64 scalar, a multiple of 4: the rank of all adapters; 0: there are none
//   table_kind, head_kind    int64 scalars; a head_kind of -1: there is no head
//   output                   [N, V] float32; without a head [N, C], the tokens wanted behind the last norm
// One operator of few inputs, because MindSpore takes 20 us for an operator and 3 us for each input when weights have
// just gone through the CPU's caches: with an input for each weight and each cache that was a fifth of a small model's
// step. Padding (row -1) behind the last token of a row is not computed, nor are logits behind the last one wanted,
// which are zeros: so a step costs what its tokens cost in a graph of any size.

#include <algorithm>
#include <string>

#include "cpu/step/adapters.h"
#include "cpu/step/embedding.h"
#include "cpu/step/norm_linear.h"
#include "cpu/step/weight_packs.h"

namespace paged_ops {
namespace {

constexpr char kDecoderStep[] = "decoder_step";

// Parameters before those of adapters and the packs, and behind them.
constexpr int kBefore = 16, kBehind = 10;
constexpr int kOfAdapters = 2;
constexpr int64_t kLayerOptions = 2;

// A head_kind.
constexpr int64_t kNoHead = -1;

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
  float embedding_scale;
  std::vector<DecoderLayer> layers;
  Tensor logit_indices;
  bool has_head;
  NormLinearCall head;  // its x are the tokens whose logits are wanted; without a head its weight is none
  float logit_scale;
  Tensor output;
};

// Shapes of a step without the padding at its end, which tensors of the step point to.
struct StepShapes {
  int64_t tokens[2];   // x
  int64_t numbers[1];  // positions, rows and input_ids
  int64_t wanted[2];   // x of the head
};

int64_t AdapterRank(const Parameters& parameters) {
  Arguments rank = parameters.Some(kDecoderStep, parameters.count - 4, 1);
  return NextInteger(rank, "adapter_rank");
}

Adapters AdaptersOf(const Parameters& parameters, int64_t num_all, int64_t num_tokens) {
  const int64_t rank = AdapterRank(parameters);
  if (rank == 0) return {};
  Arguments arguments = parameters.Some(kDecoderStep, kBefore, kOfAdapters);
  const Tensor numbers = arguments.NextInt32("adapters", 1);
  const Tensor weights = arguments.Next("adapter_weights", 2, {DType::kFloat32});
  RequireShape(kDecoderStep, numbers, {num_all});
  return {kDecoderStep, numbers, weights, rank, num_tokens};
}

std::vector<Tensor> Packs(const Parameters& parameters) {
  const int first = kBefore + (AdapterRank(parameters) == 0 ? 0 : kOfAdapters);
  const int number = parameters.count - kBehind - first;
  if (number < 1) Refuse(kDecoderStep, "got ", parameters.count, " inputs and outputs, no pack is among them");
  Arguments arguments = parameters.Some(kDecoderStep, first, number);
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
  RequireShape(kDecoderStep, call.indices, {call.values.shape[0], 2});
  for (int64_t e = 0; e < call.values.shape[0]; ++e) {
    const int32_t* entry = call.indices.as<int32_t>() + 2 * e;
    if (entry[0] < 0 || entry[0] >= shape[0] || entry[1] < 0 || entry[1] >= shape[1]) {
      Refuse(kDecoderStep, "table entry ", e, ": [", entry[0], ", ", entry[1], "] is outside ", ShapeText(shape, 2));
    }
  }
}

void RequireLogitIndices(const Tensor& indices, int64_t num_tokens) {
  for (int64_t i = 0; i < indices.shape[0]; ++i) {
    const int64_t token = indices.as<int32_t>()[i];
    if (token < -1 || token >= num_tokens) {
      Refuse(kDecoderStep, "logit_indices[", i, "] is ", token, ", outside [-1, ", num_tokens, ")");
    }
  }
}

// What the layers have by their number, and in common.
struct LayersCall {
  Tensor layout, options;
  RotaryTables tables;
  PagesOfLayers pages;
  AttentionLayerCall attention;
  Activation activation;
};

// All but the layers' own. Their x and output are the same memory.
LayersCall ParseCommon(const Parameters& parameters, Step* step, StepShapes* shapes) {
  if (parameters.count <= kBefore + kBehind) {
    Refuse(kDecoderStep, "got ", parameters.count, " inputs and outputs, it takes at least ", kBefore + kBehind + 1);
  }
  Arguments before = parameters.Some(kDecoderStep, 0, kBefore);
  LayersCall layers;
  AttentionLayerCall& common = layers.attention;
  step->embedding.ids = before.NextInt32("input_ids", 1);
  common.positions = before.NextInt32("positions", 1);
  common.rows = before.NextInt32("rows", 1);
  layers.tables = NextRotaryTables(before);
  step->logit_indices = before.NextInt32("logit_indices", 1);
  step->table.indices = before.NextInt32("table_indices", 2);
  step->table.values = before.NextInt32("table_values", 1);
  step->table.block_table = common.block_table = before.NextInt32("block_table", 2);
  layers.layout = before.Next("layout", 3, {DType::kInt64});
  layers.options = before.Next("options", 2, {DType::kInt64});
  const Tensor table = NextWeight(before, "table");
  step->head.norm_weight = before.Next("norm_weight", 1, {DType::kFloat32});
  Arguments kind_of_head = parameters.Some(kDecoderStep, parameters.count - 2, 1);
  step->has_head = NextInteger(kind_of_head, "head_kind") != kNoHead;
  const Tensor head = step->has_head ? NextWeight(before, "head") : before.Next("head", 1, {DType::kFloat32});
  layers.pages = NextPagesOfSeveral(kDecoderStep, before);
  Arguments behind = parameters.Some(kDecoderStep, parameters.count - kBehind, kBehind);
  step->head.epsilon = common.epsilon = NextNumber(behind, "epsilon");
  common.scale = NextNumber(behind, "scale");
  step->embedding_scale = NextNumber(behind, "embedding_scale");
  common.residual_scale = NextNumber(behind, "residual_scale");
  step->logit_scale = NextNumber(behind, "logit_scale");
  layers.activation = ActivationOf(kDecoderStep, NextInteger(behind, "activation"));
  NextInteger(behind, "adapter_rank");
  const int64_t columns = step->head.norm_weight.shape[0];
  step->embedding.table = WeightsOf(kDecoderStep, table, NextInteger(behind, "table_kind"), columns);
  const int64_t head_kind = NextInteger(behind, "head_kind");
  if (step->has_head) {
    step->head.weight = WeightsOf(kDecoderStep, head, head_kind, columns);
  } else {
    RequireShape(kDecoderStep, head, {columns});
  }
  step->output = NextTokens(behind, "output");

  if (layers.pages.num_layers == 0) Refuse(kDecoderStep, "key_cache has no layers");
  RequireShape(kDecoderStep, layers.layout, {layers.pages.num_layers, kNumRoles, kPlaceNumbers});
  RequireShape(kDecoderStep, layers.options, {layers.pages.num_layers, kLayerOptions});
  RequireTables(kDecoderStep, layers.tables, layers.pages.first.head_dim);
  const int64_t num_all = step->num_tokens = step->embedding.ids.shape[0];
  RequireShape(kDecoderStep, common.positions, {num_all});
  RequireShape(kDecoderStep, common.rows, {num_all});
  const int64_t width = step->has_head ? step->head.weight.num_rows : columns;
  RequireShape(kDecoderStep, step->output, {step->logit_indices.shape[0], width});
  const int64_t num_tokens = CountWithoutPadding(common.rows), num_wanted = CountWithoutPadding(step->logit_indices);
  *shapes = {{num_tokens, columns}, {num_tokens}, {num_wanted, columns}};
  common.adds_residual = true;
  common.num_positions = layers.tables.num_positions();
  common.x = common.output = WorkingTokens(kTokens, shapes->tokens);
  common.positions.shape = common.rows.shape = step->embedding.ids.shape = shapes->numbers;
  step->embedding.first_row = 0;
  step->embedding.vocab_size = step->embedding.table.num_rows;
  step->embedding.target = common.x.as<float>();
  step->head.x = WorkingTokens(kWanted, shapes->wanted);
  step->head.target = step->output.as<float>();
  RequireTableEntries(step->table);
  return layers;
}

DecoderLayer ParseLayer(const char* op, const LayersCall& layers, const std::vector<Tensor>& packs, int64_t index,
                        Adapters& adapters) {
  const PackedWeights weights(op, packs, layers.layout.as<int64_t>() + index * kNumRoles * kPlaceNumbers);
  const int64_t* options = layers.options.as<int64_t>() + index * kLayerOptions;
  AttentionLayerCall attention = layers.attention;
  attention.pages = layers.pages[index];
  attention.window = WindowOf(op, options[0]);
  attention.rotation = layers.tables.Of(op, options[1]);
  TakeWeights(op, weights, attention);
  FeedForwardCall feed_forward;
  static_cast<HalfLayer&>(feed_forward) = layers.attention;
  feed_forward.activation = layers.activation;
  TakeWeights(op, weights, feed_forward);
  adapters.TakeLayer(op, attention, feed_forward);
  return {attention, feed_forward};
}

// The step points into `shapes`.
Step Parse(const Parameters& parameters, StepShapes* shapes) {
  Step step;
  const LayersCall layers = ParseCommon(parameters, &step, shapes);
  const std::vector<Tensor> packs = Packs(parameters);
  Adapters adapters = AdaptersOf(parameters, step.num_tokens, layers.attention.num_tokens());
  for (int64_t i = 0; i < layers.pages.num_layers; ++i) {
    const std::string op = std::string(kDecoderStep) + ": layer " + std::to_string(i);
    step.layers.push_back(ParseLayer(op.c_str(), layers, packs, i, adapters));
  }
  adapters.RequireAllTaken(kDecoderStep);
  return step;
}

void WriteEntries(const TableCall& call) {
  for (int64_t e = 0; e < call.values.shape[0]; ++e) {
    const int32_t* entry = call.indices.as<int32_t>() + 2 * e;
    call.block_table.as<int32_t>()[entry[0] * call.block_table.shape[1] + entry[1]] = call.values.as<int32_t>()[e];
  }
}

// The layer that looks at the most blocks of a row. All have as many.
const AttentionLayerCall& WidestAttention(const Step& step) {
  const auto sees_less = [](const DecoderLayer& one, const DecoderLayer& other) {
    return one.attention.window != 0 && (other.attention.window == 0 || one.attention.window < other.attention.window);
  };
  return std::max_element(step.layers.begin(), step.layers.end(), sees_less)->attention;
}

// All that a step says of its tokens, with the blocks that block_table has for them now.
void RequireTokens(const Step& step) {
  RequireIds(kDecoderStep, step.embedding);
  RequireLogitIndices(step.logit_indices, step.num_tokens);
  RequireTokens(kDecoderStep, WidestAttention(step));
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
    ScaleNumbers(step.embedding.target, tokens.shape[0] * tokens.shape[1], step.embedding_scale);
    for (const DecoderLayer& layer : step.layers) {
      RunLayer(layer.attention);
      RunLayer(layer.feed_forward);
    }
  }
  const int64_t num_logits = step.head.x.shape[0], width = step.output.shape[1];
  if (num_logits > 0) {
    TakeWanted(step, tokens);
    if (step.has_head) {
      RunHead(step.head);
      ScaleNumbers(step.head.target, num_logits * width, step.logit_scale);
    } else {
      NormalizeTokens(step.head.x, step.head.norm_weight.as<float>(), step.head.epsilon, step.head.target);
    }
  }
  float* logits = step.output.as<float>();
  std::fill(logits + num_logits * width, logits + step.output.shape[0] * width, 0.0f);
}

}  // namespace
}  // namespace paged_ops

PAGED_OPS_EXPORT int DecoderStep(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                 void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  StepShapes step_shapes;
  const Step step = Parse({nparam, params, ndims, shapes, dtypes}, &step_shapes);
  WriteEntries(step.table);  // whatever is found below: the host takes what it sent as written
  RequireTokens(step);
  Run(step);
  return 0;
}
