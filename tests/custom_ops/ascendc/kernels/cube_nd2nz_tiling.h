// One cube_nd2nz launch: Nd2NzParams, and how much of L1 is filled before and shown after.
#pragma once

#include <cstdint>

struct CubeNd2NzTiling {
  uint32_t elements;  // of the source
  uint32_t shown;     // elements of L1
  uint32_t nd_num;
  uint32_t n_value;
  uint32_t d_value;
  uint32_t src_nd_matrix_stride;
  uint32_t src_d_value;
  uint32_t dst_nz_c0_stride;
  uint32_t dst_nz_n_stride;
  uint32_t dst_nz_matrix_stride;
};
