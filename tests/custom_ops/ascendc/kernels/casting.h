// The type pairs that the casting kernel knows, target first.
#pragma once

#include <cstdint>

#define CAST_PAIRS(X)                                                                                               \
  X(float, half) X(half, float) X(float, bfloat16_t) X(bfloat16_t, float) X(float, float) X(int32_t, float)         \
  X(int16_t, float) X(int32_t, half) X(int16_t, half) X(int8_t, half) X(uint8_t, half) X(int32_t, bfloat16_t)       \
  X(half, int8_t) X(half, uint8_t) X(half, int16_t) X(float, int16_t) X(float, int32_t) X(int16_t, int32_t)         \
  X(int64_t, int32_t) X(int32_t, int64_t) X(float, int64_t) X(int64_t, float)

struct CastingTiling {
  int32_t pair;
  int32_t mode;
  int32_t form;
};
