// How paged_attention is launched: decided from static shapes alone, so that the operator can sit in a static graph.
// Which core does what is decided on the device, from rows and context_lens (paged_attention_plan.h).
//
// Plain C++: shared by the operator's host code, the CPU emulator's host and the kernels.
#pragma once

#include <cstdint>

#include "host_device.h"

constexpr uint32_t kPagedAttentionVectorKey = 1;  // every step on the vector cores
constexpr uint32_t kPagedAttentionCubeKey = 2;    // Q K^T and P V on the cube cores, softmax on the vector cores
constexpr uint32_t kPagedAttentionEitherKey = 3;  // one of the two, chosen on the device by the longest run of tokens

// From so many queries that share their loads of KV on (tokens of one row x query heads of a KV head), the vector cores
// alone fall behind the memory (docs/ascend_performance.md).
constexpr uint32_t kCubeLeastQueries = 3;

// Queries that share one load of a KV tile. The cube's are in bands of 32: what a vector core turns into weights at once.
constexpr uint32_t kVectorQueries = 16;
constexpr uint32_t kBandQueries = 32;
constexpr uint32_t kMaxBands = 2;         // of one vector core
constexpr uint32_t kCubeVectorCores = 2;  // of a cube core
constexpr uint32_t kCubeQueries = kBandQueries * kMaxBands * kCubeVectorCores;

// KV tokens of a tile. The cube's is long because the cores hand each other every tile, which takes microseconds; it is
// halved where that leaves fewer cores idle, down to the shortest.
constexpr uint32_t kVectorTileTokens = 64;
constexpr uint32_t kCubeTileTokens = 512;
constexpr uint32_t kCubeLeastTileTokens = 128;

// What handing over a tile takes, as the KV tokens that could be loaded in that time: an estimate.
constexpr uint32_t kCubeTileOverhead = 64;

// A core that gets fewer tokens than this spends more on combining than it saves.
constexpr uint32_t kMinTokensPerCore = 256;

constexpr uint32_t kPagedAttentionMaxHeadDim = 256;
constexpr uint32_t kWideHeadDim = 128;  // a larger one leaves less room: shorter tiles, half as many queries on the cube
constexpr uint32_t kWideVectorTileTokens = 24;

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

// How a variant cuts the work.
struct PagedAttentionCut {
  uint32_t tile_tokens;        // KV tokens of a tile, at most
  uint32_t least_tile_tokens;  // and at least
  uint32_t tile_overhead;      // what handing over a tile takes, as the tokens that could be loaded in that time
  uint32_t bands;              // of queries, of a vector core beside a cube core
  uint32_t max_queries;        // of a run
  uint32_t max_run_tokens;     // tokens of a row that share the loads of KV
};

struct PagedAttentionTiling {
  uint32_t num_tokens;
  uint32_t num_heads;
  uint32_t num_kv_heads;
  uint32_t group;  // query heads a KV head
  uint32_t head_dim;
  uint32_t block_size;
  uint32_t blocks_per_row;
  PagedAttentionCut cut;
  uint32_t window;  // tokens that each one sees; 0 = all, also where no context is longer than the window
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

// Bytes through which a cube core and its vector cores hand each other a tile: scores, weights, weighted values; of int8
// pages also keys and values, as 16-bit floats.
PAGED_OPS_HOST_DEVICE constexpr uint64_t CubeExchangeBytes(uint32_t head_dim, bool widened) {
  return static_cast<uint64_t>(kCubeQueries) * (kCubeTileTokens * (4 + 2) + head_dim * 4) +
         (widened ? static_cast<uint64_t>(2) * kCubeTileTokens * head_dim * 2 : 0);
}

// Bands that a vector core of the cube variant has room for.
PAGED_OPS_HOST_DEVICE constexpr uint32_t BandsFor(uint32_t head_dim, uint32_t cache_bytes) {
  return head_dim > kWideHeadDim || cache_bytes == 1 ? 1 : kMaxBands;
}

// Tokens of a run that fit into so many bands of each of the two vector cores: each takes half of them. Of a group larger
// than a band, each takes half of the heads.
PAGED_OPS_HOST_DEVICE constexpr uint32_t CubeRunTokens(uint32_t group, uint32_t bands) {
  return kBandQueries < group ? 1 : kBandQueries / group * bands * kCubeVectorCores;
}

PAGED_OPS_HOST_DEVICE constexpr uint32_t VectorTileTokens(uint32_t head_dim) {
  return head_dim > kWideHeadDim ? kWideVectorTileTokens : kVectorTileTokens;
}

PAGED_OPS_HOST_DEVICE constexpr PagedAttentionCut VectorCut(uint32_t group, uint32_t head_dim) {
  return {VectorTileTokens(head_dim), VectorTileTokens(head_dim), 0, 0, kVectorQueries, kVectorQueries / group};
}

PAGED_OPS_HOST_DEVICE constexpr PagedAttentionCut CubeCut(uint32_t group, uint32_t head_dim, uint32_t bands) {
  return {head_dim > kWideHeadDim ? kCubeTileTokens / 2 : kCubeTileTokens,
          kCubeLeastTileTokens,
          kCubeTileOverhead,
          bands,
          kBandQueries * bands * kCubeVectorCores,
          CubeRunTokens(group, bands)};
}

// Query heads a KV head, at most.
PAGED_OPS_HOST_DEVICE constexpr uint32_t MaxGroup(const PagedAttentionCut& cut) {
  return cut.bands == 0 ? kVectorQueries : kBandQueries * kCubeVectorCores;
}

inline PagedAttentionLaunch MakePagedAttentionLaunchFor(uint32_t key, const PagedAttentionShapes& shapes,
                                                        const PagedAttentionCores& cores) {
  const bool cube = key != kPagedAttentionVectorKey;
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
  const int64_t longest = static_cast<int64_t>(shapes.blocks_per_row) * shapes.block_size;
  launch.tiling.window = shapes.window < longest ? static_cast<uint32_t>(shapes.window) : 0;
  launch.tiling.scale = shapes.scale;
  const uint32_t group = launch.tiling.group, head_dim = shapes.head_dim;
  launch.tiling.cut = cube ? CubeCut(group, head_dim, BandsFor(head_dim, shapes.cache_bytes)) : VectorCut(group, head_dim);
  launch.workspace_bytes = launch.block_dim * SoftmaxStateFloats(launch.tiling.cut.max_queries, shapes.head_dim) * 4;
  if (cube) launch.workspace_bytes += 2 * launch.block_dim * CubeExchangeBytes(shapes.head_dim, shapes.cache_bytes == 1);
  return launch;
}

inline PagedAttentionLaunch MakePagedAttentionLaunch(const PagedAttentionShapes& shapes,
                                                     const PagedAttentionCores& cores) {
  const uint32_t group = shapes.num_heads / shapes.num_kv_heads;
  // The cube multiplies equal 16-bit types only, which int8 pages can be widened to.
  const bool cube = cores.cube_cores > 0 && shapes.query_bytes == 2;
  if (!cube || shapes.num_tokens * group < kCubeLeastQueries) {
    return MakePagedAttentionLaunchFor(kPagedAttentionVectorKey, shapes, cores);
  }
  const uint32_t key = group < kCubeLeastQueries ? kPagedAttentionEitherKey : kPagedAttentionCubeKey;
  return MakePagedAttentionLaunchFor(key, shapes, cores);
}
