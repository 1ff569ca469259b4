// The work of embedding on arguments that are checked, and their checks: for the ops that look tokens up.
#pragma once

#include "cpu/linear/linear_call.h"
#include "cpu/runtime/op_times.h"

namespace paged_ops {

struct EmbeddingCall {
  Tensor ids;
  Weights table;          // rows first_row to first_row + num_rows of the whole
  int64_t first_row;
  int64_t vocab_size;
  float* target;          // [T, K]
};

inline void RequireIds(const char* op, const EmbeddingCall& call) {
  for (int64_t t = 0; t < call.ids.shape[0]; ++t) {
    const int64_t id = call.ids.as<int32_t>()[t];
    if (id < 0 || id >= call.vocab_size) {
      Refuse(op, "token ", t, ": id ", id, " is outside [0, ", call.vocab_size, ")");
    }
  }
}

inline void LookUp(const EmbeddingCall& call) {
  const int64_t num_tokens = call.ids.shape[0], columns = call.table.num_columns;
  const OpTimer timer(kTimeEmbedding, num_tokens * call.table.row_bytes, 0);
  ArrangedPanel arranged;
  for (int64_t t = 0; t < num_tokens; ++t) {
    const int64_t row = call.ids.as<int32_t>()[t] - call.first_row;
    float* target = call.target + t * columns;
    if (row >= 0 && row < call.table.num_rows) {
      CopyRow(call.table, row, arranged, target);
    } else {
      std::fill_n(target, columns, 0.0f);
    }
  }
}

}  // namespace paged_ops
