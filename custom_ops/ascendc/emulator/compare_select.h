// Compare writes a bit for each element; Select picks by such bits.
#pragma once

#include "elementwise.h"

namespace ascendc_emulator {

// Select takes 32 bytes here for itself, whatever the kernel keeps there.
constexpr uint32_t kSelectScratch = 184 * 1024;

template <typename T>
bool Compared(T a, T b, AscendC::CMPMODE mode) {
  using AscendC::CMPMODE;
  switch (mode) {
    case CMPMODE::LT:
      return a < b;
    case CMPMODE::GT:
      return a > b;
    case CMPMODE::EQ:
      return a == b;
    case CMPMODE::LE:
      return a <= b;
    case CMPMODE::GE:
      return a >= b;
    default:
      return a != b;
  }
}

template <typename T>
void CheckCompareType(AscendC::CMPMODE mode) {
  CheckType<T, half, float, int32_t>();
  if (std::is_same_v<T, int32_t> && mode != AscendC::CMPMODE::EQ) Refuse("int32_t compares with CMPMODE::EQ only");
}

// Bits of whole repeats, one repeat's after the other's. `other` gives the right-hand side of a run.
template <typename T>
void RunCompare(VectorInstruction& instruction, const LocalView& dst, const AscendC::LocalTensor<T>& src0,
                const AscendC::LocalTensor<T>* src1, T scalar, AscendC::CMPMODE mode, const RepeatPlan& plan,
                const Strides& strides) {
  CheckCompareType<T>(mode);
  dst.CheckIn(kUb, "dst");
  dst.CheckAligned(kBlockBytes, "dst");
  const Operand operands[] = {{&src0.view(), "src0", sizeof(T), strides.block[1], strides.repeat[1]},
                              {src1 ? &src1->view() : &src0.view(), "src1", sizeof(T), strides.block[src1 ? 2 : 1],
                               strides.repeat[src1 ? 2 : 1]}};
  std::vector<Run> runs;
  RunCutter(plan, operands, 2, &runs);
  const uint32_t bytes = plan.repeats * plan.elements_per_repeat / 8;
  std::vector<uint8_t> bits(bytes, 0);
  for (const Operand& operand : operands) {
    operand.view->CheckIn(kUb, operand.name);
    operand.view->CheckAligned(kBlockBytes, operand.name);
  }
  for (const Run& run : runs) {
    const uint32_t size = run.elements * sizeof(T);
    const ConstSpan<T> a(instruction->Read(kUb, operands[0].view->Range(run.offsets[0], size, "src0"), size));
    const ConstSpan<T> b(instruction->Read(kUb, operands[1].view->Range(run.offsets[1], size, "src1"), size));
    for (uint32_t i = 0; i < run.elements; ++i) {
      const auto right = src1 ? b.Get(i) : static_cast<Computed<T>>(scalar);
      const uint32_t bit = run.repeat * plan.elements_per_repeat + run.first + i;
      if (Compared(a.Get(i), right, mode)) bits[bit / 8] |= static_cast<uint8_t>(1u << (bit % 8));
    }
  }
  std::memcpy(instruction->Write(kUb, dst.Range(0, bytes, "dst"), bytes), bits.data(), bytes);
  instruction.Count(plan.repeats);
}

// Compare ignores its mask on this chip: whole repeats.
template <typename T>
RepeatPlan PlanWholeRepeats(int64_t repeats) {
  CheckRepeats(repeats);
  RepeatPlan plan{kRepeatBytes / sizeof(T), static_cast<uint32_t>(repeats), {}, 0, false};
  FillMask(plan.elements_per_repeat, plan.mask);
  return plan;
}

template <typename T>
RepeatPlan PlanCompareCount(Core& core, int64_t count) {
  if (count * sizeof(T) % kRepeatBytes != 0) {
    Refuse("count ", count, " of ", sizeof(T), "-byte elements, it must fill a multiple of 256 bytes");
  }
  return PlanCount(core, count, sizeof(T));
}

// src1 is null in the scalar mode.
template <typename T>
void RunSelect(VectorInstruction& instruction, const AscendC::LocalTensor<T>& dst, const LocalView& selected,
               const AscendC::LocalTensor<T>& src0, const AscendC::LocalTensor<T>* src1, T scalar,
               AscendC::SELMODE mode, const RepeatPlan& plan, const Strides& strides) {
  CheckType<T, half, float>();
  Core& core = instruction.core();
  const bool bits_follow = mode != AscendC::SELMODE::VSEL_CMPMASK_SPR;
  if ((mode == AscendC::SELMODE::VSEL_TENSOR_SCALAR_MODE) != (src1 == nullptr)) {
    Refuse("the select mode and the kind of src1 do not fit");
  }
  if (bits_follow && core.pool_end[kUb] > kSelectScratch) {
    Refuse("Select keeps 32 bytes at ", kSelectScratch, " of UB, and buffers reach to ", core.pool_end[kUb]);
  }
  const LocalView* views[] = {&dst.view(), &selected, &src0.view(), src1 ? &src1->view() : &src0.view()};
  const char* const names[] = {"dst", "selMask", "src0", "src1"};
  for (int i = 0; i < 4; ++i) {
    views[i]->CheckIn(kUb, names[i]);
    views[i]->CheckAligned(kBlockBytes, names[i]);
  }
  const Operand operands[] = {
      {&dst.view(), "dst", sizeof(T), strides.block[0], strides.repeat[0]},
      {&src0.view(), "src0", sizeof(T), strides.block[1], strides.repeat[1]},
      {views[3], "src1", sizeof(T), strides.block[src1 ? 2 : 1], strides.repeat[src1 ? 2 : 1]}};
  std::vector<Run> runs;
  RunCutter(plan, operands, 3, &runs);
  Extent extents[kMaxOperands];
  for (int i = 0; i < 3; ++i) extents[i] = ExtentOf(runs, operands[i], i);
  for (int i = 1; i < 3; ++i) OverlapCheck(runs, operands, extents, i, false);
  const uint32_t mask_bytes = plan.elements_per_repeat / 8 * (bits_follow ? plan.repeats : 1);
  const uint32_t used_bytes = plan.is_count && bits_follow ? (plan.Total() + 7) / 8 : mask_bytes;
  const uint32_t mask_at = selected.Range(0, used_bytes, "selMask");
  const uint8_t* read = core.Read(kUb, mask_at, used_bytes);
  const std::vector<uint8_t> bits(read, read + used_bytes);
  for (const Run& run : runs) {
    const uint32_t size = run.elements * sizeof(T);
    const uint8_t* a = core.Read(kUb, src0.view().Range(run.offsets[1], size, "src0"), size);
    const uint8_t* b = src1 ? core.Read(kUb, src1->view().Range(run.offsets[2], size, "src1"), size) : nullptr;
    uint8_t* to = core.Write(kUb, dst.view().Range(run.offsets[0], size, "dst"), size);
    for (uint32_t i = 0; i < run.elements; ++i) {
      uint32_t bit = run.repeat * plan.elements_per_repeat + run.first + i;
      if (!bits_follow) bit %= plan.elements_per_repeat;
      const bool first = bits[bit / 8] >> (bit % 8) & 1;
      const void* from = first ? a + i * sizeof(T) : b ? b + i * sizeof(T) : static_cast<const void*>(&scalar);
      std::memmove(to + i * sizeof(T), from, sizeof(T));
    }
  }
  instruction.Count(plan.repeats);
}

template <typename U>
void CheckBitsType() {
  CheckType<U, uint8_t, int8_t, uint16_t, uint32_t, uint64_t>();
}

}  // namespace ascendc_emulator

