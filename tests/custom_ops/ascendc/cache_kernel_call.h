// Launches one cache kernel as the test wants it: nothing is checked before, a refusal goes back as text.
#pragma once

#include <cstring>
#include <utility>
#include <vector>

#include "launch.h"
#include "types.h"

namespace cache_kernel_call {

struct Buffer {
  const char* name;
  void* data;
  uint64_t bytes;
  int32_t writable;
};

template <typename... Args, size_t... I>
void Invoke(void (*kernel)(Args...), const std::vector<ascendc_emulator::GmBuffer>& buffers,
            std::index_sequence<I...>) {
  kernel(static_cast<GM_ADDR>(buffers[I].data)...);
}

// `buffers` are the kernel's inputs and outputs; workspace and tiling are added.
template <typename Launch, typename... Args>
int Call(void (*kernel)(Args...), Launch launch, const Buffer* buffers, char* message, size_t capacity) {
  using namespace ascendc_emulator;
  std::vector<GmBuffer> given;
  for (size_t i = 0; i < sizeof...(Args) - 2; ++i) {
    given.push_back({buffers[i].name, buffers[i].data, buffers[i].bytes, buffers[i].writable != 0, true});
  }
  char workspace = 0;
  given.push_back({"workspace", &workspace, 1, true, false});
  given.push_back({"tiling", &launch.tiling, sizeof(launch.tiling), false, true});
  try {
    ascendc_emulator::Launch(KernelType::kAivOnly, static_cast<int>(launch.block_dim), given,
                             [&] { Invoke(kernel, given, std::index_sequence_for<Args...>{}); });
    return 0;
  } catch (const std::exception& error) {
    std::strncpy(message, error.what(), capacity - 1);
    return 1;
  }
}

}  // namespace cache_kernel_call

// The library's one function.
#define CACHE_KERNEL_CALL(kernel, MakeLaunch, Shapes)                                                          \
  extern "C" int CallKernel(const void* shapes, uint32_t cores, const cache_kernel_call::Buffer* buffers,      \
                            char* message, size_t capacity) {                                                  \
    return cache_kernel_call::Call(kernel, MakeLaunch(*static_cast<const Shapes*>(shapes), cores), buffers,    \
                                   message, capacity);                                                         \
  }
