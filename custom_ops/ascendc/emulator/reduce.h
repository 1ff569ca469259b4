// Vector instructions that reduce: within a repeat, a block or a pair, and over a whole tensor.
//
// Sums add neighbours in a binary tree, and half rounds every sum, as the chip does.
#pragma once

#include <limits>

#include "vector.h"

namespace ascendc_emulator {

enum class Reduction { kSum, kMax, kMin };

template <typename T, Reduction kind>
Computed<T> Neutral() {
  if (kind == Reduction::kSum) return 0;
  const auto infinity = std::numeric_limits<Computed<T>>::infinity();
  return kind == Reduction::kMax ? -infinity : infinity;
}

template <typename T, Reduction kind>
Computed<T> Combine(Computed<T> a, Computed<T> b) {
  if constexpr (kind == Reduction::kMax) return b > a ? b : a;
  if constexpr (kind == Reduction::kMin) return b < a ? b : a;
  return Element<T>::Load(Element<T>::Store(a + b));
}

// `values` has a power of two of elements and is used up.
template <typename T, Reduction kind>
Computed<T> ReduceTree(Computed<T>* values, uint32_t count) {
  for (; count > 1; count /= 2) {
    for (uint32_t i = 0; i < count / 2; ++i) values[i] = Combine<T, kind>(values[2 * i], values[2 * i + 1]);
  }
  return values[0];
}

// The source of a reduction, loaded repeat by repeat. Elements that the mask leaves out are neutral.
template <typename T, Reduction kind>
class ReductionSource {
 public:
  static constexpr uint32_t kPerRepeat = kRepeatBytes / sizeof(T);

  ReductionSource(VectorInstruction& instruction, const AscendC::LocalTensor<T>& src, const RepeatPlan& plan,
                  uint32_t block_stride, uint32_t repeat_stride)
      : plan_(plan) {
    CheckType<T, half, float>();
    const LocalView& view = src.view();
    view.CheckIn(kUb, "src");
    view.CheckAligned(kBlockBytes, "src");
    const Operand operand{&view, "src", sizeof(T), block_stride, repeat_stride};
    std::vector<Run> runs;
    RunCutter(plan, &operand, 1, &runs);
    values_.assign(plan.repeats * kPerRepeat, Neutral<T, kind>());
    begin_ = view.offset;
    end_ = view.offset;
    for (const Run& run : runs) {
      const uint32_t bytes = run.elements * sizeof(T);
      const uint32_t at = view.Range(run.offsets[0], bytes, "src");
      const ConstSpan<T> data(instruction->Read(kUb, at, bytes));
      end_ = std::max(end_, at + bytes);
      Computed<T>* to = &values_[run.repeat * kPerRepeat + run.first];
      for (uint32_t i = 0; i < run.elements; ++i) to[i] = data.Get(i);
    }
    instruction.Count(plan.repeats);
  }

  uint32_t repeats() const { return plan_.repeats; }

  // Results may not land in the source.
  void CheckApart(uint32_t at, uint32_t bytes) const {
    if (at < end_ && begin_ < at + bytes) {
      Refuse("dst at byte ", at, " of UB lies in src, which is [", begin_, ", ", end_, ")");
    }
  }

  Computed<T>* Repeat(uint32_t repeat) { return &values_[repeat * kPerRepeat]; }

  bool IsActive(uint32_t repeat, uint32_t element) const {
    if (plan_.last_elements != 0 && repeat + 1 == plan_.repeats) return element < plan_.last_elements;
    return plan_.mask[element / 64] >> (element % 64) & 1;
  }

  bool HasActive(uint32_t repeat, uint32_t first, uint32_t count) const {
    for (uint32_t i = first; i < first + count; ++i) {
      if (IsActive(repeat, i)) return true;
    }
    return false;
  }

