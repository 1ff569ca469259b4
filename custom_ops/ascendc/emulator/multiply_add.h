// Vector instructions whose output is also an input: Axpy, MulAddDst, FusedMulAdd. Source half with output float works
// on 64 elements a repeat.
#pragma once

#include "elementwise.h"

namespace ascendc_emulator {

template <typename D, typename S>
constexpr uint32_t kWidest = sizeof(D) > sizeof(S) ? sizeof(D) : sizeof(S);

template <typename D, typename S>
void CheckMultiplyAddTypes() {
  constexpr bool allowed =
      (std::is_same_v<D, S> && IsOneOf<D, half, float>) || (std::is_same_v<D, float> && std::is_same_v<S, half>);
  if (!allowed) Refuse("dst ", TypeName<D>(), " with src ", TypeName<S>(), " is not supported by this instruction");
}

template <typename T, typename U>
void RunAxpy(VectorInstruction& instruction, const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<U>& src,
             const U& value, const RepeatPlan& plan, const Strides& strides) {
  CheckMultiplyAddTypes<T, U>();
  const auto scalar = static_cast<Computed<T>>(static_cast<Computed<U>>(value));
  RunIntoUnary(instruction, dst, src, plan, strides, [scalar](auto into, auto a) { return a * scalar + into; });
}

template <typename T, typename U>
void RunMulAddDst(VectorInstruction& instruction, const AscendC::LocalTensor<T>& dst,
                  const AscendC::LocalTensor<U>& src0, const AscendC::LocalTensor<U>& src1, const RepeatPlan& plan,
                  const Strides& strides) {
  CheckMultiplyAddTypes<T, U>();
  RunInto(instruction, dst, src0, src1, plan, strides, [](auto into, auto a, auto b) { return a * b + into; });
}

template <typename T>
void RunFusedMulAdd(VectorInstruction& instruction, const AscendC::LocalTensor<T>& dst,
                    const AscendC::LocalTensor<T>& src0, const AscendC::LocalTensor<T>& src1, const RepeatPlan& plan,
                    const Strides& strides) {
  CheckType<T, half, float>();
  RunInto(instruction, dst, src0, src1, plan, strides, [](auto into, auto a, auto b) { return a * into + b; });
}

}  // namespace ascendc_emulator

namespace AscendC {

// dst = src * scalar + dst
template <typename T, typename U, bool isSetMask = true>
inline void Axpy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const U& scalarValue, uint64_t mask,
                 const uint8_t repeatTimes, const UnaryRepeatParams& repeatParams) {
  ascendc_emulator::VectorInstruction instruction("Axpy");
  constexpr uint32_t bytes = ascendc_emulator::kWidest<T, U>;
  const auto plan = ascendc_emulator::PlanMask<isSetMask>(instruction.core(), mask, repeatTimes, bytes);
  ascendc_emulator::RunAxpy(instruction, dst, src, scalarValue, plan, repeatParams);
}

template <typename T, typename U, bool isSetMask = true>
inline void Axpy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const U& scalarValue, uint64_t mask[],
                 const uint8_t repeatTimes, const UnaryRepeatParams& repeatParams) {
  ascendc_emulator::VectorInstruction instruction("Axpy");
  constexpr uint32_t bytes = ascendc_emulator::kWidest<T, U>;
  const auto plan = ascendc_emulator::PlanBits<isSetMask>(instruction.core(), mask, repeatTimes, bytes);
  ascendc_emulator::RunAxpy(instruction, dst, src, scalarValue, plan, repeatParams);
}

template <typename T, typename U>
inline void Axpy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const U& scalarValue, const int32_t& calCount) {
  ascendc_emulator::VectorInstruction instruction("Axpy");
  const auto plan = ascendc_emulator::PlanCount(instruction.core(), calCount, ascendc_emulator::kWidest<T, U>);
  ascendc_emulator::RunAxpy(instruction, dst, src, scalarValue, plan, {sizeof(T), sizeof(U)});
}

// dst = src0 * src1 + dst
template <typename T, typename U, bool isSetMask = true>
inline void MulAddDst(const LocalTensor<T>& dst, const LocalTensor<U>& src0, const LocalTensor<U>& src1,
                      const uint64_t mask[], const uint8_t repeatTimes, const BinaryRepeatParams& repeatParams) {
  ascendc_emulator::VectorInstruction instruction("MulAddDst");
  constexpr uint32_t bytes = ascendc_emulator::kWidest<T, U>;
  const auto plan = ascendc_emulator::PlanBits<isSetMask>(instruction.core(), mask, repeatTimes, bytes);
  ascendc_emulator::RunMulAddDst(instruction, dst, src0, src1, plan, repeatParams);
}

template <typename T, typename U, bool isSetMask = true>
inline void MulAddDst(const LocalTensor<T>& dst, const LocalTensor<U>& src0, const LocalTensor<U>& src1, uint64_t mask,
                      const uint8_t repeatTimes, const BinaryRepeatParams& repeatParams) {
  ascendc_emulator::VectorInstruction instruction("MulAddDst");
  constexpr uint32_t bytes = ascendc_emulator::kWidest<T, U>;
  const auto plan = ascendc_emulator::PlanMask<isSetMask>(instruction.core(), mask, repeatTimes, bytes);
  ascendc_emulator::RunMulAddDst(instruction, dst, src0, src1, plan, repeatParams);
}

template <typename T, typename U>
inline void MulAddDst(const LocalTensor<T>& dst, const LocalTensor<U>& src0, const LocalTensor<U>& src1,
                      const int32_t& calCount) {
  ascendc_emulator::VectorInstruction instruction("MulAddDst");
  const auto plan = ascendc_emulator::PlanCount(instruction.core(), calCount, ascendc_emulator::kWidest<T, U>);
  ascendc_emulator::RunMulAddDst(instruction, dst, src0, src1, plan, {sizeof(T), sizeof(U)});
}

// dst = src0 * dst + src1
template <typename T, bool isSetMask = true>
inline void FusedMulAdd(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1,
                        uint64_t mask[], const uint8_t repeatTimes, const BinaryRepeatParams& repeatParams) {
  ascendc_emulator::VectorInstruction instruction("FusedMulAdd");
  const auto plan = ascendc_emulator::PlanBits<isSetMask>(instruction.core(), mask, repeatTimes, sizeof(T));
  ascendc_emulator::RunFusedMulAdd(instruction, dst, src0, src1, plan, repeatParams);
}

template <typename T, bool isSetMask = true>
inline void FusedMulAdd(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1,
                        uint64_t mask, const uint8_t repeatTimes, const BinaryRepeatParams& repeatParams) {
  ascendc_emulator::VectorInstruction instruction("FusedMulAdd");
  const auto plan = ascendc_emulator::PlanMask<isSetMask>(instruction.core(), mask, repeatTimes, sizeof(T));
  ascendc_emulator::RunFusedMulAdd(instruction, dst, src0, src1, plan, repeatParams);
}

template <typename T>
inline void FusedMulAdd(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1,
                        const int32_t& calCount) {
  ascendc_emulator::VectorInstruction instruction("FusedMulAdd");
  const auto plan = ascendc_emulator::PlanCount(instruction.core(), calCount, sizeof(T));
  ascendc_emulator::RunFusedMulAdd(instruction, dst, src0, src1, plan, {});
}

}  // namespace AscendC
