// One cube_neighbours launch: 16 floats a vector core.
#pragma once

#include <cstdint>

struct CubeNeighboursTiling {
  uint32_t cores;
  uint32_t inside_block;  // 1: the neighbour is the other AIV of the block, 0: the next AIV of the launch
};
