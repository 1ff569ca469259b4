// Every way in which the kernels of these tests can be wrong, by number: the tiling says which one to be.
#pragma once

#include <cstdint>

#define MUTANTS(X)          \
  X(kGood)                  \
  X(kNoBarrierAfterCast)    \
  X(kNoBarrierBeforeCast)   \
  X(kEnqueueMissing)        \
  X(kDequeueMissing)        \
  X(kFreeMissing)           \
  X(kUsedAfterFree)         \
  X(kQueueDepthExceeded)    \
  X(kTooManyAllocated)      \
  X(kStaysInQueue)          \
  X(kForeignTensor)         \
  X(kUbOverflow)            \
  X(kTooManyBuffers)        \
  X(kOddCopyLength)         \
  X(kMisalignedCopy)        \
  X(kMisalignedVector)      \
  X(kCountPastTensor)       \
  X(kZeroCount)             \
  X(kZeroRepeats)           \
  X(kTooManyRepeats)        \
  X(kZeroMask)              \
  X(kTooLargeMask)          \
  X(kZeroBits)              \
  X(kZeroBlockStride)       \
  X(kWrongRoundMode)        \
  X(kWrongCastPair)         \
  X(kWrongType)             \
  X(kPartialOverlap)        \
  X(kRepeatReadsOwnOutput)  \
  X(kReadUnwritten)         \
  X(kGmPastEnd)             \
  X(kGmBeforeBegin)         \
  X(kGmReadOnly)            \
  X(kGmUnknown)             \
  X(kCompareCount)          \
  X(kSelectScratchTaken)    \
  X(kWrongKernelType)       \
  X(kNoFlagAfterLoad)       \
  X(kNoFlagBeforeLoad)      \
  X(kNoFlagBeforeStore)     \
  X(kNoFlagAfterStore)      \
  X(kNoFlagBeforeScalar)    \
  X(kNoFlagAfterScalar)     \
  X(kNoBarrierBetweenLoads) \
  X(kNoBarrierInGm)         \
  X(kNoFlagThroughGm)       \
  X(kFlagSetTwice)          \
  X(kFlagNeverSet)          \
  X(kFlagLeftSet)           \
  X(kFlagOfCube)            \
  X(kFlagIdTooLarge)        \
  X(kFlagIdOfQueue)         \
  X(kFlagsExhausted)        \
  X(kPadTooManyBlocks)      \
  X(kPadTooWide)            \
  X(kPadRandomRead)         \
  X(kNoSync)                \
  X(kLeavesBeforeSync)      \
  X(kSyncWithoutScheduler)  \
  X(kWorkspaceUnwritten)    \
  X(kScalarNotCleaned)      \
  X(kScalarStale)           \
  X(kScalarLeftDirty)       \
  X(kOverlappingBlocks)     \
  X(kWriteWhileRead)

enum Mutant : int32_t {
#define MUTANT_NUMBER(name) name,
  MUTANTS(MUTANT_NUMBER)
#undef MUTANT_NUMBER
};

struct MutantTiling {
  int32_t mutant;
  int32_t elements;  // of each block
};
