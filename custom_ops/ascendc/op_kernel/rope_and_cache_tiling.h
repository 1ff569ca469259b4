// Tiling of rope_and_cache: from static shapes alone. C++11: host code includes it too.
#pragma once

#include <cstdint>

#include "host_device.h"

constexpr uint32_t kRopeMostElements = 2048;  // of the heads that are computed at a time
constexpr uint32_t kRopeHeadDimStep = 16;     // a head is whole blocks of 32 bytes
constexpr uint32_t kRopeMostHeadDim = 128;
constexpr uint32_t kRopeRotatedStep = 16;     // so that both halves begin at blocks of 32 bytes, as floats

// Bits of `options`.
constexpr uint32_t kRopeHasBias = 1;
constexpr uint32_t kRopeNormsHeads = 2;
constexpr uint32_t kRopeRotates = 4;

struct RopeAndCacheTiling {
  uint32_t num_tokens;
  uint32_t num_heads;
  uint32_t num_kv_heads;
  uint32_t head_dim;
  uint32_t rotated;         // numbers of a head, the first ones
  uint32_t num_slots;
  uint32_t block_size;
  uint32_t heads_per_part;  // heads of one kind, of one token
  uint32_t options;
  float epsilon;
};

struct RopeAndCacheShapes {
  uint32_t num_tokens;
  uint32_t num_heads;
  uint32_t num_kv_heads;
  uint32_t head_dim;
  uint32_t rotated;
  uint32_t num_blocks;
  uint32_t block_size;
  uint32_t options;
  float epsilon;
};

struct RopeAndCacheLaunch {
  RopeAndCacheTiling tiling;
  uint32_t block_dim;
};

PAGED_OPS_HOST_DEVICE constexpr uint32_t RopeParts(uint32_t heads, uint32_t heads_per_part) {
  return (heads + heads_per_part - 1) / heads_per_part;
}

// Parts of a token: those of its queries, its keys, its values.
PAGED_OPS_HOST_DEVICE constexpr uint32_t RopePartsOfToken(const RopeAndCacheTiling& tiling) {
  return RopeParts(tiling.num_heads, tiling.heads_per_part) + 2 * RopeParts(tiling.num_kv_heads, tiling.heads_per_part);
}

inline RopeAndCacheLaunch MakeRopeAndCacheLaunch(const RopeAndCacheShapes& shapes, uint32_t vector_cores) {
  RopeAndCacheLaunch launch;
  RopeAndCacheTiling& tiling = launch.tiling;
  tiling.num_tokens = shapes.num_tokens;
  tiling.num_heads = shapes.num_heads;
  tiling.num_kv_heads = shapes.num_kv_heads;
  tiling.head_dim = shapes.head_dim;
  tiling.rotated = shapes.rotated;
  tiling.num_slots = shapes.num_blocks * shapes.block_size;
  tiling.block_size = shapes.block_size;
  tiling.options = shapes.options;
  tiling.epsilon = shapes.epsilon;
  tiling.heads_per_part = kRopeMostElements / shapes.head_dim;
  // Fewer, as long as some core would have nothing to do.
  while (tiling.heads_per_part > 1 &&
         static_cast<uint64_t>(tiling.num_tokens) * RopePartsOfToken(tiling) < vector_cores) {
    tiling.heads_per_part = (tiling.heads_per_part + 1) / 2;
  }
  const uint64_t units = static_cast<uint64_t>(tiling.num_tokens) * RopePartsOfToken(tiling);
  launch.block_dim = units < vector_cores ? static_cast<uint32_t>(units) : vector_cores;
  return launch;
}
