// The work of attention_layer on arguments that are checked, and their checks: for the ops that have such layers.
#pragma once

#include "cpu/attention/attention.h"
#include "cpu/cache/cache_store.h"
#include "cpu/step/half_layer.h"
#include "cpu/step/rotation.h"

namespace paged_ops {

struct AttentionLayerCall : HalfLayer {
  Weights query, key, value, out;
  const float* query_norm;  // [D], of each head; null: none
  const float* key_norm;
  Rotation rotation;
  int64_t num_positions;  // that can be rotated
  Pages pages;
  Tensor block_table, positions, rows;
  float scale;
  int64_t window;  // tokens that one attends to, itself included; 0: all

  int64_t position(int64_t token) const { return positions.as<int32_t>()[token]; }
  int64_t row(int64_t token) const { return rows.as<int32_t>()[token]; }
};

inline int64_t WindowOf(const char* op, int64_t window) {
  if (window < 0) Refuse(op, "window is ", window, ", it must be at least 0, which is none");
  return window;
}

// The weights of a call that has x, output and pages; refused in the name of `op` unless all shapes go together.
template <typename LayerWeights>
void TakeWeights(const char* op, const LayerWeights& weights, AttentionLayerCall& call) {
  const int64_t num_tokens = call.num_tokens(), columns = call.x.shape[1];
  const int64_t head_dim = call.pages.head_dim, width = call.pages.token_stride();
  call.norm = weights.NeededRow(kAttentionNorm, columns);
  call.query = weights.Matrix(kQuery, columns);
  call.key = weights.Matrix(kKey, columns);
  call.value = weights.Matrix(kValue, columns);
  call.out = weights.Matrix(kOut, call.query.num_rows);
  if (call.key.num_rows != width || call.value.num_rows != width) {
    Refuse(op, "k and v have ", call.key.num_rows, " and ", call.value.num_rows, " rows, the pages hold ", width,
           " numbers a token");
  }
  if (call.query.num_rows <= 0 || call.query.num_rows % width != 0) {
    Refuse(op, "q has ", call.query.num_rows, " rows, not a multiple of the ", width, " of k");
  }
  if (call.out.num_rows != columns) Refuse(op, "o has ", call.out.num_rows, " rows, x has ", columns, " columns");
  RequireShape(op, call.positions, {num_tokens});
  RequireShape(op, call.rows, {num_tokens});
  RequireShape(op, call.output, {num_tokens, columns});
  call.query.bias = weights.Row(kQueryBias, call.query.num_rows);
  call.key.bias = weights.Row(kKeyBias, call.key.num_rows);
  call.value.bias = weights.Row(kValueBias, call.value.num_rows);
  call.out.bias = weights.Row(kOutBias, call.out.num_rows);
  call.query_norm = weights.Row(kQueryNorm, head_dim);
  call.key_norm = weights.Row(kKeyNorm, head_dim);
  call.output_norm = weights.Row(kAttentionOutputNorm, columns);
}

inline void RequirePositions(const char* op, const AttentionLayerCall& call) {
  const int64_t longest = std::min(call.num_positions, call.block_table.shape[1] * call.pages.block_size);
  for (int64_t t = 0; t < call.num_tokens(); ++t) {
    const int64_t row = call.row(t), position = call.position(t);
    if (row < -1 || row >= call.block_table.shape[0]) {
      Refuse(op, "token ", t, ": row ", row, " is outside [-1, ", call.block_table.shape[0], ")");
    }
    if (position < 0 || position >= longest) {
      Refuse(op, "token ", t, ": position ", position, " is outside [0, ", longest, ")");
    }
  }
}

// Heads normalized, then rotated, each if the layer does that.
inline void FinishHeads(const AttentionLayerCall& call, float* queries, float* keys) {
  constexpr int64_t kTokens = 16;  // of a chunk
  const Rotation& rotation = call.rotation;
  const int64_t head_dim = call.pages.head_dim, num_tokens = call.num_tokens();
  const int64_t query_heads = call.query.num_rows / head_dim, key_heads = call.pages.num_kv_heads;
  const auto normalize = [&](float* heads, int64_t num_heads, const float* norm, int64_t first, int64_t end) {
    if (norm == nullptr) return;
    NormalizeEach(heads + first * num_heads * head_dim, norm, call.epsilon, head_dim, (end - first) * num_heads);
  };
  const auto rotate = [&](float* heads, int64_t num_heads, int64_t token) {
    const float* cos = rotation.cos + call.position(token) * rotation.rotary_dim;
    const float* sin = rotation.sin + call.position(token) * rotation.rotary_dim;
    float* head = heads + token * num_heads * head_dim;
    for (int64_t h = 0; h < num_heads; ++h, head += head_dim) Rotate(head, cos, sin, rotation.rotary_dim);
  };
  const bool alone = num_tokens * call.query.num_rows < kParallelProducts;
  Threads::Get().For((num_tokens + kTokens - 1) / kTokens, alone, [&](int64_t chunk, int) {
    const int64_t first = chunk * kTokens, end = std::min(num_tokens, first + kTokens);
    normalize(queries, query_heads, call.query_norm, first, end);
    normalize(keys, key_heads, call.key_norm, first, end);
    if (rotation.cos == nullptr) return;
    for (int64_t t = first; t < end; ++t) {
      rotate(queries, query_heads, t);
      rotate(keys, key_heads, t);
    }
  });
}

// In the order of tokens, so that of two with one slot the later wins.
inline void StoreTokens(const AttentionLayerCall& call, const float* tokens, const Tensor& cache) {
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

inline void ProjectAndStore(const AttentionLayerCall& call, float* queries) {
  const int64_t num_tokens = call.num_tokens(), width = call.pages.token_stride();
  const OpTimer timer(kTimeQkv, call.query.bytes() + call.key.bytes() + call.value.bytes(),
                      call.query.products(num_tokens) + 2 * call.key.products(num_tokens));
  float* normalized = Scratch(kNormalized, num_tokens * call.x.shape[1]);
  float* keys = Scratch(kKeys, num_tokens * width);
  float* values = Scratch(kValues, num_tokens * width);
  NormalizeTokens(call.x, call.norm, call.epsilon, normalized);
  ApplyDown(normalized, num_tokens, call.query, call.key, call.value);
  Multiply(InputFor(normalized, num_tokens, call.query, call.key, call.value), ProductInto(call.query, queries),
           ProductInto(call.key, keys), ProductInto(call.value, values));
  FinishHeads(call, queries, keys);
  Threads::Get().For(2, num_tokens * call.query.num_rows < kParallelProducts, [&](int64_t which, int) {
    which == 0 ? StoreTokens(call, keys, call.pages.keys) : StoreTokens(call, values, call.pages.values);
  });
}

// The attention between the projections, in this thread's working memory; it points into itself.
struct LayerAttention {
  explicit LayerAttention(const AttentionLayerCall& layer)
      : contexts(layer.num_tokens()),
        shape{layer.num_tokens(), layer.query.num_rows / layer.pages.head_dim, layer.pages.head_dim} {
    const int64_t num_tokens = layer.num_tokens();
    for (int64_t t = 0; t < num_tokens; ++t) contexts[t] = layer.row(t) < 0 ? 0 : layer.position(t) + 1;
    queries = Scratch(kQueries, num_tokens * layer.query.num_rows);
    attended = Scratch(kAttended, num_tokens * layer.query.num_rows);
    const Tensor query{"query", queries, 3, shape, "float32", DType::kFloat32};
    const Tensor result{"output", attended, 3, shape, "float32", DType::kFloat32};
    const Tensor context_lens{"context_lens", contexts.data(), 1, shape, "int32", DType::kInt32};
    call = {query, layer.pages, layer.block_table, layer.rows, context_lens, layer.scale, result, layer.window};
  }

  LayerAttention(const LayerAttention&) = delete;
  LayerAttention& operator=(const LayerAttention&) = delete;

  std::vector<int32_t> contexts;
  int64_t shape[3];
  float* queries;
  float* attended;
  AttentionCall call;
};

// Every row, position and block of the call, before anything is written.
inline void RequireTokens(const char* op, const AttentionLayerCall& call) {
  RequirePositions(op, call);
  RequireTokens(LayerAttention(call).call);
}

inline void RunLayer(const AttentionLayerCall& call) {
  const int64_t num_tokens = call.num_tokens();
  const LayerAttention attention(call);
  ProjectAndStore(call, attention.queries);
  Attend(attention.call);
  const OpTimer timer(kTimeAttentionOutput, call.out.bytes(), call.out.products(num_tokens));
  PutOut(call, attention.attended, call.out);
}

}  // namespace paged_ops
