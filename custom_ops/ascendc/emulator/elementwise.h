// Vector instructions that map elements to elements: binary, unary, with a scalar, multiply-add.
#pragma once

#include <cmath>

#include "map.h"
#include "vector.h"

namespace ascendc_emulator {

// Strides in 32-byte blocks: of the output, of the first and of the second input.
struct Strides {
  uint32_t block[kMaxOperands] = {1, 1, 1};
  uint32_t repeat[kMaxOperands] = {8, 8, 8};

  Strides() = default;
  // The count form: as far apart as the wider element needs.
  Strides(uint32_t output_bytes, uint32_t input_bytes) {
    const uint32_t widest = std::max(output_bytes, input_bytes);
    repeat[0] = 8 * output_bytes / widest;
    repeat[1] = repeat[2] = 8 * input_bytes / widest;
  }
  Strides(const AscendC::UnaryRepeatParams& params)
      : block{params.dstBlkStride, params.srcBlkStride, 1}, repeat{params.dstRepStride, params.srcRepStride, 8} {}
  Strides(const AscendC::BinaryRepeatParams& params)
      : block{params.dstBlkStride, params.src0BlkStride, params.src1BlkStride},
        repeat{params.dstRepStride, params.src0RepStride, params.src1RepStride} {}
};

template <typename T, typename Op>
void RunBinary(VectorInstruction& instruction, const AscendC::LocalTensor<T>& dst,
               const AscendC::LocalTensor<T>& src0, const AscendC::LocalTensor<T>& src1, const RepeatPlan& plan,
               const Strides& strides, bool may_accumulate, Op op) {
  const Operand operands[] = {{&dst.view(), "dst", sizeof(T), strides.block[0], strides.repeat[0]},
                              {&src0.view(), "src0", sizeof(T), strides.block[1], strides.repeat[1]},
                              {&src1.view(), "src1", sizeof(T), strides.block[2], strides.repeat[2]}};
  instruction.Execute(plan, operands, 3, may_accumulate, [op](uint8_t* const* at, uint32_t count) {
    MapBinary<T, T>(at[0], at[1], at[2], count, op);
  });
}

template <typename D, typename S, typename Op>
void RunUnary(VectorInstruction& instruction, const AscendC::LocalTensor<D>& dst, const AscendC::LocalTensor<S>& src,
              const RepeatPlan& plan, const Strides& strides, Op op) {
  const Operand operands[] = {{&dst.view(), "dst", sizeof(D), strides.block[0], strides.repeat[0]},
                              {&src.view(), "src", sizeof(S), strides.block[1], strides.repeat[1]}};
  instruction.Execute(plan, operands, 2, false, [op](uint8_t* const* at, uint32_t count) {
    MapUnary<D, S>(at[0], at[1], count, op);
  });
}

// dst = op(dst, src0, src1)
template <typename D, typename S, typename Op>
void RunInto(VectorInstruction& instruction, const AscendC::LocalTensor<D>& dst, const AscendC::LocalTensor<S>& src0,
             const AscendC::LocalTensor<S>& src1, const RepeatPlan& plan, const Strides& strides, Op op) {
  const Operand operands[] = {{&dst.view(), "dst", sizeof(D), strides.block[0], strides.repeat[0], true},
                              {&src0.view(), "src0", sizeof(S), strides.block[1], strides.repeat[1]},
                              {&src1.view(), "src1", sizeof(S), strides.block[2], strides.repeat[2]}};
  instruction.Execute(plan, operands, 3, false, [op](uint8_t* const* at, uint32_t count) {
    MapInto<D, S>(at[0], at[1], at[2], count, op);
  });
}

// dst = op(dst, src)
template <typename D, typename S, typename Op>
void RunIntoUnary(VectorInstruction& instruction, const AscendC::LocalTensor<D>& dst,
                  const AscendC::LocalTensor<S>& src, const RepeatPlan& plan, const Strides& strides, Op op) {
  const Operand operands[] = {{&dst.view(), "dst", sizeof(D), strides.block[0], strides.repeat[0], true},
                              {&src.view(), "src", sizeof(S), strides.block[1], strides.repeat[1]}};
  instruction.Execute(plan, operands, 2, false, [op](uint8_t* const* at, uint32_t count) {
    MapInto<D, S>(at[0], at[1], at[1], count, [op](auto into, auto a, auto) { return op(into, a); });
  });
}

// A product with float's range for 32-bit floats, and without signed overflow for integers.
template <typename T>
T WrapAdd(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
  } else {
    return a + b;
  }
}

template <typename T>
T WrapSub(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(static_cast<uint32_t>(a) - static_cast<uint32_t>(b));
  } else {
    return a - b;
  }
}

template <typename T>
T WrapMul(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(static_cast<uint32_t>(a) * static_cast<uint32_t>(b));
  } else {
    return a * b;
  }
}

}  // namespace ascendc_emulator

