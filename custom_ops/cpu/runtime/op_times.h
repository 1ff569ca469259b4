// How long each op ran, and what it had to read and multiply: for scripts/profile_step.py.
//
// Always on: two looks at the clock for an op that takes tens of microseconds.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace paged_ops {

// In the order of OP_GROUPS in op_times.py.
enum Timed {
  kTimeEmbedding,
  kTimeQkv,
  kTimeCacheWrite,
  kTimeAttention,
  kTimeAttentionOutput,
  kTimeGateUp,
  kTimeDown,
  kTimeHead,
  kNumTimed
};

struct OpTime {
  std::atomic<int64_t> calls{0};
  std::atomic<int64_t> nanoseconds{0};
  std::atomic<int64_t> bytes{0};     // of weights and pages
  std::atomic<int64_t> products{0};  // multiplications with an addition
};

inline OpTime op_times[kNumTimed];

// Times the scope that it stands in.
class OpTimer {
 public:
  OpTimer(Timed op, int64_t bytes, int64_t products) : time_(op_times[op]), start_(Clock::now()) {
    time_.calls += 1;
    time_.bytes += bytes;
    time_.products += products;
  }

  ~OpTimer() {
    time_.nanoseconds += std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start_).count();
  }

  OpTimer(const OpTimer&) = delete;
  OpTimer& operator=(const OpTimer&) = delete;

 private:
  using Clock = std::chrono::steady_clock;

  OpTime& time_;
  const Clock::time_point start_;
};

}  // namespace paged_ops
