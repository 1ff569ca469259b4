// Storage types of queries, keys and values. Arithmetic is always float32; these only convert.
#pragma once

#include <cstdint>
#include <cstring>

namespace paged_ops {

enum class DType { kFloat32, kFloat16, kBFloat16, kInt8, kInt32, kInt64, kUInt8, kOther };

inline DType ParseDType(const char* name) {
  if (std::strcmp(name, "float32") == 0) return DType::kFloat32;
  if (std::strcmp(name, "float16") == 0) return DType::kFloat16;
  if (std::strcmp(name, "bfloat16") == 0) return DType::kBFloat16;
  if (std::strcmp(name, "int8") == 0) return DType::kInt8;
  if (std::strcmp(name, "int32") == 0) return DType::kInt32;
  if (std::strcmp(name, "int64") == 0) return DType::kInt64;
  if (std::strcmp(name, "uint8") == 0) return DType::kUInt8;
  return DType::kOther;
}

inline const char* DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return "float32";
    case DType::kFloat16: return "float16";
    case DType::kBFloat16: return "bfloat16";
    case DType::kInt8: return "int8";
    case DType::kInt32: return "int32";
    case DType::kInt64: return "int64";
    case DType::kUInt8: return "uint8";
    case DType::kOther: break;
  }
  return "other";
}

inline int64_t ByteSize(DType dtype) {
  if (dtype == DType::kInt8 || dtype == DType::kUInt8) return 1;
  return dtype == DType::kFloat32 || dtype == DType::kInt32 ? 4 : 2;
}

// Packed: of weights that stand behind each other in a pack, they may lie at any address.
struct __attribute__((packed)) Half {
  uint16_t bits;
};

struct __attribute__((packed)) BFloat16 {
  uint16_t bits;
};

// Calls `body` with a null pointer of the C++ type that stores `dtype`, one of the three floating types.
template <typename Body>
void WithFloatType(DType dtype, Body&& body) {
  if (dtype == DType::kFloat32) return body(static_cast<float*>(nullptr));
  if (dtype == DType::kFloat16) return body(static_cast<Half*>(nullptr));
  return body(static_cast<BFloat16*>(nullptr));
}

// The same for a type that a cache may have.
template <typename Body>
void WithCacheType(DType dtype, Body&& body) {
  if (dtype == DType::kInt8) return body(static_cast<int8_t*>(nullptr));
  WithFloatType(dtype, body);
}

inline uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float HalfToFloat(Half half) {
  const uint32_t sign = static_cast<uint32_t>(half.bits & 0x8000) << 16;
  const uint32_t magnitude = half.bits & 0x7fff;
  if (magnitude >= 0x7c00) return FloatOf(sign | 0x7f800000 | (magnitude << 13));  // infinity or NaN
  // Moved into place the exponent is 112 too small; the product with 2^112 repairs it, for subnormals too.
  return FloatOf(sign | BitsOf(FloatOf(magnitude << 13) * 0x1p112f));
}

inline Half FloatToHalf(float value) {  // to nearest, ties to even
  const uint32_t sign = (BitsOf(value) >> 16) & 0x8000;
  const uint32_t magnitude = BitsOf(value) & 0x7fffffff;
  uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00 | ((magnitude >> 13) & 0x3ff);  // NaN, made quiet
  } else if (magnitude >= 0x477ff000) {
    half = 0x7c00;  // 65520 and more round to infinity
  } else if (magnitude < 0x38800000) {
    // Below 2^-14 halves are multiples of 2^-24, which is the spacing of floats at 0.5: the addition rounds.
    half = BitsOf(FloatOf(magnitude) + 0.5f) - BitsOf(0.5f);
  } else {
    half = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  }
  return {static_cast<uint16_t>(sign | half)};
}

}  // namespace paged_ops
