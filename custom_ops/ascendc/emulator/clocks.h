// Vector clocks: which instructions of which pipe are known to have finished.
//
// Each pipe of a core numbers its instructions from 1. `Knowledge` of a pipe says, for every pipe, the newest
// instruction that has certainly finished when the pipe's next instruction starts. Flags, queues and barriers spread
// knowledge.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

namespace ascendc_emulator {

enum Pipe : uint8_t { kPipeS, kPipeV, kPipeM, kPipeMte1, kPipeMte2, kPipeMte3, kPipeFix, kNumPipes };

inline const char* PipeName(int pipe) {
  static const char* const names[] = {"S", "V", "M", "MTE1", "MTE2", "MTE3", "FIX"};
  return pipe < kNumPipes ? names[pipe] : "?";
}

using Sequence = uint32_t;
using Clock = std::array<Sequence, kNumPipes>;

inline void JoinClock(Clock* into, const Clock& other) {
  for (int pipe = 0; pipe < kNumPipes; ++pipe) (*into)[pipe] = std::max((*into)[pipe], other[pipe]);
}

// One clock for each core of the launch. Null as long as nothing is known of other cores, which is the common case.
using CoreClocks = std::vector<Clock>;
using SharedClocks = std::shared_ptr<const CoreClocks>;

inline SharedClocks JoinClocks(const SharedClocks& a, const SharedClocks& b) {
  if (!b || a == b) return a;
  if (!a) return b;
  auto joined = std::make_shared<CoreClocks>(*a);
  for (size_t core = 0; core < joined->size(); ++core) JoinClock(&(*joined)[core], (*b)[core]);
  return joined;
}

struct Knowledge {
  Clock local{};        // of the core's own pipes
  SharedClocks others;  // of the other cores

  void Join(const Knowledge& other) {
    JoinClock(&local, other.local);
    others = JoinClocks(others, other.others);
  }
};

}  // namespace ascendc_emulator