namespace AscendC {

template <typename T, typename U, bool isSetMask = true>
inline void Compare(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, CMPMODE cmpMode,
                    const uint64_t mask[], uint8_t repeatTimes, const BinaryRepeatParams& repeatParams) {
  static_cast<void>(mask);
  Compare<T, U, isSetMask>(dst, src0, src1, cmpMode, uint64_t{0}, repeatTimes, repeatParams);
}

template <typename T, typename U, bool isSetMask = true>
inline void Compare(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, CMPMODE cmpMode,
                    const uint64_t mask, uint8_t repeatTimes, const BinaryRepeatParams& repeatParams) {
  static_cast<void>(mask);
  ascendc_emulator::VectorInstruction instruction("Compare");
  const auto plan = ascendc_emulator::PlanWholeRepeats<T>(repeatTimes);
  ascendc_emulator::RunCompare<T>(instruction, dst.view(), src0, &src1, T(0), cmpMode, plan, repeatParams);
}

template <typename T, typename U>
inline void Compare(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, CMPMODE cmpMode,
                    uint32_t calCount) {
  ascendc_emulator::VectorInstruction instruction("Compare");
  const auto plan = ascendc_emulator::PlanCompareCount<T>(instruction.core(), calCount);
  ascendc_emulator::RunCompare<T>(instruction, dst.view(), src0, &src1, T(0), cmpMode, plan, {});
}

template <typename T, typename U, bool isSetMask = true>
inline void CompareScalar(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const T src1Scalar, CMPMODE cmpMode,
                          const uint64_t mask, uint8_t repeatTimes, const UnaryRepeatParams& repeatParams) {
  static_cast<void>(mask);
  ascendc_emulator::VectorInstruction instruction("CompareScalar");
  const auto plan = ascendc_emulator::PlanWholeRepeats<T>(repeatTimes);
  ascendc_emulator::RunCompare<T>(instruction, dst.view(), src0, nullptr, src1Scalar, cmpMode, plan, repeatParams);
}

template <typename T, typename U, bool isSetMask = true>
inline void CompareScalar(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const T src1Scalar, CMPMODE cmpMode,
                          const uint64_t mask[], uint8_t repeatTimes, const UnaryRepeatParams& repeatParams) {
  static_cast<void>(mask);
  CompareScalar<T, U, isSetMask>(dst, src0, src1Scalar, cmpMode, uint64_t{0}, repeatTimes, repeatParams);
}

template <typename T, typename U>
inline void CompareScalar(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const T src1Scalar, CMPMODE cmpMode,
                          uint32_t calCount) {
  ascendc_emulator::VectorInstruction instruction("CompareScalar");
  const auto plan = ascendc_emulator::PlanCompareCount<T>(instruction.core(), calCount);
  ascendc_emulator::RunCompare<T>(instruction, dst.view(), src0, nullptr, src1Scalar, cmpMode, plan, {});
}

// Selection between two tensors, modes 0 and 2.
template <typename T, typename U, bool isSetMask = true>
inline void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0,
                   const LocalTensor<T>& src1, SELMODE selMode, uint64_t mask[], uint8_t repeatTimes,
                   const BinaryRepeatParams& repeatParams) {
  ascendc_emulator::VectorInstruction instruction("Select");
  ascendc_emulator::CheckBitsType<U>();
  const auto plan = ascendc_emulator::PlanBits<true>(instruction.core(), mask, repeatTimes, sizeof(T));
  ascendc_emulator::RunSelect<T>(instruction, dst, selMask.view(), src0, &src1, T(0), selMode, plan, repeatParams);
}

