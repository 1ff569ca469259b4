// Compiled into the library once; here are the ops that the CPU alone has.
#include "op/inference.h"

namespace paged_ops {
namespace {

// x [T, K], norm_weight, weight [N, ...] -> [T, N]
Shape ShapeOfProducts(int*, int64_t** shapes) { return {shapes[0][0], shapes[2][0]}; }

// ids [T], table, like [K] -> [T, K]
Shape ShapeOfEmbedding(int*, int64_t** shapes) { return {shapes[0][0], shapes[2][0]}; }

// … logit_indices [N], the sixth; … head [V, ...], the fourteenth -> [N, V]
Shape ShapeOfLogits(int*, int64_t** shapes) { return {shapes[5][0], shapes[13][0]}; }

}  // namespace
}  // namespace paged_ops

PAGED_OPS_INFERENCE(Embedding, paged_ops::ShapeOfEmbedding, 2)  // of like
PAGED_OPS_INFERENCE(AttentionLayer, paged_ops::ShapeOfQuery, 0)  // of x, and so are the following
PAGED_OPS_INFERENCE(FeedForwardLayer, paged_ops::ShapeOfQuery, 0)
PAGED_OPS_INFERENCE(DecoderStep, paged_ops::ShapeOfLogits, 12)  // of norm_weight
PAGED_OPS_INFERENCE(NormLinear, paged_ops::ShapeOfProducts, 0)
