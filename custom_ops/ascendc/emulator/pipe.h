// TPipe: cuts buffers out of the core's memories and hands out event ids.
#pragma once

#include "queue.h"

namespace ascendc_emulator {

constexpr size_t kMaxBuffers = 64;
constexpr int kMatmulFlags = 3;  // ids of M_MTE1 that TPipe keeps for the matmul library on AIC cores

inline LocalBuffer* CutBuffer(Core& core, AscendC::TPosition position, uint32_t bytes) {
  const MemoryId memory = MemoryOf(position);
  core.Memory(memory);
  const uint64_t rounded = (uint64_t{bytes} + kLineBytes - 1) / kLineBytes * kLineBytes;
  const uint64_t end = core.pool_end[memory] + rounded;
  if (bytes == 0) Refuse("a buffer of 0 bytes at ", PositionName(position));
  if (end > kMemoryBytes[memory]) {
    Refuse("buffers of ", end, " bytes in ", MemoryName(memory), ", which has ", kMemoryBytes[memory]);
  }
  if (core.buffers.size() >= kMaxBuffers) Refuse("more than ", kMaxBuffers, " buffers of one TPipe");
  core.buffers.push_back(
      {memory, core.pool_end[memory], static_cast<uint32_t>(rounded), PositionName(position)});
  core.pool_end[memory] = static_cast<uint32_t>(end);
  return &core.buffers.back();
}

// A tensor that is still out or still queued when its TPipe ends is one that FreeTensor forgot.
inline void CheckBuffersReturned(const Core& core) {
  for (const LocalBuffer& buffer : core.buffers) {
    if (buffer.state == LocalBuffer::kFree) continue;
    Refuse("a tensor of ", buffer.position, " is still ",
           buffer.state == LocalBuffer::kEnqueued ? "in its queue, DeQue and FreeTensor are missing"
                                                  : "allocated, FreeTensor is missing");
  }
}

inline void Launching::CheckEnd(Core* core) {
  if (core->late_failure) std::rethrow_exception(core->late_failure);
  core->set_api("end of the kernel");
  if (core->has_dirty_cache()) {
    Refuse("what SetValue wrote to GM is still in the data cache, DataCacheCleanAndInvalid is missing");
  }
  for (int event = 0; event < static_cast<int>(AscendC::HardEvent::MAX); ++event) {
    for (int id = 0; id < kEventIds; ++id) {
      if (!core->flags[event][id].set) continue;
      Refuse("flag ", EventOf(static_cast<AscendC::HardEvent>(event)).name, " id ", id,
             " is still set, its WaitFlag is missing");
    }
  }
}

}  // namespace ascendc_emulator

namespace AscendC {

class TPipe {
 public:
  TPipe() : core_(ascendc_emulator::CurrentCore()) { Init(); }

  ~TPipe() {
    // While an exception unwinds the kernel there is nothing left to check.
    if (!destroyed_ && std::uncaught_exceptions() == 0) {
      try {
        Destroy();
      } catch (const ascendc_emulator::Refusal&) {
        core_.late_failure = std::current_exception();
      }
    }
    if (core_.pipe_object == this) core_.pipe_object = nullptr;
  }

  TPipe(const TPipe&) = delete;
  TPipe& operator=(const TPipe&) = delete;

  void Init() {
    core_.set_api("TPipe");
    if (core_.pipe_object != nullptr) ascendc_emulator::Refuse("a second TPipe while the first is in use");
    core_.pipe_object = this;
    destroyed_ = false;
    Clear();
    if (core_.type() != ascendc_emulator::CoreType::kAic) return;
    for (int id = 0; id < ascendc_emulator::kMatmulFlags; ++id) {
      ascendc_emulator::RaiseFlag(core_, HardEvent::M_MTE1, ascendc_emulator::AllocEventId(core_, HardEvent::M_MTE1));
    }
  }

  // Waits until all freed buffers are free indeed, then for all pipes.
  void Destroy() {
    core_.set_api("end of TPipe");
    ascendc_emulator::CheckBuffersReturned(core_);
    TakeFreeFlags();
    if (core_.type() == ascendc_emulator::CoreType::kAic) {
      for (int id = 0; id < ascendc_emulator::kMatmulFlags; ++id) {
        ascendc_emulator::AwaitFlag(core_, HardEvent::M_MTE1, id);
        ascendc_emulator::ReleaseEventId(core_, HardEvent::M_MTE1, id);
      }
    }
    core_.BarrierAll();
    core_.pipe_object = nullptr;
    destroyed_ = true;
  }

  void Reset() {
    core_.set_api("TPipe::Reset");
    ascendc_emulator::CheckBuffersReturned(core_);
    TakeFreeFlags();
    Clear();
  }

  template <class Queue>
  bool InitBuffer(Queue& queue, uint8_t num, uint32_t len) {
    static_assert(Queue::isTQue, "a TBuf takes no number of buffers");
    core_.set_api("InitBuffer");
    if (num == 0) ascendc_emulator::Refuse("0 buffers for a queue at ", ascendc_emulator::PositionName(Queue::kHome));
    for (int i = 0; i < num; ++i) queue.AddBuffer(ascendc_emulator::CutBuffer(core_, Queue::kHome, len), i == 0);
    return true;
  }

  template <TPosition pos>
  bool InitBuffer(TBuf<pos>& buf, uint32_t len) {
    core_.set_api("InitBuffer");
    buf.SetBuffer(ascendc_emulator::CutBuffer(core_, pos, len));
    return true;
  }

  template <HardEvent evt>
  TEventID AllocEventID() {
    core_.set_api("AllocEventID");
    return static_cast<TEventID>(ascendc_emulator::AllocEventId(core_, evt));
  }

  template <HardEvent evt>
  void ReleaseEventID(TEventID id) {
    core_.set_api("ReleaseEventID");
    ascendc_emulator::ReleaseEventId(core_, evt, id);
  }

  // The lowest free id, which stays free: for a SetFlag and WaitFlag that follow at once.
  template <HardEvent evt>
  TEventID FetchEventID() {
    return FetchEventID(evt);
  }

  TEventID FetchEventID(HardEvent evt) {
    core_.set_api("FetchEventID");
    return static_cast<TEventID>(ascendc_emulator::FetchEventId(core_, evt));
  }

 private:
  void TakeFreeFlags() {
    for (ascendc_emulator::LocalBuffer& buffer : core_.buffers) {
      if (buffer.free_event_id < 0) continue;
      const auto event = static_cast<HardEvent>(buffer.free_event);
      ascendc_emulator::AwaitFlag(core_, event, buffer.free_event_id);
      ascendc_emulator::ReleaseEventId(core_, event, buffer.free_event_id);
      buffer.free_event_id = -1;
    }
  }

  void Clear() {
    core_.buffers.clear();
    for (uint32_t& end : core_.pool_end) end = 0;
  }

  ascendc_emulator::Core& core_;
  bool destroyed_ = false;
};

}  // namespace AscendC

// In no namespace, as in CANN's own header.
inline AscendC::TPipe* GetTPipePtr() {
  void* pipe = ascendc_emulator::CurrentCore().pipe_object;
  if (pipe == nullptr) ascendc_emulator::Refuse("GetTPipePtr without a TPipe");
  return static_cast<AscendC::TPipe*>(pipe);
}
