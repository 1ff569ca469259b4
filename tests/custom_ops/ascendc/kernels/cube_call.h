// Runs a kernel for the tests: buffers come from NumPy, a refusal goes back as text.
#pragma once

#include <cstring>
#include <utility>
#include <vector>

#include "launch.h"
#include "types.h"

namespace cube_call {

enum Role : int32_t { kReadOnly, kWritten, kWorkspace };

struct Buffer {
  const char* name;
  void* data;
  uint64_t bytes;
  int32_t role;
};

// In the order of cube_calls.FIGURES.
struct Figures {
  uint64_t mte1_bytes, mte2_bytes, fix_bytes, cube_instructions, cube_macs, peak_l1, peak_l0a, peak_l0b, peak_l0c;
};

template <typename... Args, size_t... I>
void Invoke(void (*kernel)(Args...), const Buffer* buffers, std::index_sequence<I...>) {
  kernel(static_cast<GM_ADDR>(buffers[I].data)...);
}

template <typename... Args>
int Call(void (*kernel)(Args...), int type, int blocks, const Buffer* buffers, char* message, size_t capacity,
         Figures* figures) {
  using namespace ascendc_emulator;
  std::vector<GmBuffer> given;
  for (size_t i = 0; i < sizeof...(Args); ++i) {
    given.push_back({buffers[i].name, buffers[i].data, buffers[i].bytes, buffers[i].role != kReadOnly,
                     buffers[i].role != kWorkspace});
  }
  try {
    const Report report = Launch(static_cast<KernelType>(type), blocks, given,
                                 [&] { Invoke(kernel, buffers, std::index_sequence_for<Args...>{}); });
    const Counters& total = report.total;
    *figures = {total.bytes[kPipeMte1], total.bytes[kPipeMte2], total.bytes[kPipeFix],
                total.cube_instructions, total.cube_macs,        total.peak_l1,
                total.peak_l0a,         total.peak_l0b,          total.peak_l0c};
    return 0;
  } catch (const std::exception& error) {
    std::strncpy(message, error.what(), capacity - 1);
    message[capacity - 1] = '\0';
    return 1;
  }
}

}  // namespace cube_call
