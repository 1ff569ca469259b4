// Weights as a file has them, arranged in panels: once, when a model is loaded.

#include "cpu/linear/panels.h"

#include <memory>

#include "cpu/runtime/threads.h"

// num_rows rows of row_bytes, row_stride bytes apart, which may lie in a mapped file -> target [num_rows, row_bytes],
// which they do not overlap. order: the row that each is to be, or null: as they come. kind: GGML's number for what a
// row of num_columns is of.
PAGED_OPS_EXPORT void PagedOpsArrangeRows(const char* rows, int64_t row_stride, const int64_t* order, char* target,
                                          int64_t num_rows, int64_t row_bytes, int64_t num_columns, int64_t kind) {
  using namespace paged_ops;
  const int64_t panel_bytes = kPanelRows * row_bytes, num_panels = num_rows / kPanelRows;
  const auto row_at = [=](int64_t index) { return rows + (order ? order[index] : index) * row_stride; };
  const auto copy_rows = [=](int64_t first, int64_t last, char* to) {
    for (int64_t row = first; row < last; ++row) to = std::copy_n(row_at(row), row_bytes, to);
  };
  copy_rows(num_panels * kPanelRows, num_rows, target + num_panels * panel_bytes);
  Threads::Get().For(num_panels, false, [=](int64_t panel, int) {
    const int64_t first = panel * kPanelRows;
    const char* source = row_at(first);
    std::unique_ptr<char[]> together;
    if (order != nullptr || row_stride != row_bytes) {
      together.reset(new char[panel_bytes]);
      copy_rows(first, first + kPanelRows, together.get());
      source = together.get();
    }
    ArrangePanel(static_cast<WeightKind>(kind), source, kPanelRows, row_bytes, num_columns,
                 target + panel * panel_bytes);
  });
}
