// Cast: the type pairs of the chip, and the rounding modes that each has.
#pragma once

#include "elementwise.h"
#include "multiply_add.h"
#include "round.h"

namespace ascendc_emulator {

using RoundModes = uint32_t;

constexpr RoundModes ModeBit(AscendC::RoundMode mode) { return 1u << static_cast<int>(mode); }

constexpr RoundModes kExact = ModeBit(AscendC::RoundMode::CAST_NONE);
constexpr RoundModes kRounding =
    ModeBit(AscendC::RoundMode::CAST_RINT) | ModeBit(AscendC::RoundMode::CAST_FLOOR) |
    ModeBit(AscendC::RoundMode::CAST_CEIL) | ModeBit(AscendC::RoundMode::CAST_ROUND) |
    ModeBit(AscendC::RoundMode::CAST_TRUNC);
constexpr RoundModes kOdd = ModeBit(AscendC::RoundMode::CAST_ODD);

// 0 for a pair that the chip cannot convert.
template <typename To, typename From>
constexpr RoundModes AllowedModes() {
  if constexpr (std::is_same_v<From, half>) {
    if (std::is_same_v<To, float>) return kExact;
    if (IsOneOf<To, int8_t, uint8_t>) return kRounding | kExact;
    if (IsOneOf<To, int16_t, int32_t>) return kRounding;
  } else if constexpr (std::is_same_v<From, bfloat16_t>) {
    if (std::is_same_v<To, float>) return kExact;
    if (std::is_same_v<To, int32_t>) return kRounding;
  } else if constexpr (std::is_same_v<From, float>) {
    if (std::is_same_v<To, half>) return kRounding | kExact | kOdd;
    if (IsOneOf<To, bfloat16_t, float, int16_t, int32_t, int64_t>) return kRounding;
  } else if constexpr (IsOneOf<From, int8_t, uint8_t>) {
    if (std::is_same_v<To, half>) return kExact;
  } else if constexpr (std::is_same_v<From, int16_t>) {
    if (std::is_same_v<To, half>) return kRounding | kExact;
    if (std::is_same_v<To, float>) return kExact;
  } else if constexpr (std::is_same_v<From, int32_t>) {
    if (std::is_same_v<To, float>) return kRounding | kExact;
    if (IsOneOf<To, int16_t, int64_t>) return kExact;
  } else if constexpr (std::is_same_v<From, int64_t>) {
    if (std::is_same_v<To, int32_t>) return kExact;
    if (std::is_same_v<To, float>) return kRounding;
  }
  return 0;
}

inline const char* ModeName(AscendC::RoundMode mode) {
  static const char* const names[] = {"CAST_NONE",  "CAST_RINT",  "CAST_FLOOR", "CAST_CEIL",
                                      "CAST_ROUND", "CAST_TRUNC", "CAST_ODD"};
  return names[static_cast<int>(mode)];
}

template <typename To, typename From>
Computed<To> Convert(Computed<From> value, AscendC::RoundMode mode) {
  const auto effective = mode == AscendC::RoundMode::CAST_NONE ? AscendC::RoundMode::CAST_RINT : mode;
  if constexpr (IsOneOf<To, half, bfloat16_t>) {
    return RoundTo<To>(static_cast<float>(value), effective);
  } else if constexpr (std::is_same_v<To, float>) {
    if constexpr (std::is_same_v<From, float>) return static_cast<float>(RoundWhole(value, effective));
    if constexpr (IsOneOf<From, int32_t, int64_t>) {
      return static_cast<float>(RoundSignificand(static_cast<double>(value), 24, -126, 3.5e38, effective));
    }
    return static_cast<float>(value);
  } else if constexpr (std::is_integral_v<Computed<From>>) {
    return static_cast<To>(std::clamp<int64_t>(value, std::numeric_limits<To>::min(), std::numeric_limits<To>::max()));
  } else {
    return RoundToInteger<To>(value, effective);
  }
}

template <typename To, typename From>
void RunCast(VectorInstruction& instruction, const AscendC::LocalTensor<To>& dst,
             const AscendC::LocalTensor<From>& src, AscendC::RoundMode mode, const RepeatPlan& plan,
             const Strides& strides) {
  constexpr RoundModes allowed = AllowedModes<To, From>();
  if constexpr (allowed == 0) {
    Refuse("there is no conversion from ", TypeName<From>(), " to ", TypeName<To>());
  } else {
    if (!(allowed & ModeBit(mode))) {
      Refuse("round mode ", ModeName(mode), " from ", TypeName<From>(), " to ", TypeName<To>(), " does not exist");
    }
    const bool nearest = mode == AscendC::RoundMode::CAST_NONE || mode == AscendC::RoundMode::CAST_RINT;
    if (std::is_floating_point_v<Computed<To>> && std::is_floating_point_v<Computed<From>> &&
        !(std::is_same_v<To, float> && std::is_same_v<From, float>) && nearest) {
      // Loading and storing convert already, and round to nearest even.
      RunUnary(instruction, dst, src, plan, strides, [](auto value) { return static_cast<Computed<To>>(value); });
    } else {
      RunUnary(instruction, dst, src, plan, strides, [mode](auto value) { return Convert<To, From>(value, mode); });
    }
  }
}

}  // namespace ascendc_emulator

namespace AscendC {

template <typename T1, typename T2, bool isSetMask = true>
inline void Cast(const LocalTensor<T1>& dst, const LocalTensor<T2>& src, const RoundMode& round_mode,
                 const uint64_t mask[], const uint8_t repeatTimes, const UnaryRepeatParams& repeatParams) {
  ascendc_emulator::VectorInstruction instruction("Cast");
  constexpr uint32_t bytes = ascendc_emulator::kWidest<T1, T2>;
  const auto plan = ascendc_emulator::PlanBits<isSetMask>(instruction.core(), mask, repeatTimes, bytes);
  ascendc_emulator::RunCast(instruction, dst, src, round_mode, plan, repeatParams);
}

template <typename T1, typename T2, bool isSetMask = true>
inline void Cast(const LocalTensor<T1>& dst, const LocalTensor<T2>& src, const RoundMode& round_mode,
                 const uint64_t mask, const uint8_t repeatTimes, const UnaryRepeatParams& repeatParams) {
  ascendc_emulator::VectorInstruction instruction("Cast");
  constexpr uint32_t bytes = ascendc_emulator::kWidest<T1, T2>;
  const auto plan = ascendc_emulator::PlanMask<isSetMask>(instruction.core(), mask, repeatTimes, bytes);
  ascendc_emulator::RunCast(instruction, dst, src, round_mode, plan, repeatParams);
}

template <typename T1, typename T2>
inline void Cast(const LocalTensor<T1>& dst, const LocalTensor<T2>& src, const RoundMode& round_mode,
                 const uint32_t calCount) {
  ascendc_emulator::VectorInstruction instruction("Cast");
  const auto plan = ascendc_emulator::PlanCount(instruction.core(), calCount, ascendc_emulator::kWidest<T1, T2>);
  ascendc_emulator::RunCast(instruction, dst, src, round_mode, plan, {sizeof(T1), sizeof(T2)});
}

}  // namespace AscendC
