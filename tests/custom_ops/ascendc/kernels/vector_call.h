// Calls a kernel on the emulator from Python: buffers in, figures or a refusal out.
#pragma once

#include <cstdio>

#include "kernel_operator.h"

#define EMULATOR_EXPORT extern "C" __attribute__((visibility("default")))

namespace vector_call {

enum Role : int32_t { kReadOnly, kWritten, kWorkspace };

struct Buffer {
  const char* name;
  void* data;
  uint64_t bytes;
  int32_t role;
};

// In the order of FIGURES in emulated.py.
inline void FillFigures(const ascendc_emulator::Report& report, uint64_t* figures) {
  using namespace ascendc_emulator;
  const Counters& total = report.total;
  const uint64_t values[] = {total.bytes[kPipeMte2],
                             total.bytes[kPipeMte3],
                             total.dma_instructions[kPipeMte2],
                             total.dma_instructions[kPipeMte3],
                             total.scalar_gm_bytes_read,
                             total.scalar_gm_bytes_written,
                             total.scalar_local_reads,
                             total.vector_instructions,
                             total.vector_repeats,
                             total.peak_ub,
                             report.slowest_aiv.bytes[kPipeMte2],
                             report.slowest_aiv.vector_repeats};
  std::copy(std::begin(values), std::end(values), figures);
}

// 0, or 1 with the refusal's text in `message`.
template <typename Kernel>
int Call(const Kernel& kernel, int type, int blocks, const Buffer* buffers, int num_buffers, bool strict,
         char* message, size_t capacity, uint64_t* figures) {
  std::vector<ascendc_emulator::GmBuffer> given;
  for (int i = 0; i < num_buffers; ++i) {
    const Buffer& buffer = buffers[i];
    given.push_back({buffer.name, buffer.data, buffer.bytes, buffer.role != kReadOnly, buffer.role != kWorkspace});
  }
  try {
    ascendc_emulator::LaunchOptions options;
    options.strict = strict;
    const auto report =
        ascendc_emulator::Launch(static_cast<ascendc_emulator::KernelType>(type), blocks, given, kernel, options);
    FillFigures(report, figures);
    return 0;
  } catch (const ascendc_emulator::Refusal& refusal) {
    std::snprintf(message, capacity, "%s", refusal.what());
    return 1;
  }
}

}  // namespace vector_call

// Exports `name_call` for a kernel of four addresses.
#define EXPORT_KERNEL(kernel)                                                                                      \
  EMULATOR_EXPORT int kernel##_call(int type, int blocks, const vector_call::Buffer* buffers, int num_buffers,     \
                                    bool strict, char* message, size_t capacity, uint64_t* figures) {              \
    return vector_call::Call(                                                                                      \
        [buffers] {                                                                                                \
          kernel(static_cast<GM_ADDR>(buffers[0].data), static_cast<GM_ADDR>(buffers[1].data),                     \
                 static_cast<GM_ADDR>(buffers[2].data), static_cast<GM_ADDR>(buffers[3].data));                    \
        },                                                                                                         \
        type, blocks, buffers, num_buffers, strict, message, capacity, figures);                                   \
  }
