// TQue, TQueBind and TBuf: buffers that wander between pipes, and buffers that stay.
#pragma once

#include <vector>

#include "events.h"
#include "tensor.h"

namespace ascendc_emulator {

inline LocalView ViewOf(LocalBuffer* buffer, AscendC::TPosition position) {
  return {buffer->memory, position, buffer->offset, buffer->bytes, buffer, buffer->generation};
}

// The rules that hold for every queue, whatever its element types.
class QueueState {
 public:
  void AddBuffer(LocalBuffer* buffer, bool first) {
    if (first) *this = QueueState();
    buffers_.push_back(buffer);
  }

  LocalBuffer* Alloc(Core& core, AscendC::HardEvent back) {
    core.set_api("AllocTensor");
    if (buffers_.empty()) Refuse("the queue has no buffers, InitBuffer is missing");
    for (size_t tried = 0; tried < buffers_.size(); ++tried) {
      LocalBuffer* buffer = buffers_[cursor_];
      cursor_ = (cursor_ + 1) % buffers_.size();
      if (buffer->state != LocalBuffer::kFree) continue;
      buffer->state = LocalBuffer::kAllocated;
      TakeFreeFlag(core, buffer, back);
      return buffer;
    }
    Refuse("all ", buffers_.size(), " buffers of the queue at ", buffers_[0]->position,
           " are in use, FreeTensor is missing");
  }

  void Enqueue(Core& core, const LocalView& tensor, AscendC::HardEvent forward, int depth) {
    core.set_api("EnQue");
    LocalBuffer* buffer = Own(tensor);
    if (static_cast<int>(waiting_.size()) >= depth) {
      Refuse("the queue at ", buffer->position, " already holds ", waiting_.size(), " tensors, its depth is ", depth);
    }
    if (buffer->state == LocalBuffer::kEnqueued) Refuse("the tensor of ", buffer->position, " is in the queue already");
    buffer->state = LocalBuffer::kEnqueued;
    buffer->enqueue_event_id = AllocEventId(core, forward);
    RaiseFlag(core, forward, buffer->enqueue_event_id);
    waiting_.push_back(buffer);
  }

  LocalBuffer* Dequeue(Core& core, AscendC::HardEvent forward) {
    core.set_api("DeQue");
    if (waiting_.empty()) {
      Refuse("the queue at ", buffers_.empty() ? "?" : buffers_[0]->position, " is empty, EnQue is missing");
    }
    LocalBuffer* buffer = waiting_.front();
    waiting_.pop_front();
    buffer->state = LocalBuffer::kDequeued;
    AwaitFlag(core, forward, buffer->enqueue_event_id);
    ReleaseEventId(core, forward, buffer->enqueue_event_id);
    buffer->enqueue_event_id = -1;
    return buffer;
  }

  void Free(Core& core, const LocalView& tensor, AscendC::HardEvent back) {
    core.set_api("FreeTensor");
    LocalBuffer* buffer = Own(tensor);
    if (buffer->state == LocalBuffer::kEnqueued) {
      Refuse("the tensor of ", buffer->position, " is still in the queue, DeQue is missing");
    }
    buffer->state = LocalBuffer::kFree;
    ++buffer->generation;
    buffer->free_event = static_cast<int>(back);
    buffer->free_event_id = AllocEventId(core, back);
    RaiseFlag(core, back, buffer->free_event_id);
  }

  void TakeFreeFlags(Core& core, AscendC::HardEvent back) {
    for (LocalBuffer* buffer : buffers_) TakeFreeFlag(core, buffer, back);
  }

  size_t waiting() const { return waiting_.size(); }

  bool HasIdle() const {
    for (const LocalBuffer* buffer : buffers_) {
      if (buffer->state == LocalBuffer::kFree) return true;
    }
    return false;
  }

 private:
  static void TakeFreeFlag(Core& core, LocalBuffer* buffer, AscendC::HardEvent back) {
    if (buffer->free_event_id < 0) return;
    AwaitFlag(core, back, buffer->free_event_id);
    ReleaseEventId(core, back, buffer->free_event_id);
    buffer->free_event_id = -1;
  }

  LocalBuffer* Own(const LocalView& tensor) const {
    tensor.CheckUsable("the tensor");
    for (LocalBuffer* buffer : buffers_) {
      if (buffer == tensor.buffer) return buffer;
    }
    Refuse("the tensor of ", PositionName(tensor.position), " was not allocated from this queue");
  }

  std::vector<LocalBuffer*> buffers_;
  std::deque<LocalBuffer*> waiting_;
  size_t cursor_ = 0;
};

}  // namespace ascendc_emulator

namespace AscendC {

template <TPosition src, TPosition dst, int32_t depth, auto mask = 0>
class TQueBind {
 public:
  static constexpr bool isTQue = true;
  static constexpr TPosition kHome = ascendc_emulator::IsGm(dst) ? src : dst;  // where its buffers lie

  template <typename T>
  LocalTensor<T> AllocTensor() {
    return TensorOf<T>(state_.Alloc(ascendc_emulator::CurrentCore(), kEvents.back));
  }

  template <typename T>
  bool EnQue(const LocalTensor<T>& tensor) {
    state_.Enqueue(ascendc_emulator::CurrentCore(), tensor.view(), kEvents.forward, depth);
    return true;
  }

