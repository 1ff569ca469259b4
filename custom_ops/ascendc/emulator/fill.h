// Vector instructions that fill and move: Duplicate, Brcb, Copy, Gather.
#pragma once

#include "elementwise.h"

namespace ascendc_emulator {

template <typename T>
void CheckMovable() {
  CheckType<T, half, bfloat16_t, int16_t, uint16_t, int32_t, uint32_t, float>();
}

template <typename T>
void RunDuplicate(VectorInstruction& instruction, const AscendC::LocalTensor<T>& dst, const T& value,
                  const RepeatPlan& plan, uint32_t block_stride, uint32_t repeat_stride) {
  CheckMovable<T>();
  const Operand operand{&dst.view(), "dst", sizeof(T), block_stride, repeat_stride};
  instruction.Execute(plan, &operand, 1, false, [value](uint8_t* const* at, uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) std::memcpy(at[0] + i * sizeof(T), &value, sizeof(T));
  });
}

template <typename T>
void RunCopy(VectorInstruction& instruction, const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& src,
             const RepeatPlan& plan, const AscendC::CopyRepeatParams& params) {
  CheckMovable<T>();
  const Operand operands[] = {{&dst.view(), "dst", sizeof(T), params.dstStride, params.dstRepeatSize},
                              {&src.view(), "src", sizeof(T), params.srcStride, params.srcRepeatSize}};
  instruction.Execute(plan, operands, 2, false, [](uint8_t* const* at, uint32_t count) {
    std::memmove(at[0], at[1], count * sizeof(T));
  });
}

// Any source element anywhere, so the source is checked element by element.
template <typename T>
void RunGather(VectorInstruction& instruction, const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& src,
               const AscendC::LocalTensor<uint32_t>& offsets, uint32_t base, const RepeatPlan& plan,
               uint32_t repeat_stride) {
  CheckMovable<T>();
  src.view().CheckIn(kUb, "src");
  src.view().CheckAligned(kBlockBytes, "src");
  if (dst.view().offset == src.view().offset) Refuse("src and dst are the same memory");
  // The offsets of a repeat follow those of the repeat before.
  const Operand operands[] = {{&dst.view(), "dst", sizeof(T), 1, repeat_stride},
                              {&offsets.view(), "srcOffset", 4, 1, plan.elements_per_repeat * 4 / kBlockBytes}};
  Core& core = instruction.core();
  instruction.Execute(plan, operands, 2, false, [&](uint8_t* const* at, uint32_t count) {
    const ConstSpan<uint32_t> wanted(at[1]);
    for (uint32_t i = 0; i < count; ++i) {
      const uint64_t start = uint64_t{base} + wanted.Get(i);
      if (start % sizeof(T) != 0) Refuse("offset ", start, " is not a multiple of ", sizeof(T), " bytes");
      const uint32_t address = src.view().Range(start, sizeof(T), "src");
      std::memcpy(at[0] + i * sizeof(T), core.Read(kUb, address, sizeof(T)), sizeof(T));
    }
  });
}

}  // namespace ascendc_emulator

