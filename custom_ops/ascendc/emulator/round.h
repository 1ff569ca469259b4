// The rounding modes of Cast.
#pragma once

#include <cmath>
#include <limits>

#include "element.h"

namespace ascendc_emulator {

// `value` without its fraction.
inline double RoundWhole(double value, AscendC::RoundMode mode) {
  using AscendC::RoundMode;
  switch (mode) {
    case RoundMode::CAST_FLOOR:
      return std::floor(value);
    case RoundMode::CAST_CEIL:
      return std::ceil(value);
    case RoundMode::CAST_ROUND:
      return std::round(value);
    case RoundMode::CAST_TRUNC:
      return std::trunc(value);
    default:
      return std::nearbyint(value);
  }
}

// To a float type with `digits` bits of significand, the implicit one included, and smallest exponent `lowest` of a
// normal number. Values past the largest become infinite or the largest, as the mode says.
inline double RoundSignificand(double value, int digits, int lowest, double largest, AscendC::RoundMode mode) {
  using AscendC::RoundMode;
  if (value == 0 || !std::isfinite(value)) return value;
  int exponent;
  std::frexp(value, &exponent);  // value = m * 2^exponent, 0.5 <= m < 1
  const int unit = std::max(exponent - 1, lowest) - (digits - 1);
  const double scaled = std::ldexp(value, -unit);
  double whole = RoundWhole(scaled, mode);
  if (mode == RoundMode::CAST_ODD && std::trunc(scaled) != scaled) {
    whole = std::trunc(scaled);
    if (std::fmod(whole, 2.0) == 0) whole += value > 0 ? 1 : -1;
  }
  const double rounded = std::ldexp(whole, unit);
  if (std::fabs(rounded) <= largest) return rounded;
  const bool toward_zero = mode == RoundMode::CAST_TRUNC || mode == RoundMode::CAST_ODD ||
                           (mode == RoundMode::CAST_FLOOR && value > 0) || (mode == RoundMode::CAST_CEIL && value < 0);
  return std::copysign(toward_zero ? largest : std::numeric_limits<double>::infinity(), value);
}

template <typename Float>
float RoundTo(float value, AscendC::RoundMode mode) {
  if (std::is_same_v<Float, half>) return static_cast<float>(RoundSignificand(value, 11, -14, 65504.0, mode));
  return static_cast<float>(RoundSignificand(value, 8, -126, BitsFloat(0x7F7F0000u), mode));
}

// Saturates at the ends of the type; a NaN becomes 0.
template <typename Integer>
Integer RoundToInteger(double value, AscendC::RoundMode mode) {
  if (std::isnan(value)) return 0;
  const double whole = RoundWhole(value, mode);
  if (whole <= static_cast<double>(std::numeric_limits<Integer>::min())) return std::numeric_limits<Integer>::min();
  if (whole >= static_cast<double>(std::numeric_limits<Integer>::max())) return std::numeric_limits<Integer>::max();
  return static_cast<Integer>(whole);
}

}  // namespace ascendc_emulator
