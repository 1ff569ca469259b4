// Weights as a file has them, arranged in panels: once, when a model is loaded.

#include "cpu/linear/panels.h"

#include "cpu/runtime/threads.h"

// source, target: [num_rows, row_bytes], which do not overlap; kind: GGML's number for what a row of num_columns is of.
PAGED_OPS_EXPORT void PagedOpsArrangePanels(const char* source, char* target, int64_t num_rows, int64_t row_bytes,
                                            int64_t num_columns, int64_t kind) {
  using namespace paged_ops;
  const int64_t panel_bytes = kPanelRows * row_bytes, num_panels = num_rows / kPanelRows;
  std::copy(source + num_panels * panel_bytes, source + num_rows * row_bytes, target + num_panels * panel_bytes);
  Threads::Get().For(num_panels, false, [=](int64_t panel, int) {
    ArrangePanel(static_cast<WeightKind>(kind), source + panel * panel_bytes, kPanelRows, row_bytes, num_columns,
                 target + panel * panel_bytes);
  });
}
