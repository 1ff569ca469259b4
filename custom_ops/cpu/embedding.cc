// embedding: rows of a table that is stored as the weight of linear is, as floats.
//
//   ids          [T] int32, in [0, vocab_size)
//   table        [N, K], rows first_row to first_row + N of the whole; others come as zeros, for another rank to add
//   like         [K] float32: only its length is looked at, which the bytes of a row do not tell
//   kind, first_row, vocab_size  int64 scalars
//   output       [T, K] float32

#include "linear_call.h"
#include "op_times.h"

PAGED_OPS_EXPORT int Embedding(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                               void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  constexpr char kEmbedding[] = "embedding";
  Arguments arguments(kEmbedding, 7, nparam, params, ndims, shapes, dtypes);
  const Tensor ids = arguments.NextInt32("ids", 1);
  const Tensor table = NextWeight(arguments, "table");
  const Tensor like = arguments.Next("like", 1, {DType::kFloat32});
  const int64_t columns = like.shape[0];
  const Weights weights = WeightsOf(kEmbedding, table, NextInteger(arguments, "kind"), columns);
  const int64_t first_row = NextInteger(arguments, "first_row"), vocab_size = NextInteger(arguments, "vocab_size");
  const Tensor output = NextTokens(arguments, "output");
  RequireShape(kEmbedding, output, {ids.shape[0], columns});
  for (int64_t t = 0; t < ids.shape[0]; ++t) {
    const int64_t id = ids.as<int32_t>()[t];
    if (id < 0 || id >= vocab_size) {
      Refuse(kEmbedding, "token ", t, ": id ", id, " is outside [0, ", vocab_size, ")");
    }
  }
  ArrangedPanel arranged;
  const OpTimer timer(kTimeEmbedding, ids.shape[0] * weights.row_bytes, 0);
  for (int64_t t = 0; t < ids.shape[0]; ++t) {
    const int64_t row = ids.as<int32_t>()[t] - first_row;
    float* target = output.as<float>() + t * columns;
    if (row >= 0 && row < weights.num_rows) {
      CopyRow(weights, row, arranged, target);
    } else {
      std::fill_n(target, columns, 0.0f);
    }
  }
  return 0;
}
