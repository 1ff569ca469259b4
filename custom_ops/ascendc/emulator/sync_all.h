// What orders the cores among each other and the scalar unit's data cache with global memory.
#pragma once

#include "tensor.h"

namespace AscendC {

// Every core waits for every other; all that any did before is finished afterwards.
template <bool isAIVOnly = true>
inline void SyncAll() {
  auto& core = ascendc_emulator::CurrentCore();
  auto& launch = core.launch();
  core.set_api("SyncAll");
  if (!launch.HasScheduler()) {
    ascendc_emulator::Refuse("a kernel of type ", ascendc_emulator::KernelTypeName(launch.type()),
                             " runs without the scheduler that SyncAll needs, declare a MIX type");
  }
  const bool has_aic = launch.type() == ascendc_emulator::KernelType::kMixAic12;
  if (!isAIVOnly && !has_aic) ascendc_emulator::Refuse("SyncAll<false> hangs in a kernel without AIC cores");
  if (isAIVOnly && core.type() == ascendc_emulator::CoreType::kAic) {
    ascendc_emulator::Refuse("SyncAll<true> on an AIC core, it is for the AIV cores alone");
  }
  ++core.counters().sync_alls;
  core.BarrierAll();
  launch.Meet(isAIVOnly, &core);
}

template <typename T, CacheLine entireType, DcciDst dcciDst = DcciDst::CACHELINE_OUT>
inline void DataCacheCleanAndInvalid(const GlobalTensor<T>& dstTensor) {
  ascendc_emulator::Instruction clean(ascendc_emulator::kPipeS, "DataCacheCleanAndInvalid");
  if (entireType == CacheLine::ENTIRE_DATA_CACHE) {
    clean->CleanCache();
  } else {
    clean->CleanCacheLine(dstTensor.GetPhyAddr());
  }
}

}  // namespace AscendC
