// The kernel of single instructions, for Python.
#include "vector_call.h"

#include "arithmetic.cpp"
EXPORT_KERNEL(arithmetic)

// The operations' names, with a space after each.
EMULATOR_EXPORT const char* OperationNames() {
#define OPERATION_NAME(name) #name " "
  return OPERATIONS(OPERATION_NAME);
#undef OPERATION_NAME
}
