// What a kernel's entry says of itself, and what it asks about where it runs.
#pragma once

#include "position.h"

namespace ascendc_emulator {

enum class KernelMetaType {
  KERNEL_TYPE_AIV_ONLY,
  KERNEL_TYPE_AIC_ONLY,
  KERNEL_TYPE_MIX_AIV_1_0,
  KERNEL_TYPE_MIX_AIC_1_0,
  KERNEL_TYPE_MIX_AIC_1_1,
  KERNEL_TYPE_MIX_AIC_1_2,
  KERNEL_TYPE_AICORE,
  KERNEL_TYPE_VECTORCORE,
  KERNEL_TYPE_MIX_AICORE,
  KERNEL_TYPE_MIX_VECTOR_CORE,
  KERNEL_TYPE_MAX
};

inline void CheckKernelType(KernelMetaType declared, const char* name) {
  const KernelType launched = CurrentCore().launch().type();
  const bool agrees = (declared == KernelMetaType::KERNEL_TYPE_AIV_ONLY && launched == KernelType::kAivOnly) ||
                      (declared == KernelMetaType::KERNEL_TYPE_AIC_ONLY && launched == KernelType::kAicOnly) ||
                      (declared == KernelMetaType::KERNEL_TYPE_MIX_AIV_1_0 && launched == KernelType::kMixAiv10) ||
                      (declared == KernelMetaType::KERNEL_TYPE_MIX_AIC_1_2 && launched == KernelType::kMixAic12);
  CurrentCore().set_api("KERNEL_TASK_TYPE_DEFAULT");
  if (!agrees) Refuse("the kernel declares ", name, ", the launch is ", KernelTypeName(launched));
}

// Reads the tiling struct as the scalar unit does.
template <typename Tiling>
inline Tiling ReadTiling(const uint8_t* address) {
  Instruction read(kPipeS, "GET_TILING_DATA");
  GmRegion* region = read->launch().Find(address);
  if (region == nullptr) Refuse("the tiling address is in none of the buffers of this launch");
  read->counters().scalar_gm_bytes_read += sizeof(Tiling);
  Tiling tiling;
  std::memcpy(static_cast<void*>(&tiling), read->ReadGm(region, address, sizeof(Tiling)), sizeof(Tiling));
  return tiling;
}

inline int32_t CurrentCoreType() {
  return CurrentCore().type() == CoreType::kAic ? AscendC::AIC : AscendC::AIV;
}

}  // namespace ascendc_emulator

#define KERNEL_TASK_TYPE_DEFAULT(value) \
  ascendc_emulator::CheckKernelType(ascendc_emulator::KernelMetaType::value, #value)
#define KERNEL_TASK_TYPE(key, value) \
  if (TILING_KEY_IS(key)) KERNEL_TASK_TYPE_DEFAULT(value)
#define TILING_KEY_IS(key) (ascendc_emulator::CurrentCore().launch().tiling_key() == (key))
#define REGISTER_TILING_DEFAULT(tiling_struct) using AscendcEmulatorDefaultTiling = tiling_struct
#define GET_TILING_DATA(tiling_data, tiling_address) \
  auto tiling_data = ascendc_emulator::ReadTiling<AscendcEmulatorDefaultTiling>(tiling_address)
#define GET_TILING_DATA_WITH_STRUCT(tiling_struct, tiling_data, tiling_address) \
  auto tiling_data = ascendc_emulator::ReadTiling<tiling_struct>(tiling_address)

#define g_coreType (::ascendc_emulator::CurrentCoreType())
#define ASCEND_IS_AIV (g_coreType == AscendC::AIV)
#define ASCEND_IS_AIC (g_coreType == AscendC::AIC)
#define ASCEND_IS_NOT_AIV (g_coreType != AscendC::AIV)
#define ASCEND_IS_NOT_AIC (g_coreType != AscendC::AIC)

namespace AscendC {

inline int64_t GetBlockNum() { return ascendc_emulator::CurrentCore().launch().num_blocks(); }

inline int64_t GetTaskRation() {
  const auto& core = ascendc_emulator::CurrentCore();
  return core.type() == ascendc_emulator::CoreType::kAiv ? core.launch().AivsOfBlock() : 1;
}

// CANN keeps the first part of a workspace to itself; a launch here gives a kernel's own part alone.
inline uint8_t* GetUserWorkspace(uint8_t* workspace) { return workspace; }

inline int64_t GetSubBlockNum() { return GetTaskRation(); }
inline int64_t GetSubBlockIdx() { return ascendc_emulator::CurrentCore().sub_block(); }

// An AIV counts over all AIVs, an AIC over all AICs.
inline int64_t GetBlockIdx() {
  return ascendc_emulator::CurrentCore().block() * GetTaskRation() + GetSubBlockIdx();
}

}  // namespace AscendC
