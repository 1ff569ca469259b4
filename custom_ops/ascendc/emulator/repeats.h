// How a vector instruction walks its operands: repeats of eight 32-byte blocks, masks and strides.
#pragma once

#include <vector>

#include "tensor.h"

namespace ascendc_emulator {

constexpr uint32_t kBlockBytes = 32;
constexpr uint32_t kRepeatBytes = 256;
constexpr int kMaxOperands = 3;

// One operand: where it starts, and its strides in 32-byte blocks.
struct Operand {
  const LocalView* view;
  const char* name;
  uint32_t element_bytes;
  uint32_t block_stride = 1;
  uint32_t repeat_stride = 8;
  bool also_read = false;  // an output that the instruction reads too
};

// Which elements of each repeat take part.
struct RepeatPlan {
  uint32_t elements_per_repeat;
  uint32_t repeats;
  uint64_t mask[2];         // low, high; of every repeat but the last of a count
  uint32_t last_elements;   // of the last repeat; 0: as the mask says
  bool is_count;            // one contiguous stretch

  uint32_t Total() const { return (repeats - 1) * elements_per_repeat + last_elements; }
};

// A stretch of elements that is contiguous in every operand: byte offsets from the operands' starts.
struct Run {
  uint32_t offsets[kMaxOperands];
  uint32_t elements;
  uint32_t repeat;
  uint32_t first;  // its first element, within its repeat
};

// The bytes that an operand's runs span, from its start.
struct Extent {
  uint32_t begin = ~0u, end = 0;
};

inline Extent ExtentOf(const std::vector<Run>& runs, const Operand& operand, int index) {
  Extent extent;
  for (const Run& run : runs) {
    extent.begin = std::min(extent.begin, run.offsets[index]);
    extent.end = std::max(extent.end, run.offsets[index] + run.elements * operand.element_bytes);
  }
  return extent;
}

inline void FillMask(uint64_t count, uint64_t mask[2]) {
  mask[0] = count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
  mask[1] = count <= 64 ? 0 : count >= 128 ? ~uint64_t{0} : (uint64_t{1} << (count - 64)) - 1;
}

// The count form: `count` contiguous elements. It leaves the mask register full and in normal mode.
inline RepeatPlan PlanCount(Core& core, int64_t count, uint32_t element_bytes) {
  const uint32_t per_repeat = kRepeatBytes / element_bytes;
  if (count <= 0) Refuse("count ", count, ", it must be at least 1");
  core.mask_counts = false;
  core.vector_mask[0] = core.vector_mask[1] = ~uint64_t{0};
  const uint32_t repeats = static_cast<uint32_t>((count + per_repeat - 1) / per_repeat);
  RepeatPlan plan{per_repeat, repeats, {}, static_cast<uint32_t>(count - uint64_t{repeats - 1} * per_repeat), true};
  FillMask(per_repeat, plan.mask);
  return plan;
}

inline void CheckRepeats(int64_t repeats) {
  if (repeats < 1 || repeats > 255) Refuse("repeat times ", repeats, ", allowed are 1 to 255");
}

// From the mask register, as it is after the call has set it.
inline RepeatPlan PlanFromRegister(const Core& core, int64_t repeats, uint32_t element_bytes) {
  const uint32_t per_repeat = kRepeatBytes / element_bytes;
  if (core.mask_counts) {  // the register holds a number of elements, and the repeats follow from it
    const uint64_t count = core.vector_mask[0];
    if (count == 0) Refuse("the mask register counts 0 elements");
    const uint32_t needed = static_cast<uint32_t>((count + per_repeat - 1) / per_repeat);
    RepeatPlan plan{per_repeat, needed, {}, static_cast<uint32_t>(count - uint64_t{needed - 1} * per_repeat), false};
    FillMask(per_repeat, plan.mask);
    return plan;
  }
  CheckRepeats(repeats);
  RepeatPlan plan{per_repeat, static_cast<uint32_t>(repeats), {core.vector_mask[0], core.vector_mask[1]}, 0, false};
  if (per_repeat <= 64) {
    plan.mask[1] = 0;
    if (per_repeat < 64) plan.mask[0] &= (uint64_t{1} << per_repeat) - 1;
  }
  if (plan.mask[0] == 0 && plan.mask[1] == 0) Refuse("the mask selects no element");
  return plan;
}

// The form with the first `mask` elements of each repeat.
template <bool kSetsMask>
RepeatPlan PlanMask(Core& core, int64_t mask, int64_t repeats, uint32_t element_bytes) {
  if (kSetsMask) {
    if (core.mask_counts) {
      core.vector_mask[0] = static_cast<uint64_t>(mask);
      core.vector_mask[1] = 0;
    } else {
      const int64_t most = std::min<int64_t>(kRepeatBytes / element_bytes, 128);
      if (mask < 1 || mask > most) {
        Refuse("mask ", mask, ", allowed are 1 to ", most, " elements of ", element_bytes, " bytes");
      }
      FillMask(static_cast<uint64_t>(mask), core.vector_mask);
    }
  }
  return PlanFromRegister(core, repeats, element_bytes);
}

// The form with a bit for each element.
template <bool kSetsMask>
RepeatPlan PlanBits(Core& core, const uint64_t* mask, int64_t repeats, uint32_t element_bytes) {
  if (kSetsMask) {
    if (core.mask_counts) Refuse("a bit mask while SetMaskCount makes the mask a number of elements");
    core.vector_mask[0] = mask[0];
    core.vector_mask[1] = element_bytes >= 4 ? 0 : mask[1];
  }
  return PlanFromRegister(core, repeats, element_bytes);
}

// Cuts the instruction into runs.
class RunCutter {
 public:
  RunCutter(const RepeatPlan& plan, const Operand* operands, int num_operands, std::vector<Run>* runs)
      : plan_(plan), operands_(operands), num_operands_(num_operands), runs_(*runs) {
    runs_.clear();
    if (IsContiguous()) {
      runs_.push_back({{}, plan_.last_elements ? plan_.Total() : plan_.repeats * plan_.elements_per_repeat, 0, 0});
      return;
    }
    block_elements_ = ~0u;
    for (int i = 0; i < num_operands_; ++i) {
      if (operands_[i].block_stride != 1) {
        block_elements_ = std::min(block_elements_, kBlockBytes / operands_[i].element_bytes);
      }
    }
    for (uint32_t repeat = 0; repeat < plan_.repeats; ++repeat) CutRepeat(repeat);
  }

