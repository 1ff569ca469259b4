// The kernel of conversions, for Python.
#include "vector_call.h"

#include "casting.cpp"
EXPORT_KERNEL(casting)

// The type pairs' names, target first, with a space after each.
EMULATOR_EXPORT const char* CastPairNames() {
#define CAST_PAIR_NAME(to, from) #to "<" #from " "
  return CAST_PAIRS(CAST_PAIR_NAME);
#undef CAST_PAIR_NAME
}
