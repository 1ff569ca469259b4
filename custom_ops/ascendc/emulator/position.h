// Logical positions: the memory behind each, and its name.
#pragma once

#include "launch.h"
#include "types.h"

namespace ascendc_emulator {

inline const char* PositionName(AscendC::TPosition position) {
  static const char* const names[] = {"GM",  "A1",    "A2",     "B1",      "B2",  "C1",   "C2",        "CO1",
                                      "CO2", "VECIN", "VECOUT", "VECCALC", "SPM", "TSCM", "C2PIPE2GM", "C2PIPE2LOCAL"};
  return position < AscendC::TPosition::MAX ? names[static_cast<int>(position)] : "MAX";
}

constexpr bool IsGm(AscendC::TPosition position) {
  return position == AscendC::TPosition::GM || position == AscendC::TPosition::CO2;
}

constexpr MemoryId MemoryOf(AscendC::TPosition position) {
  using AscendC::TPosition;
  switch (position) {
    case TPosition::A1:
    case TPosition::B1:
    case TPosition::C1:
    case TPosition::SPM:
    case TPosition::TSCM:
      return kL1;
    case TPosition::A2:
      return kL0A;
    case TPosition::B2:
      return kL0B;
    case TPosition::C2:
      return kBias;
    case TPosition::CO1:
      return kL0C;
    case TPosition::C2PIPE2GM:
      return kFixpipe;
    default:
      return kUb;
  }
}

}  // namespace ascendc_emulator
