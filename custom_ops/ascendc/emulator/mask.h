// The mask register and its mode, for the calls with isSetMask = false.
#pragma once

#include "repeats.h"

namespace AscendC {

// From here on the mask register holds a number of elements, and the repeats follow from it.
inline void SetMaskCount() { ascendc_emulator::CurrentCore().mask_counts = true; }
inline void SetMaskNorm() { ascendc_emulator::CurrentCore().mask_counts = false; }

template <typename T, MaskMode mode = MaskMode::NORMAL>
inline void SetVectorMask(const uint64_t maskHigh, const uint64_t maskLow) {
  auto& core = ascendc_emulator::CurrentCore();
  core.vector_mask[0] = maskLow;
  core.vector_mask[1] = maskHigh;
}

template <typename T, MaskMode mode = MaskMode::NORMAL>
inline void SetVectorMask(int32_t len) {
  auto& core = ascendc_emulator::CurrentCore();
  core.set_api("SetVectorMask");
  if (len < 0) ascendc_emulator::Refuse("mask ", len, ", it must not be negative");
  if (mode == MaskMode::COUNTER || core.mask_counts) {
    core.vector_mask[0] = static_cast<uint64_t>(len);
    core.vector_mask[1] = 0;
  } else {
    ascendc_emulator::FillMask(static_cast<uint64_t>(len), core.vector_mask);
  }
}

inline void ResetMask() {
  auto& core = ascendc_emulator::CurrentCore();
  core.vector_mask[0] = core.vector_mask[1] = FULL_MASK;
}

}  // namespace AscendC
