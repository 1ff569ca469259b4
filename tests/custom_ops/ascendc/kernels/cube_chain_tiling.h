// One cube_chain launch: A [m,k], B [n,k], D [p,n] of half; all but m multiples of 16, none above 64.
#pragma once

#include <cstdint>

struct CubeChainTiling {
  uint32_t m;
  uint32_t k;
  uint32_t n;
  uint32_t p;
};
