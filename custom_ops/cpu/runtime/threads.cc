// The number of threads that work on a loop, for whoever has to fix it, or to show that it does not matter.

#include "cpu/runtime/threads.h"

#include "op/aot_op.h"

PAGED_OPS_EXPORT int PagedOpsNumThreads() { return paged_ops::Threads::Get().size(); }

PAGED_OPS_EXPORT void PagedOpsSetNumThreads(int number) { paged_ops::Threads::Get().Resize(number); }
