// The chip's 16-bit floating types. Conversion from float rounds to nearest even, as the scalar unit and CAST_RINT do.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#ifdef __F16C__
#include <immintrin.h>
#endif

namespace ascendc_emulator {

inline uint32_t FloatBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float BitsFloat(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float HalfToFloat(uint16_t bits) {
#ifdef __F16C__
  return _cvtsh_ss(bits);
#else
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t magnitude = bits & 0x7FFFu;
  if (magnitude >= 0x7C00u) return BitsFloat(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
  // Scaling by 2^112 turns the half's exponent into a float's, subnormal halves included.
  return BitsFloat(sign | FloatBits(BitsFloat(magnitude << 13) * BitsFloat(0x77800000u)));
#endif
}

inline uint16_t FloatToHalf(float value) {
#ifdef __F16C__
  return static_cast<uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT));
#else
  const uint32_t bits = FloatBits(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return sign | 0x7E00u | static_cast<uint16_t>(magnitude >> 13 & 0x3FFu);
  if (magnitude >= 0x477FF000u) return sign | 0x7C00u;  // rounds past the largest half
  if (magnitude < 0x38800000u) {
    // A subnormal half counts in units of 2^-24: adding 0.5 lets the float unit round to that unit.
    return sign | static_cast<uint16_t>(FloatBits(BitsFloat(magnitude) + 0.5f) - FloatBits(0.5f));
  }
  const uint32_t odd = magnitude >> 13 & 1;
  return sign | static_cast<uint16_t>((magnitude - 0x38000000u + 0xFFFu + odd) >> 13);
#endif
}

inline float Bfloat16ToFloat(uint16_t bits) { return BitsFloat(uint32_t{bits} << 16); }

inline uint16_t FloatToBfloat16(float value) {
  const uint32_t bits = FloatBits(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);  // stays a NaN
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}

}  // namespace ascendc_emulator

struct half {
  half() = default;
  template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>>
  half(T value) : bits(ascendc_emulator::FloatToHalf(static_cast<float>(value))) {}
  operator float() const { return ascendc_emulator::HalfToFloat(bits); }

  uint16_t bits;
};

struct bfloat16_t {
  bfloat16_t() = default;
  explicit bfloat16_t(float value) : bits(ascendc_emulator::FloatToBfloat16(value)) {}
  explicit operator float() const { return ascendc_emulator::Bfloat16ToFloat(bits); }

  uint16_t bits;
};

namespace AscendC {
inline float ToFloat(const bfloat16_t& value) { return static_cast<float>(value); }
inline bfloat16_t ToBfloat16(const float& value) { return bfloat16_t(value); }
}  // namespace AscendC
