// Tiling of reshape_and_cache: from static shapes alone. C++11: host code includes it too.
#pragma once

#include <cstdint>

#include "host_device.h"

// What one load takes at the most. With a conversion through float32 the buffers of so many elements are 96 KiB of UB.
constexpr uint32_t kReshapeElements = 8192;

// The same on the way to an int8 cache, which has more buffers, and for the scales, each eight times: 32 KiB.
constexpr uint32_t kQuantizeElements = 4096;
constexpr uint32_t kQuantizeScales = 1024;
constexpr uint32_t kScalesOfBlock = 8;  // the scales of a token begin at a block of 32 bytes

constexpr uint32_t kInt8HeadDimStep = 32;  // the values of a head are whole blocks of 32 bytes
constexpr uint32_t kInt8MaxHeadDim = 128;

struct ReshapeAndCacheTiling {
  uint32_t num_tokens;
  uint32_t num_slots;
  uint32_t token_width;       // elements of one token: KV heads * head_dim
  uint32_t part_width;        // elements of a token that are moved at a time: all, unless a token exceeds a load
  uint32_t tokens_per_batch;  // tokens in a load: 1 if a token exceeds it
  uint32_t head_dim;          // this and the next are for an int8 cache, whose pages have their scales behind the values
  uint32_t block_size;
};

struct ReshapeAndCacheShapes {
  uint32_t num_tokens;
  uint32_t num_kv_heads;
  uint32_t head_dim;
  uint32_t num_blocks;
  uint32_t block_size;
  uint32_t cache_bytes;  // of an element
};

struct ReshapeAndCacheLaunch {
  ReshapeAndCacheTiling tiling;
  uint32_t block_dim;
};

// Room that the scales of so many heads take.
PAGED_OPS_HOST_DEVICE constexpr uint32_t PaddedScales(uint32_t heads) {
  return (heads + kScalesOfBlock - 1) / kScalesOfBlock * kScalesOfBlock;
}

// Parts of whole heads.
inline void CutForQuantizing(ReshapeAndCacheTiling& tiling) {
  const uint32_t most = kQuantizeElements / tiling.head_dim * tiling.head_dim;
  tiling.part_width = tiling.token_width < most ? tiling.token_width : most;
  const uint32_t by_scales = kQuantizeScales / PaddedScales(tiling.part_width / tiling.head_dim);
  const uint32_t by_elements = kQuantizeElements / tiling.part_width;
  const uint32_t tokens = by_elements < by_scales ? by_elements : by_scales;
  tiling.tokens_per_batch = tiling.part_width < tiling.token_width ? 1 : tokens;
}

inline ReshapeAndCacheLaunch MakeReshapeAndCacheLaunch(const ReshapeAndCacheShapes& shapes, uint32_t vector_cores) {
  const uint32_t width = shapes.num_kv_heads * shapes.head_dim;
  const uint64_t rows = 2 * static_cast<uint64_t>(shapes.num_tokens);  // every token has a key and a value
  ReshapeAndCacheLaunch launch;
  launch.tiling.num_tokens = shapes.num_tokens;
  launch.tiling.num_slots = shapes.num_blocks * shapes.block_size;
  launch.tiling.token_width = width;
  launch.tiling.part_width = width < kReshapeElements ? width : kReshapeElements;
  launch.tiling.tokens_per_batch = width < kReshapeElements ? kReshapeElements / width : 1;
  launch.tiling.head_dim = shapes.head_dim;
  launch.tiling.block_size = shapes.block_size;
  if (shapes.cache_bytes == 1) CutForQuantizing(launch.tiling);
  launch.block_dim = rows < vector_cores ? static_cast<uint32_t>(rows) : vector_cores;
  return launch;
}
