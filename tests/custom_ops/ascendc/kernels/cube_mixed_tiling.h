// What one launch of cube_mixed computes, and the parts of its workspace.
#pragma once

#include <cstdint>

struct CubeMixedTiling {
  uint32_t tasks;
  uint32_t m;  // 2 to 16
  uint32_t n;  // a multiple of 16, at most 128
  uint32_t d;  // a multiple of 16, at most 128
};

// Bytes of workspace of one block: two slots of scores (float), then two of weights (half).
constexpr uint32_t CubeMixedScoresBytes(const CubeMixedTiling& plan) { return plan.m * plan.n * sizeof(float); }
constexpr uint32_t CubeMixedBlockBytes(const CubeMixedTiling& plan) { return 3 * CubeMixedScoresBytes(plan); }
