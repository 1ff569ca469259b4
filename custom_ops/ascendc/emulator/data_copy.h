// DataCopy and DataCopyPad between global memory and on-chip memory, and DataCopy within UB.
#pragma once

#include "element.h"
#include "params.h"
#include "vector.h"

namespace ascendc_emulator {

constexpr uint32_t kMaxBlockCount = 4095;
constexpr uint32_t kMaxPadBlockBytes = 2097151;
constexpr uint32_t kMaxPadding = 32;

// Blocks of equal length, from one side to the other; strides are from start to start, in bytes.
struct Blocks {
  uint32_t count;
  uint32_t bytes;
  uint64_t source_stride;
  uint64_t target_stride;
};

inline void CheckBlockCount(uint32_t count) {
  if (count > kMaxBlockCount) Refuse("block count ", count, ", at most ", kMaxBlockCount, " are allowed");
}

inline void CheckPadBlock(const AscendC::DataCopyExtParams& params, uint32_t element_bytes) {
  CheckBlockCount(params.blockCount);
  if (params.blockLen > kMaxPadBlockBytes) {
    Refuse("block length ", params.blockLen, " bytes, at most ", kMaxPadBlockBytes, " are allowed");
  }
  if (params.blockLen % element_bytes != 0) {
    Refuse("block length ", params.blockLen, " bytes, it must be a multiple of the element's ", element_bytes);
  }
}

// 32-byte blocks on both sides.
inline Blocks BlocksOf(const AscendC::DataCopyParams& params) {
  CheckBlockCount(params.blockCount);
  const uint32_t bytes = params.blockLen * kBlockBytes;
  return {params.blockCount, bytes, bytes + uint64_t{params.srcStride} * kBlockBytes,
          bytes + uint64_t{params.dstStride} * kBlockBytes};
}

inline Blocks BlocksOfCount(uint64_t count, uint32_t element_bytes) {
  const uint64_t bytes = count * element_bytes;
  if (bytes % kBlockBytes != 0) Refuse("copies ", bytes, " bytes, DataCopy needs a multiple of ", kBlockBytes);
  if (bytes / kBlockBytes > 65535) Refuse("copies ", bytes, " bytes, at most 65535 blocks of 32 are allowed");
  return {bytes == 0 ? 0u : 1u, static_cast<uint32_t>(bytes), bytes, bytes};
}

inline void CheckCopySide(const LocalView& view, const char* name) {
  view.CheckUsable(name);
  if (view.memory != kUb && view.memory != kL1) {
    Refuse(name, " is at ", PositionName(view.position), ", DataCopy has no way between there and GM");
  }
  view.CheckAligned(kBlockBytes, name);
}

template <typename T>
void CheckGmAligned(const T* address, const char* name) {
  if (reinterpret_cast<uintptr_t>(address) % sizeof(T) != 0) {
    Refuse(name, " in GM is not aligned to its element's ", sizeof(T), " bytes");
  }
}

inline bool IsEmpty(const Blocks& blocks) { return blocks.count == 0 || blocks.bytes == 0; }

inline void CountDma(Core& core, Pipe pipe, uint64_t bytes) {
  core.counters().bytes[pipe] += bytes;
  ++core.counters().dma_instructions[pipe];
}

template <typename T>
void CopyIn(const AscendC::LocalTensor<T>& dst, const AscendC::GlobalTensor<T>& src, const Blocks& blocks) {
  if (IsEmpty(blocks)) return;
  Instruction copy(kPipeMte2, "DataCopy");
  const LocalView& view = dst.view();
  CheckCopySide(view, "dst");
  CheckGmAligned(src.GetPhyAddr(), "src");
  const auto* from = reinterpret_cast<const uint8_t*>(src.GetPhyAddr());
  for (uint32_t i = 0; i < blocks.count; ++i) {
    const uint32_t at = view.Range(i * blocks.target_stride, blocks.bytes, "dst");
    const uint8_t* data = copy->ReadGm(src.region(), from + i * blocks.source_stride, blocks.bytes);
    std::memcpy(copy->Write(view.memory, at, blocks.bytes), data, blocks.bytes);
  }
  CountDma(copy.core(), kPipeMte2, uint64_t{blocks.count} * blocks.bytes);
  copy.core().counters().mte2_rows += blocks.count;
}

template <typename T>
void CopyOut(const AscendC::GlobalTensor<T>& dst, const AscendC::LocalTensor<T>& src, const Blocks& blocks) {
  if (IsEmpty(blocks)) return;
  Instruction copy(kPipeMte3, "DataCopy");
  const LocalView& view = src.view();
  CheckCopySide(view, "src");
  CheckGmAligned(dst.GetPhyAddr(), "dst");
  const auto* to = reinterpret_cast<const uint8_t*>(dst.GetPhyAddr());
  for (uint32_t i = 0; i < blocks.count; ++i) {
    const uint32_t at = view.Range(i * blocks.source_stride, blocks.bytes, "src");
    const uint8_t* data = copy->Read(view.memory, at, blocks.bytes);
    std::memcpy(copy->WriteGm(dst.region(), to + i * blocks.target_stride, blocks.bytes), data, blocks.bytes);
  }
  CountDma(copy.core(), kPipeMte3, uint64_t{blocks.count} * blocks.bytes);
}

template <typename T>
void CopyWithin(const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& src, const Blocks& blocks) {
  if (IsEmpty(blocks)) return;
  VectorInstruction copy("DataCopy");
  dst.view().CheckIn(kUb, "dst");
  src.view().CheckIn(kUb, "src");
  CheckCopySide(dst.view(), "dst");
  CheckCopySide(src.view(), "src");
  const uint32_t source_end = static_cast<uint32_t>((blocks.count - 1) * blocks.source_stride + blocks.bytes);
  const uint32_t target_end = static_cast<uint32_t>((blocks.count - 1) * blocks.target_stride + blocks.bytes);
  const uint32_t source = src.view().Range(0, source_end, "src"), target = dst.view().Range(0, target_end, "dst");
  if (source < target + target_end && target < source + source_end) Refuse("src and dst overlap");
  for (uint32_t i = 0; i < blocks.count; ++i) {
    const uint8_t* data = copy->Read(kUb, source + static_cast<uint32_t>(i * blocks.source_stride), blocks.bytes);
    uint8_t* to = copy->Write(kUb, target + static_cast<uint32_t>(i * blocks.target_stride), blocks.bytes);
    std::memcpy(to, data, blocks.bytes);
  }
  copy.Count((blocks.count * blocks.bytes + kRepeatBytes - 1) / kRepeatBytes);
}

// What surrounds each block in UB.
struct Padding {
  uint32_t left, right;  // bytes
  bool has_value;
  uint64_t value;  // an element's bytes
};

// Fills [begin, end) with copies of an element.
inline void FillElements(uint8_t* begin, const uint8_t* end, const void* element, uint32_t element_bytes) {
  for (; begin < end; begin += element_bytes) std::memcpy(begin, element, element_bytes);
}

template <typename T>
void CopyInPadded(const AscendC::LocalTensor<T>& dst, const AscendC::GlobalTensor<T>& src,
                  const AscendC::DataCopyExtParams& params, const Padding& padding) {
  Instruction copy(kPipeMte2, "DataCopyPad");
  CheckPadBlock(params, sizeof(T));
  if (params.blockCount == 0 || params.blockLen == 0) return;
  if (padding.left > kMaxPadding || padding.right > kMaxPadding) {
    Refuse("padding of ", padding.left, " and ", padding.right, " bytes, at most ", kMaxPadding, " on each side");
  }
  const LocalView& view = dst.view();
  view.CheckIn(kUb, "dst");  // this chip pads nowhere else
  CheckCopySide(view, "dst");
  const auto* from = reinterpret_cast<const uint8_t*>(src.GetPhyAddr());
  const uint32_t used = padding.left + params.blockLen + padding.right;
  const uint32_t filled = (used + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  for (uint64_t i = 0; i < params.blockCount; ++i) {
    const uint32_t at = view.Range(i * (filled + uint64_t{params.dstStride} * kBlockBytes), filled, "dst");
    const uint8_t* data =
        copy->ReadGm(src.region(), from + i * (uint64_t{params.blockLen} + params.srcStride), params.blockLen);
    uint8_t* to = copy->Write(view.memory, at, filled);
    // Without padding the chip completes the last 32 bytes with the block's first element.
    const bool padded = padding.left + padding.right != 0;
    const void* filler = padded ? static_cast<const void*>(&padding.value) : data;
    FillElements(to, to + padding.left, filler, sizeof(T));
    std::memcpy(to + padding.left, data, params.blockLen);
    FillElements(to + padding.left + params.blockLen, to + filled, filler, sizeof(T));
    if (padded && !padding.has_value) {
      copy->Memory(view.memory).Forget(at, padding.left);
      copy->Memory(view.memory).Forget(at + padding.left + params.blockLen, filled - padding.left - params.blockLen);
    }
  }
  CountDma(copy.core(), kPipeMte2, uint64_t{params.blockCount} * params.blockLen);
  copy.core().counters().mte2_rows += params.blockCount;
}

template <typename T>
void CopyOutPadded(const AscendC::GlobalTensor<T>& dst, const AscendC::LocalTensor<T>& src,
                   const AscendC::DataCopyExtParams& params) {
  Instruction copy(kPipeMte3, "DataCopyPad");
  CheckPadBlock(params, sizeof(T));
  if (params.blockCount == 0 || params.blockLen == 0) return;
  const LocalView& view = src.view();
  view.CheckIn(kUb, "src");
  CheckCopySide(view, "src");
  const auto* to = reinterpret_cast<const uint8_t*>(dst.GetPhyAddr());
  const uint32_t held = (params.blockLen + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  for (uint64_t i = 0; i < params.blockCount; ++i) {
    const uint32_t at = view.Range(i * (held + uint64_t{params.srcStride} * kBlockBytes), params.blockLen, "src");
    const uint8_t* data = copy->Read(view.memory, at, params.blockLen);
    const uint8_t* target = to + i * (uint64_t{params.blockLen} + params.dstStride);
    std::memcpy(copy->WriteGm(dst.region(), target, params.blockLen), data, params.blockLen);
  }
  CountDma(copy.core(), kPipeMte3, uint64_t{params.blockCount} * params.blockLen);
}

}  // namespace ascendc_emulator

namespace AscendC {

template <typename T>
inline void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyParams& repeatParams) {
  ascendc_emulator::CurrentCore().set_api("DataCopy");
  ascendc_emulator::CopyIn(dst, src, ascendc_emulator::BlocksOf(repeatParams));
}

template <typename T>
inline void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const uint32_t calCount) {
  ascendc_emulator::CurrentCore().set_api("DataCopy");
  ascendc_emulator::CopyIn(dst, src, ascendc_emulator::BlocksOfCount(calCount, sizeof(T)));
}

template <typename T>
inline void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& repeatParams) {
  ascendc_emulator::CurrentCore().set_api("DataCopy");
  ascendc_emulator::CopyOut(dst, src, ascendc_emulator::BlocksOf(repeatParams));
}

