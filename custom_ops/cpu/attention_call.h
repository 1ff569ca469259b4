// The arguments of paged_attention, checked.
#pragma once

#include <algorithm>

#include "aot_op.h"
#include "simd.h"

namespace paged_ops {

constexpr char kPagedAttention[] = "paged_attention";

struct AttentionCall {
  Tensor query;
  Pages pages;
  Tensor block_table;
  Tensor rows;
  Tensor context_lens;
  float scale;
  Tensor output;

  int64_t num_tokens() const { return query.shape[0]; }
  int64_t num_heads() const { return query.shape[1]; }
  int64_t group() const { return num_heads() / pages.num_kv_heads; }
  // Floats from one query to the next in working memory: head_dim, filled up to whole vectors.
  int64_t stride() const { return (pages.head_dim + kLanes - 1) / kLanes * kLanes; }
  int64_t row(int64_t token) const { return rows.as<int32_t>()[token]; }
  int64_t context(int64_t token) const { return context_lens.as<int32_t>()[token]; }
  const int32_t* blocks(int64_t row) const { return block_table.as<int32_t>() + row * block_table.shape[1]; }
};

inline AttentionCall ParseCall(Arguments arguments) {
  const Tensor query = arguments.NextFloat("query", 3);
  const Pages pages = NextPages(kPagedAttention, arguments);
  const Tensor block_table = arguments.NextInt32("block_table", 2);
  const Tensor rows = arguments.NextInt32("rows", 1);
  const Tensor context_lens = arguments.NextInt32("context_lens", 1);
  const Tensor scale = arguments.Next("scale", 0, {DType::kFloat32});
  const Tensor output = arguments.NextFloat("output", 3);

  const int64_t num_tokens = query.shape[0], num_heads = query.shape[1];
  RequireShape(kPagedAttention, query, {num_tokens, num_heads, pages.head_dim});
  if (num_heads <= 0 || num_heads % pages.num_kv_heads != 0) {
    Refuse(kPagedAttention, "query has ", num_heads, " heads, not a multiple of the ", pages.num_kv_heads, " KV heads");
  }
  RequireShape(kPagedAttention, rows, {num_tokens});
  RequireShape(kPagedAttention, context_lens, {num_tokens});
  RequireShape(kPagedAttention, output, {num_tokens, num_heads, pages.head_dim});
  RequireSameDType(kPagedAttention, output, query);
  return {query, pages, block_table, rows, context_lens, scale.as<float>()[0], output};
}

inline void RequireToken(const AttentionCall& call, int64_t token) {
  const int64_t row = call.row(token), context = call.context(token);
  const int64_t num_rows = call.block_table.shape[0];
  const int64_t longest = call.block_table.shape[1] * call.pages.block_size;
  if (row < -1 || row >= num_rows) {
    Refuse(kPagedAttention, "token ", token, ": row ", row, " is outside [-1, ", num_rows, ")");
  }
  if (context < 0 || context > longest) {
    Refuse(kPagedAttention, "token ", token, ": context length ", context, " is outside [0, ", longest, "]");
  }
  if (row == -1 && context != 0) {
    Refuse(kPagedAttention, "token ", token, ": context length ", context,
           " of a padding token (row -1), it must be 0");
  }
}

inline void RequireBlocks(const AttentionCall& call, int64_t token, int64_t first, int64_t count) {
  const int32_t* blocks = call.blocks(call.row(token));
  for (int64_t i = first; i < count; ++i) {
    if (blocks[i] < 0 || blocks[i] >= call.pages.num_blocks) {
      Refuse(kPagedAttention, "token ", token, ": block ", blocks[i], " at block_table[", call.row(token), ", ", i,
             "] is outside [0, ", call.pages.num_blocks, ")");
    }
  }
}

// Every index of the call, before any of them is used.
inline void RequireTokens(const AttentionCall& call) {
  int64_t checked = 0;  // blocks of the current run of tokens with one row
  for (int64_t t = 0; t < call.num_tokens(); ++t) {
    RequireToken(call, t);
    if (t == 0 || call.row(t) != call.row(t - 1)) checked = 0;
    const int64_t used = (call.context(t) + call.pages.block_size - 1) / call.pages.block_size;
    RequireBlocks(call, t, checked, used);
    checked = std::max(checked, used);
  }
}

}  // namespace paged_ops
