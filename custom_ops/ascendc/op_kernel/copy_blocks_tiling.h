// Tiling of copy_blocks: from static shapes alone. C++11: host code includes it too.
#pragma once

#include <cstdint>

#include "block_pieces.h"

struct CopyBlocksTiling {
  uint64_t block_bytes;
  uint32_t num_blocks;
  uint32_t num_pairs;
  uint32_t piece_bytes;
  uint32_t pieces_per_block;
};

struct CopyBlocksShapes {
  uint32_t num_blocks;
  uint64_t block_bytes;
  uint32_t num_pairs;
};

struct CopyBlocksLaunch {
  CopyBlocksTiling tiling;
  uint32_t block_dim;
};

// A core does all pairs for its own pieces of the block, so what is cut is one key block and one value block, however
// many pairs there are.
inline CopyBlocksLaunch MakeCopyBlocksLaunch(const CopyBlocksShapes& shapes, uint32_t vector_cores) {
  const paged_ops::BlockPieces cut = paged_ops::CutIntoPieces(shapes.block_bytes, 2, vector_cores);
  CopyBlocksLaunch launch;
  launch.tiling.block_bytes = shapes.block_bytes;
  launch.tiling.num_blocks = shapes.num_blocks;
  launch.tiling.num_pairs = shapes.num_pairs;
  launch.tiling.piece_bytes = cut.piece_bytes;
  launch.tiling.pieces_per_block = cut.pieces_per_block;
  launch.block_dim = cut.cores;
  return launch;
}