template <typename T>
inline void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const uint32_t calCount) {
  ascendc_emulator::CurrentCore().set_api("DataCopy");
  ascendc_emulator::CopyOut(dst, src, ascendc_emulator::BlocksOfCount(calCount, sizeof(T)));
}

template <typename T>
inline void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& repeatParams) {
  ascendc_emulator::CurrentCore().set_api("DataCopy");
  ascendc_emulator::CopyWithin(dst, src, ascendc_emulator::BlocksOf(repeatParams));
}

template <typename T>
inline void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const uint32_t calCount) {
  ascendc_emulator::CurrentCore().set_api("DataCopy");
  ascendc_emulator::CopyWithin(dst, src, ascendc_emulator::BlocksOfCount(calCount, sizeof(T)));
}

template <typename T>
inline void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyExtParams& params,
                        const DataCopyPadExtParams<T>& padParams) {
  uint64_t value = 0;
  std::memcpy(&value, &padParams.paddingValue, sizeof(T));
  const uint32_t left = padParams.leftPadding * sizeof(T), right = padParams.rightPadding * sizeof(T);
  ascendc_emulator::CopyInPadded(dst, src, params, {left, right, padParams.isPad, value});
}

template <typename T>
inline void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyExtParams& params) {
  ascendc_emulator::CopyOutPadded(dst, src, params);
}

// The older forms: block length in bytes too, 16 bits wide.
template <typename T>
inline void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyParams& params,
                        const DataCopyPadParams& padParams) {
  const DataCopyExtParams wide(params.blockCount, params.blockLen, params.srcStride, params.dstStride, 0);
  const uint32_t left = padParams.leftPadding * sizeof(T), right = padParams.rightPadding * sizeof(T);
  ascendc_emulator::CopyInPadded(dst, src, wide, {left, right, padParams.isPad, padParams.paddingValue});
}

template <typename T>
inline void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& params) {
  const DataCopyExtParams wide(params.blockCount, params.blockLen, params.srcStride, params.dstStride, 0);
  ascendc_emulator::CopyOutPadded(dst, src, wide);
}

}  // namespace AscendC