  // The first of the active elements that are largest or smallest.
  uint32_t BestIndex(uint32_t repeat) const {
    const Computed<T>* values = &values_[repeat * kPerRepeat];
    uint32_t best = kPerRepeat;
    for (uint32_t i = 0; i < kPerRepeat; ++i) {
      if (!IsActive(repeat, i)) continue;
      const bool better = best == kPerRepeat || (kind == Reduction::kMax && values[i] > values[best]) ||
                          (kind == Reduction::kMin && values[i] < values[best]);
      if (better) best = i;
    }
    return best;
  }

 private:
  RepeatPlan plan_;
  uint32_t begin_ = 0, end_ = 0;  // of the source, in UB
  std::vector<Computed<T>> values_;
};

// Writes `count` elements of `dst` from byte `start`.
template <typename T>
void StoreResults(VectorInstruction& instruction, const LocalView& dst, uint64_t start, const Computed<T>* values,
                 uint32_t count) {
  if (count == 0) return;
  const uint32_t bytes = count * sizeof(T);
  const Span<T> to(instruction->Write(kUb, dst.Range(start, bytes, "dst"), bytes));
  for (uint32_t i = 0; i < count; ++i) to.Set(i, values[i]);
}

inline void CheckReductionTarget(const LocalView& dst, uint32_t alignment) {
  dst.CheckIn(kUb, "dst");
  dst.CheckAligned(alignment, "dst");
}

template <typename T>
void RunWholeSum(VectorInstruction& instruction, const AscendC::LocalTensor<T>& dst,
                 const AscendC::LocalTensor<T>& src, const RepeatPlan& plan, int32_t dst_stride, int32_t block_stride,
                 int32_t repeat_stride) {
  CheckReductionTarget(dst.view(), sizeof(T));
  ReductionSource<T, Reduction::kSum> source(instruction, src, plan, block_stride, repeat_stride);
  for (uint32_t repeat = 0; repeat < source.repeats(); ++repeat) {
    const auto sum = ReduceTree<T, Reduction::kSum>(source.Repeat(repeat), source.kPerRepeat);
    const uint64_t at = uint64_t{repeat} * dst_stride * sizeof(T);
    source.CheckApart(dst.view().offset + at, sizeof(T));
    StoreResults<T>(instruction, dst.view(), at, &sum, 1);
  }
}

// An index lies in memory as an unsigned integer of its own width, whatever T is.
template <typename Integer>
void StoreIndex(VectorInstruction& instruction, const LocalView& dst, uint64_t start, uint32_t index) {
  const Integer value = static_cast<Integer>(index);
  std::memcpy(instruction->Write(kUb, dst.Range(start, sizeof(Integer), "dst"), sizeof(Integer)), &value,
              sizeof(Integer));
}

template <typename T, Reduction kind>
void RunWholeBest(VectorInstruction& instruction, const AscendC::LocalTensor<T>& dst,
                  const AscendC::LocalTensor<T>& src, const RepeatPlan& plan, int32_t dst_stride,
                  int32_t block_stride, int32_t repeat_stride, AscendC::ReduceOrder order) {
  using AscendC::ReduceOrder;
  using Index = std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>;
  const uint32_t unit = order == ReduceOrder::ORDER_ONLY_VALUE   ? sizeof(T)
                        : order == ReduceOrder::ORDER_ONLY_INDEX ? sizeof(uint32_t)
                                                                 : 2 * sizeof(T);
  CheckReductionTarget(dst.view(), unit);
  ReductionSource<T, kind> source(instruction, src, plan, block_stride, repeat_stride);
  for (uint32_t repeat = 0; repeat < source.repeats(); ++repeat) {
    const uint32_t index = source.BestIndex(repeat);
    const Computed<T> value = source.Repeat(repeat)[index];
    const uint64_t at = uint64_t{repeat} * dst_stride * unit;
    source.CheckApart(dst.view().offset + at, unit);
    if (order == ReduceOrder::ORDER_ONLY_INDEX) {
      StoreIndex<uint32_t>(instruction, dst.view(), at, index);
      continue;
    }
    const bool index_first = order == ReduceOrder::ORDER_INDEX_VALUE;
    StoreResults<T>(instruction, dst.view(), at + (index_first ? sizeof(T) : 0), &value, 1);
    if (order == ReduceOrder::ORDER_ONLY_VALUE) continue;
    StoreIndex<Index>(instruction, dst.view(), at + (index_first ? 0 : sizeof(T)), index);
  }
}

// Groups of `group` neighbours: 32-byte blocks, or pairs.
template <typename T, Reduction kind>
void RunGroups(VectorInstruction& instruction, const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& src,
               const RepeatPlan& plan, uint32_t group, int32_t dst_stride, int32_t block_stride,
               int32_t repeat_stride) {
  constexpr uint32_t kPerRepeat = kRepeatBytes / sizeof(T);
  const uint32_t results = kPerRepeat / group;
  CheckReductionTarget(dst.view(), std::min<uint32_t>(results * sizeof(T), kBlockBytes));
  ReductionSource<T, kind> source(instruction, src, plan, block_stride, repeat_stride);
  Computed<T> values[kPerRepeat];
  for (uint32_t repeat = 0; repeat < source.repeats(); ++repeat) {
    const uint64_t at = uint64_t{repeat} * dst_stride * results * sizeof(T);
    source.CheckApart(dst.view().offset + at, results * sizeof(T));
    uint32_t stored = 0;
    for (uint32_t i = 0; i < results; ++i) {
      if (!source.HasActive(repeat, i * group, group)) {  // keeps its old value
        StoreResults<T>(instruction, dst.view(), at + stored * sizeof(T), values + stored, i - stored);
        stored = i + 1;
        continue;
      }
      values[i] = ReduceTree<T, kind>(source.Repeat(repeat) + i * group, group);
    }
    StoreResults<T>(instruction, dst.view(), at + stored * sizeof(T), values + stored, results - stored);
  }
}

}  // namespace ascendc_emulator

