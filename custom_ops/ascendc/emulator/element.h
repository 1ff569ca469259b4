// Element types: how they lie in memory, what type computes them, and their names.
#pragma once

#include <type_traits>

#include "types.h"

namespace ascendc_emulator {

// Memory is shared between types (ReinterpretCast), so loads and stores go through types that may alias.
template <typename T>
struct Element {
  typedef T Stored __attribute__((may_alias));
  using Computed = T;
  static Computed Load(const Stored& stored) { return stored; }
  static T Store(Computed value) { return value; }
};

template <>
struct Element<half> {
  typedef uint16_t Stored __attribute__((may_alias));
  using Computed = float;
  static float Load(const Stored& stored) { return HalfToFloat(stored); }
  static uint16_t Store(float value) { return FloatToHalf(value); }
};

template <>
struct Element<bfloat16_t> {
  typedef uint16_t Stored __attribute__((may_alias));
  using Computed = float;
  static float Load(const Stored& stored) { return Bfloat16ToFloat(stored); }
  static uint16_t Store(float value) { return FloatToBfloat16(value); }
};

template <typename T>
using Computed = typename Element<T>::Computed;

// Elements at a byte address of a memory.
template <typename T>
struct Span {
  typename Element<T>::Stored* data;
  explicit Span(uint8_t* bytes) : data(reinterpret_cast<typename Element<T>::Stored*>(bytes)) {}
  Computed<T> Get(uint32_t i) const { return Element<T>::Load(data[i]); }
  void Set(uint32_t i, Computed<T> value) const { data[i] = Element<T>::Store(value); }
};

template <typename T>
struct ConstSpan {
  const typename Element<T>::Stored* data;
  explicit ConstSpan(const uint8_t* bytes) : data(reinterpret_cast<const typename Element<T>::Stored*>(bytes)) {}
  Computed<T> Get(uint32_t i) const { return Element<T>::Load(data[i]); }
};

template <typename T, typename... Allowed>
constexpr bool IsOneOf = (std::is_same_v<T, Allowed> || ...);

template <typename T>
const char* TypeName() {
  if (std::is_same_v<T, half>) return "half";
  if (std::is_same_v<T, bfloat16_t>) return "bfloat16_t";
  if (std::is_same_v<T, float>) return "float";
  if (std::is_same_v<T, int8_t>) return "int8_t";
  if (std::is_same_v<T, uint8_t>) return "uint8_t";
  if (std::is_same_v<T, int16_t>) return "int16_t";
  if (std::is_same_v<T, uint16_t>) return "uint16_t";
  if (std::is_same_v<T, int32_t>) return "int32_t";
  if (std::is_same_v<T, uint32_t>) return "uint32_t";
  if (std::is_same_v<T, int64_t>) return "int64_t";
  if (std::is_same_v<T, uint64_t>) return "uint64_t";
  return "this type";
}

}  // namespace ascendc_emulator
