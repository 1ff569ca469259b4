// What one decode step's attention moves and does, for the cost model: no tensors to bring, nothing but shapes.

#include "emulated_call.h"

PAGED_OPS_EXPORT int PagedAttention(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                    void* stream, void* extra);
PAGED_OPS_EXPORT const char* EmulatorReport();

// Runs float16 paged_attention for `batch` rows of `context` tokens each, one query a row, and gives EmulatorReport().
PAGED_OPS_EXPORT const char* EmulatorDecodeReport(int64_t batch, int64_t num_heads, int64_t num_kv_heads,
                                                  int64_t head_dim, int64_t block_size, int64_t context) {
  const int64_t blocks_per_row = (context + block_size - 1) / block_size, num_blocks = batch * blocks_per_row;
  std::vector<int32_t> block_table(num_blocks), rows(batch), context_lens(batch, static_cast<int32_t>(context));
  for (int64_t i = 0; i < num_blocks; ++i) block_table[i] = static_cast<int32_t>(i);
  for (int64_t i = 0; i < batch; ++i) rows[i] = static_cast<int32_t>(i);
  std::vector<uint16_t> query(batch * num_heads * head_dim), output(query.size());
  std::vector<uint16_t> cache(num_blocks * block_size * num_kv_heads * head_dim);  // keys and values alike: all zeros
  float scale = 1.0f;
  int64_t window = 0;  // none

  void* params[] = {query.data(),        cache.data(), cache.data(), block_table.data(), rows.data(),
                    context_lens.data(), &scale,       &window,      output.data()};
  int ndims[] = {3, 4, 4, 2, 1, 1, 0, 0, 3};
  int64_t query_shape[] = {batch, num_heads, head_dim}, table_shape[] = {batch, blocks_per_row}, token_shape[] = {batch};
  int64_t cache_shape[] = {num_blocks, block_size, num_kv_heads, head_dim};
  int64_t* shapes[] = {query_shape, cache_shape, cache_shape, table_shape, token_shape, token_shape, nullptr,
                       nullptr, query_shape};
  const char* dtypes[] = {"float16", "float16", "float16", "int32", "int32", "int32", "float32", "int64", "float16"};
  PagedAttention(9, params, ndims, shapes, dtypes, nullptr, nullptr);
  return EmulatorReport();
}
