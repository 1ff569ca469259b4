// Tiling of reshape_and_cache: from static shapes alone. C++11: host code includes it too.
#pragma once

#include <cstdint>

// What one load takes at the most. With a conversion through float32 the buffers of so many elements are 96 KiB of UB.
constexpr uint32_t kReshapeElements = 8192;

struct ReshapeAndCacheTiling {
  uint32_t num_tokens;
  uint32_t num_slots;
  uint32_t token_width;       // elements of one token: KV heads * head_dim
  uint32_t part_width;        // elements of a token that are moved at a time: all, unless a token exceeds a load
  uint32_t tokens_per_batch;  // tokens in a load: 1 if a token exceeds it
};

struct ReshapeAndCacheShapes {
  uint32_t num_tokens;
  uint32_t num_kv_heads;
  uint32_t head_dim;
  uint32_t num_blocks;
  uint32_t block_size;
};

struct ReshapeAndCacheLaunch {
  ReshapeAndCacheTiling tiling;
  uint32_t block_dim;
};

inline ReshapeAndCacheLaunch MakeReshapeAndCacheLaunch(const ReshapeAndCacheShapes& shapes, uint32_t vector_cores) {
  const uint32_t width = shapes.num_kv_heads * shapes.head_dim;
  const uint64_t rows = 2 * static_cast<uint64_t>(shapes.num_tokens);  // every token has a key and a value
  ReshapeAndCacheLaunch launch;
  launch.tiling.num_tokens = shapes.num_tokens;
  launch.tiling.num_slots = shapes.num_blocks * shapes.block_size;
  launch.tiling.token_width = width;
  launch.tiling.part_width = width < kReshapeElements ? width : kReshapeElements;
  launch.tiling.tokens_per_batch = width < kReshapeElements ? kReshapeElements / width : 1;
  launch.block_dim = rows < vector_cores ? static_cast<uint32_t>(rows) : vector_cores;
  return launch;
}
