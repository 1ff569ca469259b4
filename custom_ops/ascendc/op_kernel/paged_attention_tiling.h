// How paged_attention is launched: decided from static shapes alone, so that the operator can sit in a static graph.
// Which core does what is decided on the device, from rows and context_lens (paged_attention_plan.h).
//
// Plain C++: shared by the operator's host code, the CPU emulator's host and the kernels.
#pragma once

#include <cstdint>

#include "host_device.h"

constexpr uint32_t kPagedAttentionVectorKey = 1;  // every step on the vector cores
constexpr uint32_t kPagedAttentionCubeKey = 2;    // Q K^T and P V on the cube cores, softmax on the vector cores

// With this many query heads a KV head, the vector cores alone fall behind the memory (docs/ascend_performance.md).
constexpr uint32_t kPagedAttentionCubeGroup = 3;

// Queries (tokens of one row x heads of one group) that share one load of a KV tile.
constexpr uint32_t kVectorQueries = 16;
constexpr uint32_t kCubeQueries = 64;

// KV tokens of a tile. The cube's is long because the cores hand each other every tile, which takes microseconds.
constexpr uint32_t kVectorTileTokens = 64;
constexpr uint32_t kCubeTileTokens = 512;

// A core that gets fewer tokens than this spends more on combining than it saves.
constexpr uint32_t kMinTokensPerCore = 256;

constexpr uint32_t kPagedAttentionMaxHeadDim = 128;

// Numbers of a token, of all heads: the copies go from token to token by strides of 16 bits, those of the cube (Nd2Nz)
// in elements.
constexpr uint32_t kPagedAttentionMaxWidth = 65535;

struct PagedAttentionShapes {
  uint32_t num_tokens;
  uint32_t num_heads;
  uint32_t num_kv_heads;
  uint32_t head_dim;
  uint32_t num_blocks;
  uint32_t block_size;
  uint32_t num_rows;
  uint32_t blocks_per_row;
  uint32_t query_bytes;  // of an element: 4 or 2
  uint32_t cache_bytes;  // of an element: 2, or 1 of int8 pages
  int64_t window;        // tokens that each one sees, the last of its context; 0 = all
  float scale;
};

struct PagedAttentionCores {
  uint32_t vector_cores;
  uint32_t cube_cores;
};

struct PagedAttentionTiling {
  uint32_t num_tokens;
  uint32_t num_heads;
  uint32_t num_kv_heads;
  uint32_t group;  // query heads a KV head
  uint32_t head_dim;
  uint32_t block_size;
  uint32_t blocks_per_row;
  uint32_t tile_tokens;
  uint32_t max_queries;
  uint32_t max_run_tokens;  // tokens of a row that share the loads of KV
  uint32_t window;          // tokens that each one sees; 0 = all, also where no context is longer than the window
  float scale;
};

struct PagedAttentionLaunch {
  PagedAttentionTiling tiling;
  uint32_t tiling_key;
  uint32_t block_dim;
  uint64_t workspace_bytes;
};

// Floats of one core's unfinished softmax: maximum and sum of each query, then the sums of values.
PAGED_OPS_HOST_DEVICE constexpr uint64_t SoftmaxStateFloats(uint32_t max_queries, uint32_t head_dim) {
  return static_cast<uint64_t>(max_queries) * (2 + head_dim);
}

// Bytes through which a cube core and its vector cores hand each other a tile: scores, weights, weighted values.
PAGED_OPS_HOST_DEVICE constexpr uint64_t CubeExchangeBytes(uint32_t head_dim) {
  return static_cast<uint64_t>(kCubeQueries) * (kCubeTileTokens * (4 + 2) + head_dim * 4);
}

// Each of the two vector cores of a cube core takes half of a run's tokens, and has room for half of the queries.
PAGED_OPS_HOST_DEVICE constexpr uint32_t MaxRunTokens(bool cube, uint32_t group) {
  return !cube ? kVectorQueries / group : kCubeQueries / 2 < group ? 1 : kCubeQueries / 2 / group * 2;
}

inline PagedAttentionLaunch MakePagedAttentionLaunchFor(uint32_t key, const PagedAttentionShapes& shapes,
                                                        const PagedAttentionCores& cores) {
  const bool cube = key == kPagedAttentionCubeKey;
  PagedAttentionLaunch launch{};
  launch.tiling_key = key;
  launch.block_dim = cube ? cores.cube_cores : cores.vector_cores;
  launch.tiling.num_tokens = shapes.num_tokens;
  launch.tiling.num_heads = shapes.num_heads;
  launch.tiling.num_kv_heads = shapes.num_kv_heads;
  launch.tiling.group = shapes.num_heads / shapes.num_kv_heads;
  launch.tiling.head_dim = shapes.head_dim;
  launch.tiling.block_size = shapes.block_size;
  launch.tiling.blocks_per_row = shapes.blocks_per_row;
  launch.tiling.tile_tokens = cube ? kCubeTileTokens : kVectorTileTokens;
  launch.tiling.max_queries = cube ? kCubeQueries : kVectorQueries;
  launch.tiling.max_run_tokens = MaxRunTokens(cube, launch.tiling.group);
  const int64_t longest = static_cast<int64_t>(shapes.blocks_per_row) * shapes.block_size;
  launch.tiling.window = shapes.window < longest ? static_cast<uint32_t>(shapes.window) : 0;
  launch.tiling.scale = shapes.scale;
  launch.workspace_bytes = launch.block_dim * SoftmaxStateFloats(launch.tiling.max_queries, shapes.head_dim) * 4;
  if (cube) launch.workspace_bytes += 2 * launch.block_dim * CubeExchangeBytes(shapes.head_dim);
  return launch;
}

inline PagedAttentionLaunch MakePagedAttentionLaunch(const PagedAttentionShapes& shapes,
                                                     const PagedAttentionCores& cores) {
  // The cube multiplies equal 16-bit types only.
  const bool cube = cores.cube_cores > 0 && shapes.query_bytes == 2 && shapes.cache_bytes == 2 &&
                    shapes.num_heads / shapes.num_kv_heads >= kPagedAttentionCubeGroup;
  return MakePagedAttentionLaunchFor(cube ? kPagedAttentionCubeKey : kPagedAttentionVectorKey, shapes, cores);
}
