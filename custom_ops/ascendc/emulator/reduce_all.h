// ReduceSum, ReduceMax and ReduceMin over a whole tensor. Not single instructions: the vector unit reduces, and the
// scalar unit stores the result and then lets the vector unit and MTE3 go on.
#pragma once

#include "reduce.h"

namespace ascendc_emulator {

// Stores `value` with the scalar unit, after all vector work and before all that follows.
template <typename T>
void StoreByScalar(Core& core, const char* api, const LocalView& dst, Computed<T> value) {
  core.Join(kPipeS, core.Snapshot(kPipeV));
  Instruction store(kPipeS, api);
  Span<T>(store->Write(kUb, dst.Range(0, sizeof(T), "dst"), sizeof(T))).Set(0, value);
  core.Join(kPipeV, core.Snapshot(kPipeS));
  core.Join(kPipeMte3, core.Snapshot(kPipeS));
}

// Elements of the work tensor that the steps of a maximum need: a value and an index for each repeat, and again for
// each step on those.
inline uint32_t WorkBytes(uint32_t repeats, uint32_t element_bytes, bool with_index) {
  const uint32_t per_repeat = kRepeatBytes / element_bytes;
  uint32_t bytes = 0;
  for (uint32_t outputs = 2 * repeats;; outputs = 2 * ((outputs + per_repeat - 1) / per_repeat)) {
    bytes += (outputs * element_bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
    if (!with_index || outputs <= 2) return bytes;
  }
}

inline void ClaimWork(VectorInstruction& instruction, const LocalView& work, uint32_t bytes) {
  work.CheckIn(kUb, "the work tensor");
  work.CheckAligned(kBlockBytes, "the work tensor");
  const uint32_t at = work.Range(0, bytes, "the work tensor");
  std::memset(instruction->Write(kUb, at, bytes), 0xFF, bytes);
}

template <typename T>
void RunReduceSum(VectorInstruction& instruction, const AscendC::LocalTensor<T>& dst,
                  const AscendC::LocalTensor<T>& src, const RepeatPlan& plan, int32_t repeat_stride) {
  CheckReductionTarget(dst.view(), sizeof(T));
  ReductionSource<T, Reduction::kSum> source(instruction, src, plan, 1, repeat_stride);
  Computed<T> sum = 0;
  for (uint32_t repeat = 0; repeat < source.repeats(); ++repeat) {
    const auto part = ReduceTree<T, Reduction::kSum>(source.Repeat(repeat), source.kPerRepeat);
    sum = Combine<T, Reduction::kSum>(sum, part);
  }
  StoreByScalar<T>(instruction.core(), "ReduceSum", dst.view(), sum);
}

template <typename T, Reduction kind>
void RunReduceBest(VectorInstruction& instruction, const AscendC::LocalTensor<T>& dst,
                   const AscendC::LocalTensor<T>& src, const AscendC::LocalTensor<T>& work, const RepeatPlan& plan,
                   int32_t repeat_stride, bool with_index) {
  using Index = std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>;
  CheckReductionTarget(dst.view(), with_index ? 2 * sizeof(T) : sizeof(T));
  ReductionSource<T, kind> source(instruction, src, plan, 1, repeat_stride);
  ClaimWork(instruction, work.view(), WorkBytes(source.repeats(), sizeof(T), with_index));
  uint32_t best_repeat = 0, best_index = source.BestIndex(0);
  Computed<T> best = source.Repeat(0)[best_index];
  for (uint32_t repeat = 1; repeat < source.repeats(); ++repeat) {
    const uint32_t index = source.BestIndex(repeat);
    const Computed<T> value = source.Repeat(repeat)[index];
    if (Combine<T, kind>(best, value) == best) continue;
    best = value;
    best_repeat = repeat;
    best_index = index;
  }
  if (!with_index) {
    StoreByScalar<T>(instruction.core(), kind == Reduction::kMax ? "ReduceMax" : "ReduceMin", dst.view(), best);
    return;
  }
  StoreResults<T>(instruction, dst.view(), 0, &best, 1);
  const uint32_t position = best_repeat * repeat_stride * kBlockBytes / sizeof(T) + best_index;
  StoreIndex<Index>(instruction, dst.view(), sizeof(T), position);
}

// Like PlanMask, but these calls take any number of repeats.
inline void PlanManyRepeats(RepeatPlan* plan, int32_t repeats) {
  if (repeats < 1) Refuse("repeat times ", repeats, ", at least 1 is needed");
  plan->repeats = static_cast<uint32_t>(repeats);
}

}  // namespace ascendc_emulator

namespace AscendC {

template <typename T, bool isSetMask = true>
inline void ReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& work,
                      const int32_t count) {
  static_cast<void>(work);  // unused on this chip
  ascendc_emulator::VectorInstruction instruction("ReduceSum");
  const auto plan = ascendc_emulator::PlanCount(instruction.core(), count, sizeof(T));
  ascendc_emulator::RunReduceSum(instruction, dst, src, plan, 8);
}

template <typename T>
inline void ReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& work,
                      const int32_t mask, const int32_t repeatTimes, const int32_t srcRepStride) {
  ascendc_emulator::VectorInstruction instruction("ReduceSum");
  auto plan = ascendc_emulator::PlanMask<true>(instruction.core(), mask, 1, sizeof(T));
  ascendc_emulator::PlanManyRepeats(&plan, repeatTimes);
  ascendc_emulator::ClaimWork(instruction, work.view(), (plan.repeats * sizeof(T) + 31) / 32 * 32);
  ascendc_emulator::RunReduceSum(instruction, dst, src, plan, srcRepStride);
}