namespace AscendC {

// The three forms of an instruction: bit mask, counted mask, count.
#define ASCENDC_EMULATOR_BINARY(Name, may_accumulate, op, ...)                                                        \
  template <typename T, bool isSetMask = true>                                                                        \
  inline void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, uint64_t mask[],\
                   const uint8_t repeatTimes, const BinaryRepeatParams& repeatParams) {                               \
    ascendc_emulator::VectorInstruction instruction(#Name);                                                           \
    ascendc_emulator::CheckType<T, __VA_ARGS__>();                                                                    \
    const auto plan =                                                                                                 \
        ascendc_emulator::PlanBits<isSetMask>(instruction.core(), mask, repeatTimes, sizeof(T));                      \
    ascendc_emulator::RunBinary(instruction, dst, src0, src1, plan, repeatParams, may_accumulate, op);                \
  }                                                                                                                   \
  template <typename T, bool isSetMask = true>                                                                        \
  inline void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, uint64_t mask,  \
                   const uint8_t repeatTimes, const BinaryRepeatParams& repeatParams) {                               \
    ascendc_emulator::VectorInstruction instruction(#Name);                                                           \
    ascendc_emulator::CheckType<T, __VA_ARGS__>();                                                                    \
    const auto plan =                                                                                                 \
        ascendc_emulator::PlanMask<isSetMask>(instruction.core(), mask, repeatTimes, sizeof(T));                      \
    ascendc_emulator::RunBinary(instruction, dst, src0, src1, plan, repeatParams, may_accumulate, op);                \
  }                                                                                                                   \
  template <typename T>                                                                                               \
  inline void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1,                 \
                   const int32_t& calCount) {                                                                         \
    ascendc_emulator::VectorInstruction instruction(#Name);                                                           \
    ascendc_emulator::CheckType<T, __VA_ARGS__>();                                                                    \
    const auto plan = ascendc_emulator::PlanCount(instruction.core(), calCount, sizeof(T));                           \
    ascendc_emulator::RunBinary(instruction, dst, src0, src1, plan, {}, may_accumulate, op);                          \
  }

ASCENDC_EMULATOR_BINARY(Add, true, [](auto a, auto b) { return ascendc_emulator::WrapAdd(a, b); }, half, float,
                        int16_t, int32_t)
ASCENDC_EMULATOR_BINARY(Sub, true, [](auto a, auto b) { return ascendc_emulator::WrapSub(a, b); }, half, float,
                        int16_t, int32_t)
ASCENDC_EMULATOR_BINARY(Mul, true, [](auto a, auto b) { return ascendc_emulator::WrapMul(a, b); }, half, float,
                        int16_t, int32_t)
ASCENDC_EMULATOR_BINARY(Div, true, [](auto a, auto b) { return a / b; }, half, float)
ASCENDC_EMULATOR_BINARY(Max, true, [](auto a, auto b) { return a > b ? a : b; }, half, float, int16_t, int32_t)
ASCENDC_EMULATOR_BINARY(Min, true, [](auto a, auto b) { return a < b ? a : b; }, half, float, int16_t, int32_t)
ASCENDC_EMULATOR_BINARY(And, false, [](auto a, auto b) { return static_cast<decltype(a)>(a & b); }, int16_t, uint16_t)
ASCENDC_EMULATOR_BINARY(Or, false, [](auto a, auto b) { return static_cast<decltype(a)>(a | b); }, int16_t, uint16_t)
#undef ASCENDC_EMULATOR_BINARY

#define ASCENDC_EMULATOR_UNARY(Name, op, ...)                                                                         \
  template <typename T, bool isSetMask = true>                                                                        \
  inline void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, uint64_t mask[], const uint8_t repeatTimes,  \
                   const UnaryRepeatParams& repeatParams) {                                                           \
    ascendc_emulator::VectorInstruction instruction(#Name);                                                           \
    ascendc_emulator::CheckType<T, __VA_ARGS__>();                                                                    \
    const auto plan =                                                                                                 \
        ascendc_emulator::PlanBits<isSetMask>(instruction.core(), mask, repeatTimes, sizeof(T));                      \
    ascendc_emulator::RunUnary(instruction, dst, src, plan, repeatParams, op);                                        \
  }                                                                                                                   \
  template <typename T, bool isSetMask = true>                                                                        \
  inline void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, uint64_t mask, const uint8_t repeatTimes,    \
                   const UnaryRepeatParams& repeatParams) {                                                           \
    ascendc_emulator::VectorInstruction instruction(#Name);                                                           \
    ascendc_emulator::CheckType<T, __VA_ARGS__>();                                                                    \
    const auto plan =                                                                                                 \
        ascendc_emulator::PlanMask<isSetMask>(instruction.core(), mask, repeatTimes, sizeof(T));                      \
    ascendc_emulator::RunUnary(instruction, dst, src, plan, repeatParams, op);                                        \
  }                                                                                                                   \
  template <typename T>                                                                                               \
  inline void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t& calCount) {                   \
    ascendc_emulator::VectorInstruction instruction(#Name);                                                           \
    ascendc_emulator::CheckType<T, __VA_ARGS__>();                                                                    \
    const auto plan = ascendc_emulator::PlanCount(instruction.core(), calCount, sizeof(T));                           \
    ascendc_emulator::RunUnary(instruction, dst, src, plan, {}, op);                                                  \
  }

ASCENDC_EMULATOR_UNARY(Exp, [](float a) { return std::exp(a); }, half, float)
ASCENDC_EMULATOR_UNARY(Ln, [](float a) { return std::log(a); }, half, float)
ASCENDC_EMULATOR_UNARY(Abs, [](float a) { return std::fabs(a); }, half, float)
ASCENDC_EMULATOR_UNARY(Reciprocal, [](float a) { return 1.0f / a; }, half, float)
ASCENDC_EMULATOR_UNARY(Rsqrt, [](float a) { return 1.0f / std::sqrt(a); }, half, float)
ASCENDC_EMULATOR_UNARY(Sqrt, [](float a) { return std::sqrt(a); }, half, float)
ASCENDC_EMULATOR_UNARY(Relu, [](auto a) { return a > 0 ? a : decltype(a)(0); }, half, float, int32_t)
ASCENDC_EMULATOR_UNARY(Not, [](auto a) { return static_cast<decltype(a)>(~a); }, int16_t, uint16_t)
#undef ASCENDC_EMULATOR_UNARY

#define ASCENDC_EMULATOR_SCALAR(Name, op, ...)                                                                        \
  template <typename T, bool isSetMask = true>                                                                        \
  inline void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalarValue, uint64_t mask[],       \
                   const uint8_t repeatTimes, const UnaryRepeatParams& repeatParams) {                                \
    ascendc_emulator::VectorInstruction instruction(#Name);                                                           \
    ascendc_emulator::CheckType<T, __VA_ARGS__>();                                                                    \
    const auto scalar = static_cast<ascendc_emulator::Computed<T>>(scalarValue);                                      \
    const auto plan =                                                                                                 \
        ascendc_emulator::PlanBits<isSetMask>(instruction.core(), mask, repeatTimes, sizeof(T));                      \
    ascendc_emulator::RunUnary(instruction, dst, src, plan, repeatParams, op);                                        \
  }                                                                                                                   \
  template <typename T, bool isSetMask = true>                                                                        \
  inline void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalarValue, uint64_t mask,         \
                   const uint8_t repeatTimes, const UnaryRepeatParams& repeatParams) {                                \
    ascendc_emulator::VectorInstruction instruction(#Name);                                                           \
    ascendc_emulator::CheckType<T, __VA_ARGS__>();                                                                    \
    const auto scalar = static_cast<ascendc_emulator::Computed<T>>(scalarValue);                                      \
    const auto plan =                                                                                                 \
        ascendc_emulator::PlanMask<isSetMask>(instruction.core(), mask, repeatTimes, sizeof(T));                      \
    ascendc_emulator::RunUnary(instruction, dst, src, plan, repeatParams, op);                                        \
  }                                                                                                                   \
  template <typename T, bool isSetMask = true>                                                                        \
  inline void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalarValue,                        \
                   const int32_t& calCount) {                                                                         \
    ascendc_emulator::VectorInstruction instruction(#Name);                                                           \
    ascendc_emulator::CheckType<T, __VA_ARGS__>();                                                                    \
    const auto scalar = static_cast<ascendc_emulator::Computed<T>>(scalarValue);                                      \
    const auto plan = ascendc_emulator::PlanCount(instruction.core(), calCount, sizeof(T));                           \
    ascendc_emulator::RunUnary(instruction, dst, src, plan, {}, op);                                                  \
  }

ASCENDC_EMULATOR_SCALAR(Adds, [scalar](auto a) { return ascendc_emulator::WrapAdd(a, scalar); }, half, float, int16_t,
                        int32_t)
ASCENDC_EMULATOR_SCALAR(Muls, [scalar](auto a) { return ascendc_emulator::WrapMul(a, scalar); }, half, float, int16_t,
                        int32_t)
ASCENDC_EMULATOR_SCALAR(Maxs, [scalar](auto a) { return a > scalar ? a : scalar; }, half, float, int16_t, int32_t)
ASCENDC_EMULATOR_SCALAR(Mins, [scalar](auto a) { return a < scalar ? a : scalar; }, half, float, int16_t, int32_t)
ASCENDC_EMULATOR_SCALAR(LeakyRelu, [scalar](auto a) { return a >= 0 ? a : a * scalar; }, half, float)
#undef ASCENDC_EMULATOR_SCALAR

}  // namespace AscendC
