// What the arithmetic kernel is asked to do.
#pragma once

#include <cstdint>

constexpr int32_t kArithmeticElements = 1024;

#define OPERATIONS(X)                                                                                                \
  X(kAdd) X(kSub) X(kMul) X(kDiv) X(kMax) X(kMin) X(kAdds) X(kMuls) X(kMaxs) X(kMins) X(kExp) X(kLn) X(kAbs)         \
  X(kSqrt) X(kRsqrt) X(kReciprocal) X(kRelu) X(kLeakyRelu) X(kMulAddDst) X(kFusedMulAdd) X(kAxpy) X(kDuplicate)      \
  X(kBrcb) X(kCopy) X(kCopyWithin) X(kGather) X(kWholeReduceSum) X(kWholeReduceMax) X(kWholeReduceMin)               \
  X(kBlockReduceSum) X(kBlockReduceMax) X(kBlockReduceMin) X(kPairReduceSum) X(kReduceSum) X(kReduceMax)             \
  X(kReduceMin) X(kCompare) X(kCompareScalar) X(kSelect)

enum Operation : int32_t {
#define OPERATION_NUMBER(name) name,
  OPERATIONS(OPERATION_NUMBER)
#undef OPERATION_NUMBER
};

enum Form : int32_t { kCount, kMask, kBits, kStrided };
enum ElementType : int32_t { kFloat, kHalf, kInt32, kInt16 };

struct ArithmeticTiling {
  int32_t op;
  int32_t form;
  int32_t type;
  int32_t count;
  int32_t repeats;
  int32_t order;  // of a reduction, or the mode of a comparison or selection
  uint64_t mask;
  uint64_t bits[2];
  float scalar;
};
