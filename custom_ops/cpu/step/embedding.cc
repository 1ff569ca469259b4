// embedding: rows of a table that is stored as the weight of linear is, as floats.
//
//   ids          [T] int32, in [0, vocab_size)
//   table        [N, K], rows first_row to first_row + N of the whole; others come as zeros, for another rank to add
//   like         [K] float32: only its length is looked at, which the bytes of a row do not tell
//   kind, first_row, vocab_size  int64 scalars
//   output       [T, K] float32

#include "cpu/step/embedding.h"

namespace paged_ops {
namespace {

constexpr char kEmbedding[] = "embedding";

EmbeddingCall Parse(Arguments arguments) {
  EmbeddingCall call;
  call.ids = arguments.NextInt32("ids", 1);
  const Tensor table = NextWeight(arguments, "table");
  const Tensor like = arguments.Next("like", 1, {DType::kFloat32});
  call.table = WeightsOf(kEmbedding, table, NextInteger(arguments, "kind"), like.shape[0]);
  call.first_row = NextInteger(arguments, "first_row");
  call.vocab_size = NextInteger(arguments, "vocab_size");
  const Tensor output = NextTokens(arguments, "output");
  RequireShape(kEmbedding, output, {call.ids.shape[0], like.shape[0]});
  RequireIds(kEmbedding, call);
  call.target = output.as<float>();
  return call;
}

}  // namespace
}  // namespace paged_ops

PAGED_OPS_EXPORT int Embedding(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                               void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  LookUp(Parse(Arguments(kEmbedding, 7, nparam, params, ndims, shapes, dtypes)));
  return 0;
}
