// One cube_raw launch: how the bytes of each operand go from L1 to L0, and what Mmad and Fixpipe are told.
#pragma once

#include <cstdint>

enum CubeRawLoad : uint32_t { kLoadPlain, kLoadIfTranspose, kLoadWithTranspose };

struct CubeRawOperand {
  uint32_t elements;
  uint32_t load;  // a CubeRawLoad
  uint32_t outer;  // so many instructions, their operands src_step and dst_step elements apart
  uint32_t src_step;
  uint32_t dst_step;
  uint32_t start_index;
  uint32_t repeat;
  uint32_t src_stride;
  uint32_t dst_gap;
  uint32_t dst_frac_gap;
};

struct CubeRawTiling {
  CubeRawOperand a;
  CubeRawOperand b;
  uint32_t m;
  uint32_t n;
  uint32_t k;
  uint32_t k_direction_align;
  uint32_t nz_out;
  uint32_t src_stride;
  uint32_t dst_stride;
};
