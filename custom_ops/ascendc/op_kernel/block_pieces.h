// How copies of whole cache blocks are cut for the vector cores. C++11: host code includes it too.
#pragma once

#include <cstdint>

namespace paged_ops {

// The unit in which blocks are cut. Blocks of 16-bit elements are multiples of it, 16 tokens of 16 elements at the least;
// those of int8, with their scales, are multiples of 32 bytes, and their last piece is shorter than the others.
constexpr uint32_t kPieceUnit = 512;

// The largest piece: long enough for the full bandwidth of GM, short enough that blocks spread evenly over the cores.
constexpr uint32_t kLargestPiece = 32 * 1024;

// What starting a copy takes, as the size of what could be copied in that time: an estimate. Smaller pieces do not pay.
constexpr uint32_t kPieceOverhead = 2 * 1024;

struct BlockPieces {
  uint32_t piece_bytes;
  uint32_t pieces_per_block;
  uint32_t cores;
};

// Cuts `num_copies` copies of `block_bytes` each, all blocks alike, so that the core with the most to do is done first.
inline BlockPieces CutIntoPieces(uint64_t block_bytes, uint64_t num_copies, uint32_t vector_cores) {
  const uint64_t block_units = (block_bytes + kPieceUnit - 1) / kPieceUnit;
  BlockPieces best = {0, 0, 0};
  uint64_t least_cost = 0;
  uint64_t pieces = (block_bytes + kLargestPiece - 1) / kLargestPiece;
  for (; pieces <= block_units; ++pieces) {
    const uint64_t piece_units = (block_units + pieces - 1) / pieces;
    if ((block_units + piece_units - 1) / piece_units < pieces) continue;  // some piece would be empty
    const uint64_t piece_bytes = piece_units * kPieceUnit;
    const uint64_t all_pieces = pieces * num_copies;
    const uint64_t cost = (all_pieces + vector_cores - 1) / vector_cores * (piece_bytes + kPieceOverhead);
    if (best.cores != 0 && piece_bytes < kPieceOverhead) break;
    if (best.cores != 0 && cost >= least_cost) continue;
    least_cost = cost;
    best.piece_bytes = static_cast<uint32_t>(piece_bytes);
    best.pieces_per_block = static_cast<uint32_t>(pieces);
    best.cores = all_pieces < vector_cores ? static_cast<uint32_t>(all_pieces) : vector_cores;
  }
  return best;
}

}  // namespace paged_ops
