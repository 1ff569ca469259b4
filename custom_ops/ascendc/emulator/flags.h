// SetFlag, WaitFlag and PipeBarrier, and the events between pipes that each kind of core has.
#pragma once

#include "position.h"

namespace ascendc_emulator {

struct Event {
  const char* name;
  Pipe from, to;
  bool on_aiv, on_aic;
};

static_assert(static_cast<int>(AscendC::HardEvent::MAX) <= kMaxEvents);

// In the order of HardEvent.
inline const Event& EventOf(AscendC::HardEvent event) {
  static const Event events[] = {
      {"MTE2_MTE1", kPipeMte2, kPipeMte1, false, true}, {"MTE1_MTE2", kPipeMte1, kPipeMte2, false, true},
      {"MTE1_M", kPipeMte1, kPipeM, false, true},       {"M_MTE1", kPipeM, kPipeMte1, false, true},
      {"MTE2_V", kPipeMte2, kPipeV, true, false},       {"V_MTE2", kPipeV, kPipeMte2, true, false},
      {"MTE3_V", kPipeMte3, kPipeV, true, false},       {"V_MTE3", kPipeV, kPipeMte3, true, false},
      {"M_V", kPipeM, kPipeV, false, false},            {"V_M", kPipeV, kPipeM, false, false},
      {"V_V", kPipeV, kPipeV, true, false},             {"MTE3_MTE1", kPipeMte3, kPipeMte1, false, true},
      {"MTE1_MTE3", kPipeMte1, kPipeMte3, false, true}, {"MTE1_V", kPipeMte1, kPipeV, false, false},
      {"MTE2_M", kPipeMte2, kPipeM, false, true},       {"M_MTE2", kPipeM, kPipeMte2, false, true},
      {"V_MTE1", kPipeV, kPipeMte1, false, false},      {"M_FIX", kPipeM, kPipeFix, false, true},
      {"FIX_M", kPipeFix, kPipeM, false, true},         {"MTE3_MTE2", kPipeMte3, kPipeMte2, true, true},
      {"MTE2_MTE3", kPipeMte2, kPipeMte3, true, true},  {"S_V", kPipeS, kPipeV, true, false},
      {"V_S", kPipeV, kPipeS, true, false},             {"S_MTE2", kPipeS, kPipeMte2, true, true},
      {"MTE2_S", kPipeMte2, kPipeS, true, true},        {"S_MTE3", kPipeS, kPipeMte3, true, true},
      {"MTE3_S", kPipeMte3, kPipeS, true, true},        {"MTE2_FIX", kPipeMte2, kPipeFix, false, true},
      {"FIX_MTE2", kPipeFix, kPipeMte2, false, true},   {"FIX_S", kPipeFix, kPipeS, false, true},
      {"M_S", kPipeM, kPipeS, false, true},             {"FIX_MTE3", kPipeFix, kPipeMte3, false, true},
      {"MTE1_FIX", kPipeMte1, kPipeFix, false, true},   {"FIX_MTE1", kPipeFix, kPipeMte1, false, true},
      {"FIX_FIX", kPipeFix, kPipeFix, false, true},
  };
  return events[static_cast<int>(event)];
}

inline Flag& FlagOf(Core& core, AscendC::HardEvent event, int id) {
  const Event& info = EventOf(event);
  if (id < 0 || id >= kEventIds) Refuse("event id ", id, " of ", info.name, ", allowed are 0 to ", kEventIds - 1);
  if (!(core.type() == CoreType::kAiv ? info.on_aiv : info.on_aic)) {
    Refuse("this kind of core has no event ", info.name);
  }
  return core.flags[static_cast<int>(event)][id];
}

inline void RaiseFlag(Core& core, AscendC::HardEvent event, int id) {
  Flag& flag = FlagOf(core, event, id);
  if (flag.set) {
    Refuse("flag ", EventOf(event).name, " id ", id, " is set a second time before any WaitFlag took the first");
  }
  flag.set = true;
  flag.snapshot = core.Snapshot(EventOf(event).from);
}

inline void AwaitFlag(Core& core, AscendC::HardEvent event, int id) {
  Flag& flag = FlagOf(core, event, id);
  if (!flag.set) Refuse("deadlock: waits for flag ", EventOf(event).name, " id ", id, ", which nothing has set");
  flag.set = false;
  core.Join(EventOf(event).to, flag.snapshot);
}

// On an AIC core, the real header too drops the flags of the vector pipe.
constexpr bool IsVectorEvent(AscendC::HardEvent event) {
  using AscendC::HardEvent;
  return event == HardEvent::MTE2_V || event == HardEvent::V_MTE2 || event == HardEvent::MTE3_V ||
         event == HardEvent::V_MTE3 || event == HardEvent::V_V || event == HardEvent::S_V || event == HardEvent::V_S;
}

inline Pipe PipeOf(pipe_t pipe) {
  switch (pipe) {
    case PIPE_S:
      return kPipeS;
    case PIPE_V:
      return kPipeV;
    case PIPE_M:
      return kPipeM;
    case PIPE_MTE1:
      return kPipeMte1;
    case PIPE_MTE2:
      return kPipeMte2;
    case PIPE_MTE3:
      return kPipeMte3;
    case PIPE_FIX:
      return kPipeFix;
    default:
      Refuse("pipe ", static_cast<int>(pipe), " does not exist on this chip");
  }
}

}  // namespace ascendc_emulator

namespace AscendC {

template <HardEvent event>
inline void SetFlag(int32_t eventID) {
  auto& core = ascendc_emulator::CurrentCore();
  core.set_api("SetFlag");
  if (core.type() == ascendc_emulator::CoreType::kAic && ascendc_emulator::IsVectorEvent(event)) return;
  ascendc_emulator::RaiseFlag(core, event, eventID);
}

template <HardEvent event>
inline void WaitFlag(int32_t eventID) {
  auto& core = ascendc_emulator::CurrentCore();
  core.set_api("WaitFlag");
  if (core.type() == ascendc_emulator::CoreType::kAic && ascendc_emulator::IsVectorEvent(event)) return;
  ascendc_emulator::AwaitFlag(core, event, eventID);
}

template <pipe_t pipe>
inline void PipeBarrier() {
  static_assert(pipe != PIPE_S, "the scalar unit orders itself, PipeBarrier<PIPE_S> does not exist");
  auto& core = ascendc_emulator::CurrentCore();
  core.set_api("PipeBarrier");
  if (pipe == PIPE_ALL) {
    core.BarrierAll();
  } else {
    core.Barrier(ascendc_emulator::PipeOf(pipe));
  }
}

}  // namespace AscendC
