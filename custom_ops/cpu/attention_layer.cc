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
//   epsilon, scale           float32 scalars
//   kinds                    int64 scalar: those of query, key, value and out
//   adds_residual            int64 scalar: 1 to add x, 0 where a rank's part is to be summed with others first
//   output                   [T, C] float32
// A token's context is all of its row up to itself. Source: Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary
// Position Embedding"; Kwon et al. 2023.

#include "attention.h"
#include "cache_store.h"
#include "linear_call.h"

namespace paged_ops {
namespace {

constexpr char kAttentionLayer[] = "attention_layer";

struct AttentionLayerCall {
  Tensor x, norm_weight;
  Weights query, key, value, out;
  Tensor cos_table, sin_table;
  Pages pages;
  Tensor block_table, positions, rows;
  float epsilon, scale;
  bool adds_residual;
  Tensor output;

  int64_t num_tokens() const { return x.shape[0]; }
  int64_t position(int64_t token) const { return positions.as<int32_t>()[token]; }
  int64_t row(int64_t token) const { return rows.as<int32_t>()[token]; }
};

void RequirePositions(const AttentionLayerCall& call) {
  const int64_t longest = std::min(call.cos_table.shape[0], call.block_table.shape[1] * call.pages.block_size);
  for (int64_t t = 0; t < call.num_tokens(); ++t) {
    const int64_t row = call.row(t), position = call.position(t);
    if (row < -1 || row >= call.block_table.shape[0]) {
      Refuse(kAttentionLayer, "token ", t, ": row ", row, " is outside [-1, ", call.block_table.shape[0], ")");
    }
    if (position < 0 || position >= longest) {
      Refuse(kAttentionLayer, "token ", t, ": position ", position, " is outside [0, ", longest, ")");
    }
  }
}

AttentionLayerCall Parse(Arguments arguments) {
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
  call.epsilon = NextEpsilon(arguments);
  call.scale = arguments.Next("scale", 0, {DType::kFloat32}).as<float>()[0];
  const Kinds kinds(NextInteger(arguments, "kinds"));
  call.adds_residual = NextInteger(arguments, "adds_residual") != 0;
  call.output = NextTokens(arguments, "output");

  const int64_t columns = call.x.shape[1], width = call.pages.token_stride();
  call.query = WeightsOf(kAttentionLayer, query, kinds[0], columns);
  call.key = WeightsOf(kAttentionLayer, key, kinds[1], columns);
  call.value = WeightsOf(kAttentionLayer, value, kinds[2], columns);
  call.out = WeightsOf(kAttentionLayer, out, kinds[3], call.query.num_rows);
  if (call.key.num_rows != width || call.value.num_rows != width) {
    Refuse(kAttentionLayer, "key and value have ", call.key.num_rows, " and ", call.value.num_rows,
           " rows, the pages hold ", width, " numbers a token");
  }
  if (call.query.num_rows <= 0 || call.query.num_rows % width != 0) {
    Refuse(kAttentionLayer, "query has ", call.query.num_rows, " rows, not a multiple of the ", width, " of key");
  }
  if (call.out.num_rows != columns) {
    Refuse(kAttentionLayer, "out has ", call.out.num_rows, " rows, x has ", columns, " columns");
  }
  RequireShape(kAttentionLayer, call.cos_table, {call.cos_table.shape[0], 1, call.pages.head_dim});
  RequireShape(kAttentionLayer, call.sin_table, {call.cos_table.shape[0], 1, call.pages.head_dim});
  RequireShape(kAttentionLayer, call.positions, {call.num_tokens()});
  RequireShape(kAttentionLayer, call.rows, {call.num_tokens()});
  RequireShape(kAttentionLayer, call.output, {call.num_tokens(), columns});
  RequirePositions(call);
  return call;
}

// Each pair (i, i + D / 2) of a head turned by its angle; the same roundings as the unfused products and sum.
void Rotate(float* head, const float* cos, const float* sin, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float first = head[i], second = head[i + half];
    head[i] = first * cos[i] - second * sin[i];
    head[i + half] = second * cos[i + half] + first * sin[i + half];
  }
}

void RotateTokens(const AttentionLayerCall& call, float* heads, int64_t num_heads) {
  const int64_t head_dim = call.pages.head_dim;
  for (int64_t t = 0; t < call.num_tokens(); ++t) {
    const float* cos = call.cos_table.as<float>() + call.position(t) * head_dim;
    const float* sin = call.sin_table.as<float>() + call.position(t) * head_dim;
    for (int64_t h = 0; h < num_heads; ++h) Rotate(heads + (t * num_heads + h) * head_dim, cos, sin, head_dim);
  }
}

// In the order of tokens, so that of two with one slot the later wins.
void StoreTokens(const AttentionLayerCall& call, const float* tokens, const Tensor& cache) {
  const int64_t block_size = call.pages.block_size, width = call.pages.token_stride();
  WithCacheStore(call.pages, cache, [&](auto&& store) {
    for (int64_t t = 0; t < call.num_tokens(); ++t) {
      if (call.row(t) < 0) continue;
      const int32_t* blocks = call.block_table.as<int32_t>() + call.row(t) * call.block_table.shape[1];
      const int64_t block = blocks[call.position(t) / block_size];
      store(tokens + t * width, block * block_size + call.position(t) % block_size);
    }
  });
}

void ProjectAndStore(const AttentionLayerCall& call, float* queries) {
  const int64_t num_tokens = call.num_tokens(), width = call.pages.token_stride();
  const OpTimer timer(kTimeQkv, call.query.bytes() + call.key.bytes() + call.value.bytes(),
                      call.query.products(num_tokens) + 2 * call.key.products(num_tokens));
  float* normalized = Scratch(kNormalized, num_tokens * call.x.shape[1]);
  float* keys = Scratch(kKeys, num_tokens * width);
  float* values = Scratch(kValues, num_tokens * width);
  NormalizeTokens(call.x, call.norm_weight, call.epsilon, normalized);
  Multiply(normalized, num_tokens, ProductInto(call.query, queries), ProductInto(call.key, keys),
           ProductInto(call.value, values));
  Threads::Get().For(2, num_tokens * call.query.num_rows < kParallelProducts, [&](int64_t which, int) {
    if (which == 0) {
      RotateTokens(call, queries, call.query.num_rows / call.pages.head_dim);
    } else {
      RotateTokens(call, keys, call.pages.num_kv_heads);
      StoreTokens(call, keys, call.pages.keys);
      StoreTokens(call, values, call.pages.values);
    }
  });
}

void Run(const AttentionLayerCall& call) {
  const int64_t num_tokens = call.num_tokens(), query_size = call.query.num_rows, head_dim = call.pages.head_dim;
  float* queries = Scratch(kQueries, num_tokens * query_size);
  float* attended = Scratch(kAttended, num_tokens * query_size);
  std::vector<int32_t> context_lens(num_tokens);
  for (int64_t t = 0; t < num_tokens; ++t) context_lens[t] = call.row(t) < 0 ? 0 : call.position(t) + 1;

  const int64_t shape[] = {num_tokens, query_size / head_dim, head_dim};
  const Tensor query{"query", queries, 3, shape, "float32", DType::kFloat32};
  const Tensor result{"output", attended, 3, shape, "float32", DType::kFloat32};
  const Tensor contexts{"context_lens", context_lens.data(), 1, shape, "int32", DType::kInt32};
  const AttentionCall attention{query, call.pages, call.block_table, call.rows, contexts, call.scale, result};
  RequireTokens(attention);  // the blocks too, before anything is written
  ProjectAndStore(call, queries);
  Attend(attention);
  const OpTimer timer(kTimeAttentionOutput, call.out.bytes(), call.out.products(num_tokens));
  const float* residual = call.adds_residual ? call.x.as<float>() : nullptr;
  Multiply(attended, num_tokens, ProductInto(call.out, call.output.as<float>(), residual));
}

}  // namespace
}  // namespace paged_ops

PAGED_OPS_EXPORT int AttentionLayer(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                    void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  Run(Parse(Arguments(kAttentionLayer, 18, nparam, params, ndims, shapes, dtypes)));
  return 0;
}
