// The mutants' kernels and their names, for Python.
#include "vector_call.h"

#include "flag_mutant.cpp"
#include "queue_mutant.cpp"
#include "type_mutant.cpp"
EXPORT_KERNEL(queue_mutant)
EXPORT_KERNEL(flag_mutant)
EXPORT_KERNEL(type_mutant)

// Its names are the flag kernel's too.
namespace sync_kernel {
#include "sync_mutant.cpp"
}  // namespace sync_kernel
using sync_kernel::sync_mutant;
EXPORT_KERNEL(sync_mutant)

// The mutants' names, with a space after each.
EMULATOR_EXPORT const char* MutantNames() {
#define MUTANT_NAME(name) #name " "
  return MUTANTS(MUTANT_NAME);
#undef MUTANT_NAME
}
