// Tiling of write_blocks: from static shapes alone. C++11: host code includes it too.
#pragma once

#include <cstdint>

#include "block_pieces.h"

struct WriteBlocksTiling {
  uint64_t block_bytes;
  uint32_t num_blocks;
  uint32_t num_ids;
  uint32_t layer;
  uint32_t piece_bytes;
  uint32_t pieces_per_block;
};

struct WriteBlocksShapes {
  uint32_t num_blocks;
  uint64_t block_bytes;
  uint32_t num_ids;
  uint32_t layer;
};

struct WriteBlocksLaunch {
  WriteBlocksTiling tiling;
  uint32_t block_dim;
};

inline WriteBlocksLaunch MakeWriteBlocksLaunch(const WriteBlocksShapes& shapes, uint32_t vector_cores) {
  const paged_ops::BlockPieces cut =
      paged_ops::CutIntoPieces(shapes.block_bytes, 2 * static_cast<uint64_t>(shapes.num_ids), vector_cores);
  WriteBlocksLaunch launch;
  launch.tiling.block_bytes = shapes.block_bytes;
  launch.tiling.num_blocks = shapes.num_blocks;
  launch.tiling.num_ids = shapes.num_ids;
  launch.tiling.layer = shapes.layer;
  launch.tiling.piece_bytes = cut.piece_bytes;
  launch.tiling.pieces_per_block = cut.pieces_per_block;
  launch.block_dim = cut.cores;
  return launch;
}
