// LocalTensor and GlobalTensor: what kernels name memory with.
#pragma once

#include "position.h"

namespace ascendc_emulator {

// What a LocalTensor stands for, without its element type. Instructions take their operands as these.
struct LocalView {
  MemoryId memory = kNumMemories;
  AscendC::TPosition position = AscendC::TPosition::MAX;
  uint32_t offset = 0;  // in the memory
  uint32_t bytes = 0;
  LocalBuffer* buffer = nullptr;
  uint32_t generation = 0;

  void CheckUsable(const char* operand) const {
    if (memory == kNumMemories) Refuse(operand, " is a LocalTensor without a buffer");
    if (buffer != nullptr && buffer->generation != generation) {
      Refuse(operand, " is a LocalTensor of ", PositionName(position), " that was freed by FreeTensor");
    }
  }

  // The address of byte `start`, after checking that [start, start + size) lies in the tensor.
  uint32_t Range(uint64_t start, uint64_t size, const char* operand) const {
    CheckUsable(operand);
    if (start + size > bytes) {
      Refuse(operand, " uses bytes [", start, ", ", start + size, ") of a tensor of ", bytes, " bytes at ",
             PositionName(position));
    }
    return offset + static_cast<uint32_t>(start);
  }

  void CheckAligned(uint32_t alignment, const char* operand) const {
    if (offset % alignment != 0) {
      Refuse(operand, " starts at byte ", offset, " of ", MemoryName(memory), ", its address must be a multiple of ",
             alignment);
    }
  }

  void CheckIn(MemoryId expected, const char* operand) const {
    CheckUsable(operand);
    if (memory != expected) {
      Refuse(operand, " is at ", PositionName(position), ", it must be in ", MemoryName(expected));
    }
  }
};

}  // namespace ascendc_emulator

namespace AscendC {

template <typename T>
class LocalTensor {
 public:
  using PrimType = T;

  LocalTensor() = default;

  T GetValue(const uint32_t index) const {
    ascendc_emulator::Instruction read(ascendc_emulator::kPipeS, "GetValue");
    const uint32_t address = view_.Range(uint64_t{index} * sizeof(T), sizeof(T), "the LocalTensor");
    ++read->counters().scalar_local_reads;
    T value;
    std::memcpy(&value, read->Read(view_.memory, address, sizeof(T)), sizeof(T));
    return value;
  }

  template <typename T1>
  void SetValue(const uint32_t index, const T1 value) const {
    ascendc_emulator::Instruction write(ascendc_emulator::kPipeS, "SetValue");
    const uint32_t address = view_.Range(uint64_t{index} * sizeof(T), sizeof(T), "the LocalTensor");
    const T converted = static_cast<T>(value);
    std::memcpy(write->Write(view_.memory, address, sizeof(T)), &converted, sizeof(T));
  }

  LocalTensor operator[](const uint32_t offset) const {
    LocalTensor shifted = *this;
    const uint64_t bytes = uint64_t{offset} * sizeof(T);
    ascendc_emulator::CurrentCore().set_api("LocalTensor::operator[]");
    view_.Range(bytes, 0, "the LocalTensor");
    shifted.view_.offset += static_cast<uint32_t>(bytes);
    shifted.view_.bytes -= static_cast<uint32_t>(bytes);
    return shifted;
  }

  template <typename CAST_T>
  LocalTensor<CAST_T> ReinterpretCast() const {
    LocalTensor<CAST_T> cast;
    cast.view() = view_;
    return cast;
  }

  int32_t GetPosition() const { return static_cast<int32_t>(view_.position); }
  void SetSize(const uint32_t size) { view_.bytes = size * sizeof(T); }
  uint32_t GetSize() const { return view_.bytes / sizeof(T); }
  void SetUserTag(const int32_t tag) { tag_ = tag; }
  int32_t GetUserTag() const { return tag_; }

  const ascendc_emulator::LocalView& view() const { return view_; }
  ascendc_emulator::LocalView& view() { return view_; }

 private:
  ascendc_emulator::LocalView view_;
  int32_t tag_ = -1;
};

template <typename T>
class GlobalTensor {
 public:
  using PrimType = T;

  void SetGlobalBuffer(__gm__ T* buffer, uint64_t size) {
    address_ = buffer;
    size_ = size;
    region_ = ascendc_emulator::CurrentCore().launch().Find(buffer);
  }
  void SetGlobalBuffer(__gm__ T* buffer) { SetGlobalBuffer(buffer, 0); }

  const __gm__ T* GetPhyAddr() const { return address_; }
  __gm__ T* GetPhyAddr(const uint64_t offset) const { return address_ + offset; }
  uint64_t GetSize() const { return size_; }

  GlobalTensor operator[](const uint64_t offset) const {
    GlobalTensor shifted = *this;
    shifted.address_ = address_ + offset;
    return shifted;
  }

  T GetValue(const uint64_t offset) const {
    ascendc_emulator::Instruction read(ascendc_emulator::kPipeS, "GlobalTensor::GetValue");
    read->counters().scalar_gm_bytes_read += sizeof(T);
    T value;
    std::memcpy(&value, read->ReadGm(region(), address_ + offset, sizeof(T)), sizeof(T));
    return value;
  }

  void SetValue(const uint64_t offset, T value) {
    ascendc_emulator::Instruction write(ascendc_emulator::kPipeS, "GlobalTensor::SetValue");
    write->counters().scalar_gm_bytes_written += sizeof(T);
    std::memcpy(write->WriteGm(region(), address_ + offset, sizeof(T)), &value, sizeof(T));
  }

  template <CacheRwMode mode = CacheRwMode::RW>
  void SetL2CacheHint(CacheMode) {}

  // The launch's buffer that this tensor's base lies in.
  ascendc_emulator::GmRegion* region() const {
    if (region_ == nullptr) {
      ascendc_emulator::Refuse("the GlobalTensor's address is in none of the buffers of this launch");
    }
    return region_;
  }

 private:
  __gm__ T* address_ = nullptr;
  uint64_t size_ = 0;
  ascendc_emulator::GmRegion* region_ = nullptr;
};

}  // namespace AscendC
