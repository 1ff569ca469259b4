// What one launch of cube_matmul computes.
#pragma once

#include <cstdint>

struct CubeMatmulTiling {
  uint32_t batch;
  uint32_t m;
  uint32_t n;
  uint32_t k;
  uint32_t k_step;
  uint32_t b_is_transposed;
};
