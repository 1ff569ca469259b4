// PagedOpsTakeTimes: for each timed op calls, nanoseconds, bytes and products since it was last asked.

#include "cpu/runtime/op_times.h"

#include "op/aot_op.h"

PAGED_OPS_EXPORT void PagedOpsTakeTimes(int64_t* target) {
  for (paged_ops::OpTime& time : paged_ops::op_times) {
    *target++ = time.calls.exchange(0);
    *target++ = time.nanoseconds.exchange(0);
    *target++ = time.bytes.exchange(0);
    *target++ = time.products.exchange(0);
  }
}
