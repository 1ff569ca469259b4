// Whether tiles are used, for whoever has to show that it does not matter, or what it brings.

#include "cpu/linear/tiles.h"

#include "op/aot_op.h"

// Where there are none, they are not used whatever is said here. Returns whether they are now.
PAGED_OPS_EXPORT int PagedOpsUseTiles(int use) {
#if defined(PAGED_OPS_AMX)
  paged_ops::tiles_wanted.store(use != 0);
#else
  static_cast<void>(use);
#endif
  return paged_ops::HasTiles();
}