 private:
  bool IsContiguous() const {
    if (plan_.is_count) return true;
    uint64_t full[2];
    FillMask(plan_.elements_per_repeat, full);
    if (plan_.mask[0] != full[0] || plan_.mask[1] != full[1]) return false;
    for (int i = 0; i < num_operands_; ++i) {
      const Operand& operand = operands_[i];
      if (operand.block_stride != 1) return false;
      if (plan_.repeats > 1 &&
          operand.repeat_stride * kBlockBytes != plan_.elements_per_repeat * operand.element_bytes) {
        return false;
      }
    }
    return true;
  }

  void CutRepeat(uint32_t repeat) {
    uint64_t mask[2] = {plan_.mask[0], plan_.mask[1]};
    if (plan_.last_elements != 0 && repeat + 1 == plan_.repeats) FillMask(plan_.last_elements, mask);
    const uint32_t end = plan_.elements_per_repeat;
    for (uint32_t element = NextSet(mask, 0); element < end; element = NextSet(mask, element)) {
      const uint32_t border = block_elements_ == ~0u ? end : (element / block_elements_ + 1) * block_elements_;
      const uint32_t stop = std::min(std::min(border, end), NextClear(mask, element));
      Run run{{}, stop - element, repeat, element};
      for (int i = 0; i < num_operands_; ++i) run.offsets[i] = OffsetOf(operands_[i], repeat, element);
      runs_.push_back(run);
      element = stop;
    }
  }

  // The first element from `element` on whose bit is set, 128 if none is.
  static uint32_t NextSet(const uint64_t mask[2], uint32_t element) {
    for (; element < 128; element = (element / 64 + 1) * 64) {
      const uint64_t rest = mask[element / 64] >> (element % 64);
      if (rest != 0) return element + static_cast<uint32_t>(__builtin_ctzll(rest));
    }
    return 128;
  }

  static uint32_t NextClear(const uint64_t mask[2], uint32_t element) {
    const uint64_t inverse[2] = {~mask[0], ~mask[1]};
    return NextSet(inverse, element);
  }

  static uint32_t OffsetOf(const Operand& operand, uint32_t repeat, uint32_t element) {
    const uint32_t per_block = kBlockBytes / operand.element_bytes;
    const uint32_t block = repeat * operand.repeat_stride + element / per_block * operand.block_stride;
    return block * kBlockBytes + element % per_block * operand.element_bytes;
  }

  const RepeatPlan& plan_;
  const Operand* operands_;
  int num_operands_;
  std::vector<Run>& runs_;
  uint32_t block_elements_ = ~0u;
};

}  // namespace ascendc_emulator
