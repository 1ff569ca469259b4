// MultiplyAddRate: floating-point operations a second, in 1e9, of all threads at what the CPU is best at. The yardstick
// of scripts/profile_step.py.

#include <algorithm>
#include <chrono>
#include <vector>

#include "cpu/runtime/simd.h"
#include "cpu/runtime/threads.h"
#include "op/aot_op.h"

// Each thread multiplies and adds `count` vectors, in chains that do not wait for each other. A product and its sum are
// two operations.
PAGED_OPS_EXPORT double MultiplyAddRate(int64_t count) {
  using namespace paged_ops;
  using Clock = std::chrono::steady_clock;
  constexpr int kChains = 12;        // two units with a delay of 4 or 5; with both factors they fit in 16 registers
  constexpr int kChunksOfThread = 16;  // for a thread that comes late to be helped out
  Threads& threads = Threads::Get();
  const int64_t chunks = kChunksOfThread * threads.size();
  const int64_t rounds = std::max<int64_t>(1, count / (kChunksOfThread * kChains));
  std::vector<float> totals(chunks);  // or the compiler would see that nobody needs the products
  const Clock::time_point start = Clock::now();
  threads.For(chunks, false, [&](int64_t chunk, int) {
    const Vec factor = InRegister(Broadcast(0.5f)), addend = InRegister(Broadcast(0.5f));  // all chains tend to 1
    Vec chains[kChains];
    for (int c = 0; c < kChains; ++c) chains[c] = Broadcast(static_cast<float>(c));
    for (int64_t i = 0; i < rounds; ++i) {
      _Pragma("GCC unroll 12")
      for (int c = 0; c < kChains; ++c) chains[c] = MulAdd(chains[c], factor, addend);
    }
    Vec sum = {};
    for (const Vec& chain : chains) sum += chain;
    totals[chunk] = sum[0];
  });
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  const bool computed = *std::min_element(totals.begin(), totals.end()) > 0;
  return computed ? 2.0 * kLanes * kChains * rounds * chunks / seconds / 1e9 : 0;
}
