// CrossCoreSetFlag and CrossCoreWaitFlag: what orders the AIC and the AIVs of a block, and cores of one kind.
#pragma once

#include "flags.h"

namespace ascendc_emulator {

// SyncAll is made of these flags.
constexpr int kFirstSyncAllFlag = 11;
constexpr int kLastSyncAllFlag = 14;

// Whose sets belong together, and who is told when all of them have come.
struct CrossCoreGroup {
  std::vector<int> setters;
  std::vector<int> waiters;
};

inline CrossCoreGroup CrossCoreGroupOf(const Core& core, int mode) {
  CrossCoreGroup group;
  Launching& launch = core.launch();
  for (int index = 0; index < launch.num_cores(); ++index) {
    const Core& other = launch.core(index);
    const bool same_type = other.type() == core.type();
    const bool same_block = other.block() == core.block();
    if (same_type && (mode == 0 || same_block)) group.setters.push_back(index);
    if (mode == 2 ? same_block && !same_type : same_type && (mode == 0 || same_block)) group.waiters.push_back(index);
  }
  return group;
}

inline void CheckCrossCore(const Core& core, int flag) {
  const Launching& launch = core.launch();
  if (!launch.HasScheduler()) {
    Refuse("a kernel of type ", KernelTypeName(launch.type()),
           " runs without the scheduler that cross-core flags need, declare a MIX type");
  }
  if (flag >= kCrossCoreFlags) Refuse("flagId is ", flag, ", allowed are 0 to ", kCrossCoreFlags - 1);
  if (flag >= kFirstSyncAllFlag && flag <= kLastSyncAllFlag) {
    Refuse("flagId is ", flag, ", and ", kFirstSyncAllFlag, " to ", kLastSyncAllFlag, " belong to SyncAll");
  }
}

inline void CheckHasPipe(const Core& core, Pipe pipe) {
  const bool only_aiv = pipe == kPipeV;
  const bool only_aic = pipe == kPipeM || pipe == kPipeMte1 || pipe == kPipeFix;
  if (core.type() == CoreType::kAiv ? only_aic : only_aiv) Refuse("this kind of core has no pipe ", PipeName(pipe));
}

inline void SetCrossCore(Core& core, int mode, Pipe pipe, int flag) {
  core.set_api("CrossCoreSetFlag");
  CheckCrossCore(core, flag);
  CheckHasPipe(core, pipe);
  Launching& launch = core.launch();
  if (mode == 1 && core.type() == CoreType::kAic) Refuse("mode 1 on an AIC core, it is for the AIV cores of a block");
  if (mode != 0 && launch.type() != KernelType::kMixAic12) {
    Refuse("mode ", mode, " in a kernel of type ", KernelTypeName(launch.type()), ", it needs the AIC and its AIVs");
  }
  const CrossCoreGroup group = CrossCoreGroupOf(core, mode);
  launch.cross_core_flags().Set(core.index(), flag, mode, core.Snapshot(pipe), group.setters, group.waiters);
}

// The chip stops issuing, to any pipe, until the flag's counter is above 0.
inline void AwaitCrossCore(Core& core, int flag) {
  core.set_api("CrossCoreWaitFlag");
  CheckCrossCore(core, flag);
  CrossCoreFlags& flags = core.launch().cross_core_flags();
  const int self = core.index();
  core.launch().WaitUntil("CrossCoreSetFlag of flag " + std::to_string(flag),
                          [&flags, self, flag] { return flags.IsReady(self, flag); });
  const SharedClocks clocks = flags.Take(self, flag);
  core.Join(kPipeS, {(*clocks)[self], clocks});
}

}  // namespace ascendc_emulator

namespace AscendC {

template <uint8_t modeId, pipe_t pipe>
inline void CrossCoreSetFlag(uint16_t flagId) {
  static_assert(modeId <= 2, "Atlas A2 has the modes 0, 1 and 2");
  static_assert(pipe != PIPE_S && pipe != PIPE_ALL, "CrossCoreSetFlag takes one pipe, and not PIPE_S");
  ascendc_emulator::SetCrossCore(ascendc_emulator::CurrentCore(), modeId, ascendc_emulator::PipeOf(pipe), flagId);
}

// On Atlas A2 the mode and the pipe of a wait mean nothing.
template <uint8_t modeId = 0, pipe_t pipe = PIPE_S>
inline void CrossCoreWaitFlag(uint16_t flagId) {
  ascendc_emulator::AwaitCrossCore(ascendc_emulator::CurrentCore(), flagId);
}

}  // namespace AscendC