template <typename T, typename U, bool isSetMask = true>
inline void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0,
                   const LocalTensor<T>& src1, SELMODE selMode, uint64_t mask, uint8_t repeatTimes,
                   const BinaryRepeatParams& repeatParams) {
  ascendc_emulator::VectorInstruction instruction("Select");
  ascendc_emulator::CheckBitsType<U>();
  const auto plan = ascendc_emulator::PlanMask<true>(instruction.core(), mask, repeatTimes, sizeof(T));
  ascendc_emulator::RunSelect<T>(instruction, dst, selMask.view(), src0, &src1, T(0), selMode, plan, repeatParams);
}

template <typename T, typename U>
inline void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0,
                   const LocalTensor<T>& src1, SELMODE selMode, uint32_t calCount) {
  ascendc_emulator::VectorInstruction instruction("Select");
  ascendc_emulator::CheckBitsType<U>();
  const auto plan = ascendc_emulator::PlanCount(instruction.core(), calCount, sizeof(T));
  ascendc_emulator::RunSelect<T>(instruction, dst, selMask.view(), src0, &src1, T(0), selMode, plan, {});
}

// Selection between a tensor and a scalar, mode 1.
template <typename T, typename U, bool isSetMask = true>
inline void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0, T src1,
                   SELMODE selMode, uint64_t mask[], uint8_t repeatTimes, const BinaryRepeatParams& repeatParams) {
  ascendc_emulator::VectorInstruction instruction("Select");
  ascendc_emulator::CheckBitsType<U>();
  const auto plan = ascendc_emulator::PlanBits<true>(instruction.core(), mask, repeatTimes, sizeof(T));
  ascendc_emulator::RunSelect<T>(instruction, dst, selMask.view(), src0, nullptr, src1, selMode, plan, repeatParams);
}

template <typename T, typename U, bool isSetMask = true>
inline void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0, T src1,
                   SELMODE selMode, uint64_t mask, uint8_t repeatTimes, const BinaryRepeatParams& repeatParams) {
  ascendc_emulator::VectorInstruction instruction("Select");
  ascendc_emulator::CheckBitsType<U>();
  const auto plan = ascendc_emulator::PlanMask<true>(instruction.core(), mask, repeatTimes, sizeof(T));
  ascendc_emulator::RunSelect<T>(instruction, dst, selMask.view(), src0, nullptr, src1, selMode, plan, repeatParams);
}

template <typename T, typename U>
inline void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0, T src1,
                   SELMODE selMode, uint32_t calCount) {
  ascendc_emulator::VectorInstruction instruction("Select");
  ascendc_emulator::CheckBitsType<U>();
  const auto plan = ascendc_emulator::PlanCount(instruction.core(), calCount, sizeof(T));
  ascendc_emulator::RunSelect<T>(instruction, dst, selMask.view(), src0, nullptr, src1, selMode, plan, {});
}

}  // namespace AscendC
