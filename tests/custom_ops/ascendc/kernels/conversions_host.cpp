// The 16-bit types' conversions, element by element.
#include <cstddef>

#include "half.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void HalvesToFloats(const uint16_t* from, float* to, size_t count) {
  for (size_t i = 0; i < count; ++i) to[i] = ascendc_emulator::HalfToFloat(from[i]);
}

EXPORT void FloatsToHalves(const float* from, uint16_t* to, size_t count) {
  for (size_t i = 0; i < count; ++i) to[i] = half(from[i]).bits;
}

EXPORT void Bfloat16sToFloats(const uint16_t* from, float* to, size_t count) {
  for (size_t i = 0; i < count; ++i) to[i] = ascendc_emulator::Bfloat16ToFloat(from[i]);
}

EXPORT void FloatsToBfloat16s(const float* from, uint16_t* to, size_t count) {
  for (size_t i = 0; i < count; ++i) to[i] = bfloat16_t(from[i]).bits;
}