namespace AscendC {

template <typename T, bool isSetMask = true>
inline void WholeReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const uint64_t mask[],
                           const int32_t repeatTimes, const int32_t dstRepStride, const int32_t srcBlkStride,
                           const int32_t srcRepStride) {
  ascendc_emulator::VectorInstruction instruction("WholeReduceSum");
  const auto plan = ascendc_emulator::PlanBits<isSetMask>(instruction.core(), mask, repeatTimes, sizeof(T));
  ascendc_emulator::RunWholeSum(instruction, dst, src, plan, dstRepStride, srcBlkStride, srcRepStride);
}

template <typename T, bool isSetMask = true>
inline void WholeReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t mask,
                           const int32_t repeatTimes, const int32_t dstRepStride, const int32_t srcBlkStride,
                           const int32_t srcRepStride) {
  ascendc_emulator::VectorInstruction instruction("WholeReduceSum");
  const auto plan = ascendc_emulator::PlanMask<isSetMask>(instruction.core(), mask, repeatTimes, sizeof(T));
  ascendc_emulator::RunWholeSum(instruction, dst, src, plan, dstRepStride, srcBlkStride, srcRepStride);
}

template <typename T, bool isSetMask = true>
inline void RepeatReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t repeat,
                            const int32_t elemsInOneRepeat, const int32_t dstBlkStride, const int32_t srcBlkStride,
                            const int32_t dstRepStride, const int32_t srcRepStride) {
  static_cast<void>(dstBlkStride);  // without effect: a repeat has one result
  ascendc_emulator::VectorInstruction instruction("RepeatReduceSum");
  const auto plan = ascendc_emulator::PlanMask<isSetMask>(instruction.core(), elemsInOneRepeat, repeat, sizeof(T));
  ascendc_emulator::RunWholeSum(instruction, dst, src, plan, dstRepStride, srcBlkStride, srcRepStride);
}