namespace AscendC {

template <typename T, bool isSetMask = true>
inline void Duplicate(const LocalTensor<T>& dst, const T& scalarValue, uint64_t mask, const uint8_t repeatTimes,
                      const uint16_t dstBlockStride, const uint8_t dstRepeatStride) {
  ascendc_emulator::VectorInstruction instruction("Duplicate");
  const auto plan = ascendc_emulator::PlanMask<isSetMask>(instruction.core(), mask, repeatTimes, sizeof(T));
  ascendc_emulator::RunDuplicate(instruction, dst, scalarValue, plan, dstBlockStride, dstRepeatStride);
}

template <typename T, bool isSetMask = true>
inline void Duplicate(const LocalTensor<T>& dst, const T& scalarValue, uint64_t mask[], const uint8_t repeatTimes,
                      const uint16_t dstBlockStride, const uint8_t dstRepeatStride) {
  ascendc_emulator::VectorInstruction instruction("Duplicate");
  const auto plan = ascendc_emulator::PlanBits<isSetMask>(instruction.core(), mask, repeatTimes, sizeof(T));
  ascendc_emulator::RunDuplicate(instruction, dst, scalarValue, plan, dstBlockStride, dstRepeatStride);
}

template <typename T>
inline void Duplicate(const LocalTensor<T>& dst, const T& scalarValue, const int32_t& calCount) {
  ascendc_emulator::VectorInstruction instruction("Duplicate");
  const auto plan = ascendc_emulator::PlanCount(instruction.core(), calCount, sizeof(T));
  ascendc_emulator::RunDuplicate(instruction, dst, scalarValue, plan, 1, 8);
}

// Each of the next 8 elements fills a block of 32 bytes, in each repeat.
template <typename T>
inline void Brcb(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const uint8_t repeatTimes,
                 const BrcbRepeatParams& repeatParams) {
  ascendc_emulator::VectorInstruction instruction("Brcb");
  ascendc_emulator::CheckMovable<T>();
  ascendc_emulator::CheckRepeats(repeatTimes);
  if (repeatParams.dstBlkStride == 0) ascendc_emulator::Refuse("the block stride of dst is 0");
  const auto& from = src0.view();
  const auto& to = dst.view();
  for (const auto* view : {&from, &to}) {
    view->CheckIn(ascendc_emulator::kUb, view == &from ? "src" : "dst");
    view->CheckAligned(ascendc_emulator::kBlockBytes, view == &from ? "src" : "dst");
  }
  const uint32_t elements = 8u * repeatTimes;
  const uint32_t begin = from.Range(0, elements * sizeof(T), "src");
  std::vector<uint8_t> values(elements * sizeof(T));
  std::memcpy(values.data(), instruction->Read(ascendc_emulator::kUb, begin, elements * sizeof(T)), values.size());
  for (uint32_t i = 0; i < elements; ++i) {
    const uint32_t block = i / 8 * repeatParams.dstRepStride + i % 8 * repeatParams.dstBlkStride;
    const uint32_t target = to.Range(uint64_t{block} * 32, 32, "dst");
    if (target < begin + elements * sizeof(T) && begin < target + 32) {
      ascendc_emulator::Refuse("src and dst share memory");
    }
    uint8_t* bytes = instruction->Write(ascendc_emulator::kUb, target, 32);
    for (uint32_t at = 0; at < 32; at += sizeof(T)) std::memcpy(bytes + at, &values[i * sizeof(T)], sizeof(T));
  }
  instruction.Count(repeatTimes);
}

template <typename T, bool isSetMask = true>
inline void Copy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const uint64_t mask[], const uint8_t repeatTimes,
                 const CopyRepeatParams& repeatParams) {
  ascendc_emulator::VectorInstruction instruction("Copy");
  const auto plan = ascendc_emulator::PlanBits<isSetMask>(instruction.core(), mask, repeatTimes, sizeof(T));
  ascendc_emulator::RunCopy(instruction, dst, src, plan, repeatParams);
}

template <typename T, bool isSetMask = true>
inline void Copy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const uint64_t mask, const uint8_t repeatTimes,
                 const CopyRepeatParams& repeatParams) {
  ascendc_emulator::VectorInstruction instruction("Copy");
  const auto plan = ascendc_emulator::PlanMask<isSetMask>(instruction.core(), mask, repeatTimes, sizeof(T));
  ascendc_emulator::RunCopy(instruction, dst, src, plan, repeatParams);
}

template <typename T>
inline void Gather(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<uint32_t>& srcOffset,
                   const uint32_t srcBaseAddr, const uint64_t mask, const uint8_t repeatTimes,
                   const uint16_t dstRepStride) {
  ascendc_emulator::VectorInstruction instruction("Gather");
  const auto plan = ascendc_emulator::PlanMask<true>(instruction.core(), mask, repeatTimes, sizeof(T));
  ascendc_emulator::RunGather(instruction, dst, src, srcOffset, srcBaseAddr, plan, dstRepStride);
}

template <typename T>
inline void Gather(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<uint32_t>& srcOffset,
                   const uint32_t srcBaseAddr, const uint64_t mask[], const uint8_t repeatTimes,
                   const uint16_t dstRepStride) {
  ascendc_emulator::VectorInstruction instruction("Gather");
  const auto plan = ascendc_emulator::PlanBits<true>(instruction.core(), mask, repeatTimes, sizeof(T));
  ascendc_emulator::RunGather(instruction, dst, src, srcOffset, srcBaseAddr, plan, dstRepStride);
}

template <typename T>
inline void Gather(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<uint32_t>& srcOffset,
                   const uint32_t srcBaseAddr, const uint32_t count) {
  ascendc_emulator::VectorInstruction instruction("Gather");
  const auto plan = ascendc_emulator::PlanCount(instruction.core(), count, sizeof(T));
  ascendc_emulator::RunGather(instruction, dst, src, srcOffset, srcBaseAddr, plan, 8);
}

}  // namespace AscendC
