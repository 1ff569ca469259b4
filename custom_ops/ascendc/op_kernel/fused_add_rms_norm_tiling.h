// Tiling of fused_add_rms_norm: from static shapes alone. C++11: host code includes it too.
#pragma once

#include <cstdint>

// A row of floats stays in UB, 128 KiB of it; the pieces on the way in and out take 48 KiB.
constexpr uint32_t kNormMostWidth = 32768;
constexpr uint32_t kNormWidthStep = 16;  // a row is whole blocks of 32 bytes

// Bits of `options`.
constexpr uint32_t kNormAdds = 1;        // x += added comes first
constexpr uint32_t kNormOfAdded = 2;     // and what is added is normed

struct FusedAddRmsNormTiling {
  uint32_t num_tokens;
  uint32_t width;
  uint32_t options;
  float epsilon;
  float residual_scale;
};

struct FusedAddRmsNormLaunch {
  FusedAddRmsNormTiling tiling;
  uint32_t block_dim;
};

inline FusedAddRmsNormLaunch MakeFusedAddRmsNormLaunch(const FusedAddRmsNormTiling& tiling, uint32_t vector_cores) {
  FusedAddRmsNormLaunch launch;
  launch.tiling = tiling;
  launch.block_dim = tiling.num_tokens < vector_cores ? tiling.num_tokens : vector_cores;
  return launch;
}
