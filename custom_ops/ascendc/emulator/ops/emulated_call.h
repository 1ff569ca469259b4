// Runs a kernel of op_kernel/ on the emulated chip, for an op whose arguments have been checked.
#pragma once

#include <cfenv>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../../op_kernel/reshape_and_cache_tiling.h"
#include "../kernel_operator.h"
#include "op/aot_op.h"

namespace paged_ops {

// What the operators run on. The defaults are a 910B3: 20 cube cores, each with two vector cores.
struct EmulatedChip {
  uint32_t vector_cores = 40;
  uint32_t cube_cores = 20;
  uint32_t attention_key = 0;  // the variant of paged_attention, where the caller wants to choose; 0: as on the chip
  bool trusts_indices = false;  // as the chip: paged_attention gets rows, context_lens and blocks unchecked
};

EmulatedChip& Chip();

// What the newest operator of this thread moved and did.
void SetLastReport(const ascendc_emulator::Report& report);

using ascendc_emulator::GmBuffer;

inline GmBuffer Input(const Tensor& tensor) {
  return {tensor.name, tensor.data, tensor.Bytes(), false, true};
}

inline GmBuffer InOut(const Tensor& tensor) { return {tensor.name, tensor.data, tensor.Bytes(), true, true}; }

inline GmBuffer Output(const Tensor& tensor) { return {tensor.name, tensor.data, tensor.Bytes(), true, false}; }

// Where a buffer lies, as a kernel gets it.
inline uint8_t* Address(const GmBuffer& buffer) { return static_cast<uint8_t*>(buffer.data); }

// The floating-point environment that a program starts with, for as long as this lives: MindSpore runs a graph for the
// first time on a thread that takes subnormal numbers for zeros, which would lose those of the emulated half.
class DefaultFloatEnvironment {
 public:
  DefaultFloatEnvironment() {
    std::fegetenv(&before_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloatEnvironment() { std::fesetenv(&before_); }
  DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
  DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

 private:
  std::fenv_t before_;
};

// Launches `kernel(arguments..., workspace, tiling)` over `block_dim` blocks.
template <typename Tiling, typename Kernel>
void RunKernel(const char* op, ascendc_emulator::KernelType type, uint32_t block_dim, uint64_t tiling_key,
               uint64_t workspace_bytes, Tiling tiling, std::vector<GmBuffer> buffers, Kernel kernel) {
  const std::unique_ptr<uint8_t[]> workspace(new uint8_t[workspace_bytes + 1]);
  buffers.push_back({"workspace", workspace.get(), workspace_bytes, true, false});
  buffers.push_back({"tiling", &tiling, sizeof(Tiling), false, true});
  ascendc_emulator::LaunchOptions options;
  options.tiling_key = tiling_key;
  const DefaultFloatEnvironment environment;
  try {
    SetLastReport(ascendc_emulator::Launch(
        type, static_cast<int>(block_dim), buffers,
        [&] { kernel(workspace.get(), reinterpret_cast<uint8_t*>(&tiling)); }, options));
  } catch (const ascendc_emulator::Refusal& refusal) {
    Refuse(op, "the chip would not do this: ", refusal.what());
  }
}

// The caches of the Ascend kernels have 16-bit types, or int8.
inline void RequireNarrowCache(const char* op, const Pages& pages) {
  if (pages.keys.dtype == DType::kFloat32) {
    Refuse(op, "key_cache has dtype float32, allowed on Ascend: float16, bfloat16, int8");
  }
}

// What op_host refuses of int8 pages.
inline void RequireInt8Heads(const char* op, const Pages& pages) {
  if (pages.keys.dtype != DType::kInt8) return;
  if (pages.head_dim % kInt8HeadDimStep == 0 && pages.head_dim <= kInt8MaxHeadDim) return;
  Refuse(op, "head_dim ", pages.head_dim, " is not supported for int8: it must be a multiple of ", kInt8HeadDimStep,
         ", at most ", kInt8MaxHeadDim);
}

}  // namespace paged_ops
