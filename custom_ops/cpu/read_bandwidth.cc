// ReadFloats: reads a buffer once with all threads, as fast as memory allows. The yardstick of the attention benchmark.

#include <algorithm>

#include "aot_op.h"
#include "simd.h"

PAGED_OPS_EXPORT float ReadFloats(const float* floats, int64_t count) {
  using namespace paged_ops;
  constexpr int64_t kStep = 8 * kLanes;        // independent sums, so that additions do not wait for each other
  constexpr int64_t kPiece = 1024 * kStep;
  float total = 0;  // given back, or the compiler would see that nobody needs the reads
#pragma omp parallel for schedule(dynamic, 1) reduction(+ : total)
  for (int64_t start = 0; start < count / kStep * kStep; start += kPiece) {
    Vec sums[8] = {};
    const int64_t end = std::min(start + kPiece, count / kStep * kStep);
    for (int64_t i = start; i < end; i += kStep) {
      for (int v = 0; v < 8; ++v) sums[v] += Load(floats + i + v * kLanes);
    }
    for (const Vec& sum : sums) total += sum[0];
  }
  return total;
}