#define ASCENDC_EMULATOR_WHOLE_REDUCE(Name, kind)                                                                     \
  template <typename T, bool isSetMask = true>                                                                        \
  inline void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const uint64_t mask[],                       \
                   const int32_t repeatTimes, const int32_t dstRepStride, const int32_t srcBlkStride,                 \
                   const int32_t srcRepStride, ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX) {                  \
    ascendc_emulator::VectorInstruction instruction(#Name);                                                           \
    const auto plan = ascendc_emulator::PlanBits<isSetMask>(instruction.core(), mask, repeatTimes, sizeof(T));        \
    ascendc_emulator::RunWholeBest<T, kind>(instruction, dst, src, plan, dstRepStride, srcBlkStride, srcRepStride,    \
                                            order);                                                                   \
  }                                                                                                                   \
  template <typename T, bool isSetMask = true>                                                                        \
  inline void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t mask,                          \
                   const int32_t repeatTimes, const int32_t dstRepStride, const int32_t srcBlkStride,                 \
                   const int32_t srcRepStride, ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX) {                  \
    ascendc_emulator::VectorInstruction instruction(#Name);                                                           \
    const auto plan = ascendc_emulator::PlanMask<isSetMask>(instruction.core(), mask, repeatTimes, sizeof(T));        \
    ascendc_emulator::RunWholeBest<T, kind>(instruction, dst, src, plan, dstRepStride, srcBlkStride, srcRepStride,    \
                                            order);                                                                   \
  }

ASCENDC_EMULATOR_WHOLE_REDUCE(WholeReduceMax, ascendc_emulator::Reduction::kMax)
ASCENDC_EMULATOR_WHOLE_REDUCE(WholeReduceMin, ascendc_emulator::Reduction::kMin)
#undef ASCENDC_EMULATOR_WHOLE_REDUCE

#define ASCENDC_EMULATOR_GROUP_REDUCE(Name, kind, group)                                                              \
  template <typename T, bool isSetMask = true>                                                                        \
  inline void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t repeat, const int32_t mask,    \
                   const int32_t dstRepStride, const int32_t srcBlkStride, const int32_t srcRepStride) {              \
    ascendc_emulator::VectorInstruction instruction(#Name);                                                           \
    const auto plan = ascendc_emulator::PlanMask<isSetMask>(instruction.core(), mask, repeat, sizeof(T));             \
    ascendc_emulator::RunGroups<T, kind>(instruction, dst, src, plan, group, dstRepStride, srcBlkStride,              \
                                         srcRepStride);                                                               \
  }                                                                                                                   \
  template <typename T, bool isSetMask = true>                                                                        \
  inline void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t repeat, const uint64_t mask[], \
                   const int32_t dstRepStride, const int32_t srcBlkStride, const int32_t srcRepStride) {              \
    ascendc_emulator::VectorInstruction instruction(#Name);                                                           \
    const auto plan = ascendc_emulator::PlanBits<isSetMask>(instruction.core(), mask, repeat, sizeof(T));             \
    ascendc_emulator::RunGroups<T, kind>(instruction, dst, src, plan, group, dstRepStride, srcBlkStride,              \
                                         srcRepStride);                                                               \
  }

ASCENDC_EMULATOR_GROUP_REDUCE(BlockReduceSum, ascendc_emulator::Reduction::kSum, 32 / sizeof(T))
ASCENDC_EMULATOR_GROUP_REDUCE(BlockReduceMax, ascendc_emulator::Reduction::kMax, 32 / sizeof(T))
ASCENDC_EMULATOR_GROUP_REDUCE(BlockReduceMin, ascendc_emulator::Reduction::kMin, 32 / sizeof(T))
ASCENDC_EMULATOR_GROUP_REDUCE(PairReduceSum, ascendc_emulator::Reduction::kSum, 2)
#undef ASCENDC_EMULATOR_GROUP_REDUCE

}  // namespace AscendC
