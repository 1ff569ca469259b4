// The work of attention_layer on arguments that are checked, and their checks: for the ops that have such layers.
#pragma once

#include "attention.h"
#include "cache_store.h"
#include "linear_call.h"

namespace paged_ops {

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

// Checks that the shapes of a call go together; a weight's columns were looked at when it was taken.
inline void RequireShapes(const char* op, const AttentionLayerCall& call) {
  const int64_t num_tokens = call.num_tokens(), columns = call.x.shape[1], width = call.pages.token_stride();
  if (call.key.num_rows != width || call.value.num_rows != width) {
    Refuse(op, "key and value have ", call.key.num_rows, " and ", call.value.num_rows, " rows, the pages hold ", width,
           " numbers a token");
  }
  if (call.query.num_rows <= 0 || call.query.num_rows % width != 0) {
    Refuse(op, "query has ", call.query.num_rows, " rows, not a multiple of the ", width, " of key");
  }
  if (call.out.num_rows != columns) {
    Refuse(op, "out has ", call.out.num_rows, " rows, x has ", columns, " columns");
  }
  RequireShape(op, call.cos_table, {call.cos_table.shape[0], 1, call.pages.head_dim});
  RequireShape(op, call.sin_table, {call.cos_table.shape[0], 1, call.pages.head_dim});
  RequireShape(op, call.positions, {num_tokens});
  RequireShape(op, call.rows, {num_tokens});
  RequireShape(op, call.output, {num_tokens, columns});
}

inline void RequirePositions(const char* op, const AttentionLayerCall& call) {
  const int64_t longest = std::min(call.cos_table.shape[0], call.block_table.shape[1] * call.pages.block_size);
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

// Each pair (i, i + D / 2) of a head turned by its angle; the same roundings as the unfused products and sum.
inline void Rotate(float* head, const float* cos, const float* sin, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const Vec first = Load(head + i), second = Load(head + i + half);
    Store(head + i, first * Load(cos + i) - second * Load(sin + i));
    Store(head + i + half, second * Load(cos + i + half) + first * Load(sin + i + half));
  }
  for (; i < half; ++i) {
    const float first = head[i], second = head[i + half];
    head[i] = first * cos[i] - second * sin[i];
    head[i + half] = second * cos[i + half] + first * sin[i + half];
  }
}

inline void RotateTokens(const AttentionLayerCall& call, float* queries, float* keys) {
  constexpr int64_t kTokens = 16;  // of a chunk
  const int64_t head_dim = call.pages.head_dim, num_tokens = call.num_tokens();
  const auto rotate = [&](float* heads, int64_t num_heads, int64_t token) {
    const float* cos = call.cos_table.as<float>() + call.position(token) * head_dim;
    const float* sin = call.sin_table.as<float>() + call.position(token) * head_dim;
    for (int64_t h = 0; h < num_heads; ++h) Rotate(heads + (token * num_heads + h) * head_dim, cos, sin, head_dim);
  };
  const bool alone = num_tokens * call.query.num_rows < kParallelProducts;
  Threads::Get().For((num_tokens + kTokens - 1) / kTokens, alone, [&](int64_t chunk, int) {
    for (int64_t t = chunk * kTokens; t < std::min(num_tokens, (chunk + 1) * kTokens); ++t) {
      rotate(queries, call.query.num_rows / head_dim, t);
      rotate(keys, call.pages.num_kv_heads, t);
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
  NormalizeTokens(call.x, call.norm_weight, call.epsilon, normalized);
  Multiply(InputFor(normalized, num_tokens, call.query, call.key, call.value), ProductInto(call.query, queries),
           ProductInto(call.key, keys), ProductInto(call.value, values));
  RotateTokens(call, queries, keys);
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
    call = {query, layer.pages, layer.block_table, layer.rows, context_lens, layer.scale, result};
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
  const float* residual = call.adds_residual ? call.x.as<float>() : nullptr;
  Multiply(InputFor(attention.attended, num_tokens, call.out),
           ProductInto(call.out, call.output.as<float>(), residual));
}

}  // namespace paged_ops
