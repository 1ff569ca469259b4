// What one step's attention moves and does, for the cost model: no tensors to bring, nothing but shapes.

#include "emulated_call.h"

PAGED_OPS_EXPORT int PagedAttention(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                    void* stream, void* extra);
PAGED_OPS_EXPORT const char* EmulatorReport();

// Runs paged_attention of float16 queries for `batch` rows of `context` tokens each, the last `new_tokens` of which are
// asked for, over pages of float16 or, if `is_int8`, of int8, and gives EmulatorReport().
PAGED_OPS_EXPORT const char* EmulatorAttentionReport(int64_t batch, int64_t new_tokens, int64_t num_heads,
                                                     int64_t num_kv_heads, int64_t head_dim, int64_t block_size,
                                                     int64_t context, int64_t is_int8) {
  const int64_t blocks_per_row = (context + block_size - 1) / block_size, num_blocks = batch * blocks_per_row;
  const int64_t num_tokens = batch * new_tokens, stored_dim = is_int8 ? head_dim + 4 : head_dim;
  std::vector<int32_t> block_table(num_blocks), rows(num_tokens), context_lens(num_tokens);
  for (int64_t i = 0; i < num_blocks; ++i) block_table[i] = static_cast<int32_t>(i);
  for (int64_t i = 0; i < num_tokens; ++i) rows[i] = static_cast<int32_t>(i / new_tokens);
  for (int64_t i = 0; i < num_tokens; ++i) {
    context_lens[i] = static_cast<int32_t>(context - new_tokens + 1 + i % new_tokens);
  }
  std::vector<uint16_t> query(num_tokens * num_heads * head_dim), output(query.size());
  // Keys and values alike: all zeros.
  std::vector<uint8_t> cache(num_blocks * block_size * num_kv_heads * stored_dim * (is_int8 ? 1 : 2));
  float scale = 1.0f;
  int64_t window = 0;  // none

  void* params[] = {query.data(),        cache.data(), cache.data(), block_table.data(), rows.data(),
                    context_lens.data(), &scale,       &window,      output.data()};
  int ndims[] = {3, 4, 4, 2, 1, 1, 0, 0, 3};
  int64_t query_shape[] = {num_tokens, num_heads, head_dim}, table_shape[] = {batch, blocks_per_row};
  int64_t token_shape[] = {num_tokens}, cache_shape[] = {num_blocks, block_size, num_kv_heads, stored_dim};
  int64_t* shapes[] = {query_shape, cache_shape, cache_shape, table_shape, token_shape, token_shape, nullptr,
                       nullptr, query_shape};
  const char* pages = is_int8 ? "int8" : "float16";
  const char* dtypes[] = {"float16", pages, pages, "int32", "int32", "int32", "float32", "int64", "float16"};
  PagedAttention(9, params, ndims, shapes, dtypes, nullptr, nullptr);
  return EmulatorReport();
}