  template <TPosition from, TPosition to, typename T>
  bool EnQue(const LocalTensor<T>& tensor) {
    state_.Enqueue(ascendc_emulator::CurrentCore(), tensor.view(), UserEvent<from, to>(), depth);
    return true;
  }

  template <typename T>
  LocalTensor<T> DeQue() {
    return TensorOf<T>(state_.Dequeue(ascendc_emulator::CurrentCore(), kEvents.forward));
  }

  template <TPosition from, TPosition to, typename T>
  LocalTensor<T> DeQue() {
    return TensorOf<T>(state_.Dequeue(ascendc_emulator::CurrentCore(), UserEvent<from, to>()));
  }

  template <typename T>
  void FreeTensor(LocalTensor<T>& tensor) {
    state_.Free(ascendc_emulator::CurrentCore(), tensor.view(), kEvents.back);
  }

  bool VacantInQue() { return state_.waiting() < static_cast<size_t>(depth); }
  bool HasTensorInQue() { return state_.waiting() > 0; }
  int32_t GetTensorCountInQue() { return static_cast<int32_t>(state_.waiting()); }
  bool HasIdleBuffer() { return state_.HasIdle(); }
  void FreeAllEvent() { state_.TakeFreeFlags(ascendc_emulator::CurrentCore(), kEvents.back); }

  // For TPipe::InitBuffer.
  void AddBuffer(ascendc_emulator::LocalBuffer* buffer, bool first) { state_.AddBuffer(buffer, first); }

 private:
  static constexpr ascendc_emulator::QueueEvents kEvents = ascendc_emulator::QueueEventsOf(src, dst);

  template <TPosition from, TPosition to>
  static constexpr HardEvent UserEvent() {
    return ascendc_emulator::QueueEventsOf(from, to).forward;
  }

  template <typename T>
  static LocalTensor<T> TensorOf(ascendc_emulator::LocalBuffer* buffer) {
    LocalTensor<T> tensor;
    tensor.view() = ascendc_emulator::ViewOf(buffer, kHome);
    return tensor;
  }

  ascendc_emulator::QueueState state_;
};

// Where a queue at `pos` gets its data from, and where the data goes.
constexpr TPosition GetBufferLogicPos(TPosition pos, bool isSrc) {
  switch (pos) {
    case TPosition::A1:
    case TPosition::B1:
    case TPosition::C1:
    case TPosition::VECIN:
      return isSrc ? TPosition::GM : pos;
    case TPosition::A2:
      return isSrc ? TPosition::A1 : pos;
    case TPosition::B2:
      return isSrc ? TPosition::B1 : pos;
    case TPosition::C2:
      return isSrc ? TPosition::C1 : pos;
    case TPosition::CO1:
      return isSrc ? pos : TPosition::CO2;
    case TPosition::CO2:
    case TPosition::VECOUT:
      return isSrc ? pos : TPosition::GM;
    case TPosition::SPM:
      return isSrc ? TPosition::VECOUT : TPosition::GM;
    case TPosition::C2PIPE2GM:
      return isSrc ? TPosition::B1 : pos;
    default:
      return TPosition::MAX;
  }
}

template <TPosition pos, int32_t depth, auto mask = 0>
class TQue : public TQueBind<GetBufferLogicPos(pos, true), GetBufferLogicPos(pos, false), depth, mask> {
  static_assert(GetBufferLogicPos(pos, true) != TPosition::MAX, "no queue at this position");
};

template <TPosition pos = TPosition::LCM>
class TBuf {
 public:
  static constexpr bool isTQue = false;

  template <typename T>
  LocalTensor<T> Get() {
    return GetWithOffset<T>(Buffer()->bytes / sizeof(T), 0);
  }

  template <typename T>
  LocalTensor<T> Get(uint32_t len) {
    return GetWithOffset<T>(len, 0);
  }

  // `size` elements from byte `bufOffset`.
  template <typename T>
  LocalTensor<T> GetWithOffset(uint32_t size, uint32_t bufOffset) {
    ascendc_emulator::LocalBuffer* buffer = Buffer();
    const uint64_t end = bufOffset + uint64_t{size} * sizeof(T);
    if (end > buffer->bytes) {
      ascendc_emulator::Refuse("bytes [", bufOffset, ", ", end, ") of a TBuf of ", buffer->bytes, " bytes");
    }
    LocalTensor<T> tensor;
    tensor.view() = ascendc_emulator::ViewOf(buffer, pos);
    tensor.view().offset += bufOffset;
    tensor.view().bytes = size * sizeof(T);
    return tensor;
  }

  // For TPipe::InitBuffer.
  void SetBuffer(ascendc_emulator::LocalBuffer* buffer) { buffer_ = buffer; }

 private:
  ascendc_emulator::LocalBuffer* Buffer() const {
    ascendc_emulator::CurrentCore().set_api("TBuf::Get");
    if (buffer_ == nullptr) ascendc_emulator::Refuse("the TBuf has no buffer, InitBuffer is missing");
    return buffer_;
  }

  ascendc_emulator::LocalBuffer* buffer_ = nullptr;
};

}  // namespace AscendC
