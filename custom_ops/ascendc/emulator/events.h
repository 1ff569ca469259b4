// Event ids: 8 for each event, handed out lowest first, to queues and to AllocEventID alike.
#pragma once

#include "flags.h"

namespace ascendc_emulator {

inline int FetchEventId(Core& core, AscendC::HardEvent event) {
  const uint8_t occupied = core.event_ids[static_cast<int>(event)];
  for (int id = 0; id < kEventIds; ++id) {
    if (!(occupied & (1u << id))) return id;
  }
  Refuse("all ", kEventIds, " event ids of ", EventOf(event).name, " are taken");
}

inline int AllocEventId(Core& core, AscendC::HardEvent event) {
  const int id = FetchEventId(core, event);
  core.event_ids[static_cast<int>(event)] |= static_cast<uint8_t>(1u << id);
  return id;
}

inline void ReleaseEventId(Core& core, AscendC::HardEvent event, int id) {
  if (id < 0 || id >= kEventIds) Refuse("event id ", id, " of ", EventOf(event).name, ", allowed are 0 to 7");
  core.event_ids[static_cast<int>(event)] &= static_cast<uint8_t>(~(1u << id));
}

// The event that hands a buffer on from where `from` is filled to where `to` is used, and the one that hands it back.
struct QueueEvents {
  AscendC::HardEvent forward, back;
};

constexpr QueueEvents QueueEventsOf(AscendC::TPosition from, AscendC::TPosition to) {
  using AscendC::HardEvent;
  const MemoryId source = MemoryOf(from), target = MemoryOf(to);
  if (IsGm(from)) {
    if (target == kUb) return {HardEvent::MTE2_V, HardEvent::V_MTE2};
    if (target == kL1) return {HardEvent::MTE2_MTE1, HardEvent::MTE1_MTE2};
    return {HardEvent::MTE2_M, HardEvent::M_MTE2};
  }
  if (source == kUb) {
    if (IsGm(to)) return {HardEvent::V_MTE3, HardEvent::MTE3_V};
    if (target == kL1) return {HardEvent::MTE3_MTE1, HardEvent::MTE1_MTE3};
    return {HardEvent::MTE2_MTE3, HardEvent::MTE3_MTE2};
  }
  if (source == kL1) {
    if (target == kFixpipe) return {HardEvent::MTE1_FIX, HardEvent::FIX_MTE1};
    return {HardEvent::MTE1_M, HardEvent::M_MTE1};
  }
  if (source == kL0C) return {HardEvent::M_FIX, HardEvent::FIX_M};
  return {HardEvent::MAX, HardEvent::MAX};
}

}  // namespace ascendc_emulator
