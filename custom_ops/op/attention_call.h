// The arguments of paged_attention, checked.
#pragma once

#include <algorithm>

#include "op/aot_op.h"

namespace paged_ops {

constexpr char kPagedAttention[] = "paged_attention";

// The first position that a token of context length `context` sees.
inline int64_t FirstSeen(int64_t context, int64_t window) {
  return window > 0 && context > window ? context - window : 0;
}

struct AttentionCall {
  Tensor query;
  Pages pages;
  Tensor block_table;
  Tensor rows;
  Tensor context_lens;
  float scale;
  Tensor output;
  int64_t window = 0;  // how many tokens each one sees, the last of its context; 0 = all

  int64_t num_tokens() const { return query.shape[0]; }
  int64_t num_heads() const { return query.shape[1]; }
  int64_t group() const { return num_heads() / pages.num_kv_heads; }
  int64_t row(int64_t token) const { return rows.as<int32_t>()[token]; }
  int64_t context(int64_t token) const { return context_lens.as<int32_t>()[token]; }
  int64_t first_seen(int64_t token) const { return FirstSeen(context(token), window); }
  const int32_t* blocks(int64_t row) const { return block_table.as<int32_t>() + row * block_table.shape[1]; }
};

inline AttentionCall ParseCall(Arguments arguments) {
  const Tensor query = arguments.NextFloat("query", 3);
  const Pages pages = NextPages(kPagedAttention, arguments);
  const Tensor block_table = arguments.NextInt32("block_table", 2);
  const Tensor rows = arguments.NextInt32("rows", 1);
  const Tensor context_lens = arguments.NextInt32("context_lens", 1);
  const Tensor scale = arguments.Next("scale", 0, {DType::kFloat32});
  const Tensor window = arguments.Next("window", 0, {DType::kInt64});
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
  if (window.as<int64_t>()[0] < 0) {
    Refuse(kPagedAttention, "window ", window.as<int64_t>()[0], " is negative, it must be the tokens seen, or 0 for all");
  }
  return {query, pages, block_table, rows, context_lens, scale.as<float>()[0], output, window.as<int64_t>()[0]};
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

inline void RequireBlocks(const AttentionCall& call, int64_t token, int64_t first, int64_t end) {
  const int32_t* blocks = call.blocks(call.row(token));
  for (int64_t i = first; i < end; ++i) {
    if (blocks[i] < 0 || blocks[i] >= call.pages.num_blocks) {
      Refuse(kPagedAttention, "token ", token, ": block ", blocks[i], " at block_table[", call.row(token), ", ", i,
             "] is outside [0, ", call.pages.num_blocks, ")");
    }
  }
}

// Every index of the call, before any of them is used. Blocks before the windows of a run are not looked at.
inline void RequireTokens(const AttentionCall& call) {
  int64_t first = 0, end = 0;  // the blocks of the current run of tokens with one row that are checked
  for (int64_t t = 0; t < call.num_tokens(); ++t) {
    RequireToken(call, t);
    if (t > 0 && call.row(t) != call.row(t - 1)) first = end = 0;
    if (call.context(t) == 0) continue;
    const int64_t first_used = call.first_seen(t) / call.pages.block_size;
    const int64_t end_used = (call.context(t) + call.pages.block_size - 1) / call.pages.block_size;
    if (end == 0) first = end = first_used;
    RequireBlocks(call, t, first_used, first);
    RequireBlocks(call, t, end, end_used);
    first = std::min(first, first_used);
    end = std::max(end, end_used);
  }
}

}  // namespace paged_ops
