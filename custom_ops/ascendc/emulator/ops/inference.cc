// Compiled into the library once; here are the ops that the chip alone has.
#include "op/inference.h"

namespace paged_ops {
namespace {

// qkv [T, (H + 2 K) D], bias, head_norms [2, D], rotation, key_cache [NB, BS, K, …], … -> [T, H, D]
Shape ShapeOfQueries(int*, int64_t** shapes) {
  const int64_t head_dim = shapes[2][1];
  return {shapes[0][0], shapes[0][1] / head_dim - 2 * shapes[4][2], head_dim};
}

// gate_up [T, 2 N] -> [T, N]
Shape ShapeOfGated(int*, int64_t** shapes) { return {shapes[0][0], shapes[0][1] / 2}; }

}  // namespace
}  // namespace paged_ops

PAGED_OPS_INFERENCE(FusedAddRmsNorm, paged_ops::ShapeOfQuery, 0)  // of x
PAGED_OPS_INFERENCE(RopeAndCache, paged_ops::ShapeOfQueries, 0)   // of qkv
PAGED_OPS_INFERENCE(ActAndMul, paged_ops::ShapeOfGated, 0)        // of gate_up
