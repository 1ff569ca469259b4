// Tiling of act_and_mul: from static shapes alone. C++11: host code includes it too.
#pragma once

#include <cstdint>

constexpr uint32_t kActWidthStep = 16;    // a row is whole blocks of 32 bytes
constexpr uint32_t kActMostPart = 2048;   // columns that are computed at a time
constexpr uint32_t kActLeastPart = 128;   // fewer are not worth a core

// `activation`, as ACTIVATIONS of custom_ops/layer_roles.py counts them.
constexpr uint32_t kActSilu = 0;
constexpr uint32_t kActGeluTanh = 1;

struct ActAndMulTiling {
  uint32_t num_tokens;
  uint32_t width;  // of the output
  uint32_t part_width;
  uint32_t parts;  // of a row
  uint32_t activation;
  uint32_t has_bias;
};

struct ActAndMulLaunch {
  ActAndMulTiling tiling;
  uint32_t block_dim;
};

// Parts of one width, fewer columns in the last; so many that every core has one, unless they would be too small.
inline ActAndMulLaunch MakeActAndMulLaunch(uint32_t num_tokens, uint32_t width, uint32_t activation, uint32_t has_bias,
                                           uint32_t vector_cores) {
  uint32_t part = width < kActMostPart ? width : kActMostPart;
  while (part / 2 >= kActLeastPart && static_cast<uint64_t>(num_tokens) * ((width + part - 1) / part) < vector_cores) {
    part = (part / 2 + kActWidthStep - 1) / kActWidthStep * kActWidthStep;
  }
  ActAndMulLaunch launch;
  launch.tiling.num_tokens = num_tokens;
  launch.tiling.width = width;
  launch.tiling.part_width = part;
  launch.tiling.parts = (width + part - 1) / part;
  launch.tiling.activation = activation;
  launch.tiling.has_bias = has_bias;
  const uint64_t units = static_cast<uint64_t>(num_tokens) * launch.tiling.parts;
  launch.block_dim = units < vector_cores ? static_cast<uint32_t>(units) : vector_cores;
  return launch;
}