template <typename T>
inline void ReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& work,
                      const uint64_t mask[], const int32_t repeatTimes, const int32_t srcRepStride) {
  ascendc_emulator::VectorInstruction instruction("ReduceSum");
  auto plan = ascendc_emulator::PlanBits<true>(instruction.core(), mask, 1, sizeof(T));
  ascendc_emulator::PlanManyRepeats(&plan, repeatTimes);
  ascendc_emulator::ClaimWork(instruction, work.view(), (plan.repeats * sizeof(T) + 31) / 32 * 32);
  ascendc_emulator::RunReduceSum(instruction, dst, src, plan, srcRepStride);
}

#define ASCENDC_EMULATOR_REDUCE_BEST(Name, kind)                                                                      \
  template <typename T>                                                                                               \
  inline void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& work,                  \
                   const int32_t count, bool calIndex = 0) {                                                          \
    ascendc_emulator::VectorInstruction instruction(#Name);                                                           \
    const auto plan = ascendc_emulator::PlanCount(instruction.core(), count, sizeof(T));                              \
    ascendc_emulator::RunReduceBest<T, kind>(instruction, dst, src, work, plan, 8, calIndex);                         \
  }                                                                                                                   \
  template <typename T>                                                                                               \
  inline void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& work,                  \
                   const int32_t mask, const int32_t repeatTimes, const int32_t srcRepStride, bool calIndex = 0) {    \
    ascendc_emulator::VectorInstruction instruction(#Name);                                                           \
    auto plan = ascendc_emulator::PlanMask<true>(instruction.core(), mask, 1, sizeof(T));                             \
    ascendc_emulator::PlanManyRepeats(&plan, repeatTimes);                                                            \
    ascendc_emulator::RunReduceBest<T, kind>(instruction, dst, src, work, plan, srcRepStride, calIndex);              \
  }                                                                                                                   \
  template <typename T>                                                                                               \
  inline void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& work,                  \
                   const uint64_t mask[], const int32_t repeatTimes, const int32_t srcRepStride,                      \
                   bool calIndex = 0) {                                                                               \
    ascendc_emulator::VectorInstruction instruction(#Name);                                                           \
    auto plan = ascendc_emulator::PlanBits<true>(instruction.core(), mask, 1, sizeof(T));                             \
    ascendc_emulator::PlanManyRepeats(&plan, repeatTimes);                                                            \
    ascendc_emulator::RunReduceBest<T, kind>(instruction, dst, src, work, plan, srcRepStride, calIndex);              \
  }

ASCENDC_EMULATOR_REDUCE_BEST(ReduceMax, ascendc_emulator::Reduction::kMax)
ASCENDC_EMULATOR_REDUCE_BEST(ReduceMin, ascendc_emulator::Reduction::kMin)
#undef ASCENDC_EMULATOR_REDUCE_BEST

}  // namespace AscendC
