// ReadFloats: reads a buffer once with all threads, as fast as memory allows. The yardstick of the attention benchmark.

#include <algorithm>
#include <numeric>
#include <vector>

#include "cpu/runtime/simd.h"
#include "cpu/runtime/threads.h"
#include "op/aot_op.h"

PAGED_OPS_EXPORT float ReadFloats(const float* floats, int64_t count) {
  using namespace paged_ops;
  constexpr int64_t kStep = 8 * kLanes;        // independent sums, so that additions do not wait for each other
  constexpr int64_t kPiece = 1024 * kStep;
  const int64_t whole = count / kStep * kStep;
  std::vector<float> totals((whole + kPiece - 1) / kPiece);  // or the compiler would see that nobody needs the reads
  Threads::Get().For(totals.size(), false, [&](int64_t piece, int) {
    Vec sums[8] = {};
    const int64_t start = piece * kPiece, end = std::min(start + kPiece, whole);
    for (int64_t i = start; i < end; i += kStep) {
      for (int v = 0; v < 8; ++v) sums[v] += Load(floats + i + v * kLanes);
    }
    for (const Vec& sum : sums) totals[piece] += sum[0];
  });
  return std::accumulate(totals.begin(), totals.end(), 0.0f);
}
