// Into the cube unit: GM -> L1 with ND to NZ, and L1 (or GM) -> L0A / L0B, fractal by fractal.
//
// A fractal travels whole, with the bytes of its padding that nobody ever wrote: they stay unwritten where they arrive,
// and Mmad refuses them only if they are part of the product.
#pragma once

#include "cube_params.h"
#include "fractal.h"
#include "tensor.h"

namespace ascendc_emulator {

inline void CheckRangeOf(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) Refuse(name, " is ", value, ", allowed are ", least, " to ", most);
}

// ---- GM -> L1, ND to NZ

inline void CheckNd2Nz(const AscendC::Nd2NzParams& params, uint32_t element_bytes) {
  CheckRangeOf("ndNum", params.ndNum, 1, 4095);
  CheckRangeOf("nValue", params.nValue, 1, 16384);
  CheckRangeOf("dValue", params.dValue, 1, 65535);
  CheckRangeOf("srcDValue", params.srcDValue, 1, 65535);
  CheckRangeOf("dstNzC0Stride", params.dstNzC0Stride, 1, 16384);
  CheckRangeOf("dstNzNStride", params.dstNzNStride, 1, 16384);
  if (params.ndNum == 1) return;
  CheckRangeOf("dstNzMatrixStride", params.dstNzMatrixStride, 0, 16384);
  if (params.dstNzMatrixStride * element_bytes % kFractalRowBytes != 0) {
    Refuse("dstNzMatrixStride is ", params.dstNzMatrixStride, " elements of ", element_bytes,
           " bytes, it must be a multiple of 32 bytes");
  }
}

// The rows of 32 bytes that one copy has filled so far: it must not fill any twice, the chip promises no order.
class FilledRows {
 public:
  void Add(uint32_t row) {
    if (row >= filled_.size()) filled_.resize(row + 1, false);
    if (filled_[row]) Refuse("writes bytes [", row * 32, ", ", (row + 1) * 32, ") of its destination twice");
    filled_[row] = true;
  }

 private:
  std::vector<bool> filled_;
};

template <typename T>
void CopyNdToNz(const LocalView& to, const AscendC::GlobalTensor<T>& from, const AscendC::Nd2NzParams& params) {
  Instruction copy(kPipeMte2, "DataCopy with Nd2NzParams");
  to.CheckIn(kL1, "dst");
  to.CheckAligned(32, "dst");
  CheckNd2Nz(params, sizeof(T));
  FilledRows filled;
  const uint32_t row_bytes = params.dValue * sizeof(T);
  for (uint32_t matrix = 0; matrix < params.ndNum; ++matrix) {
    const uint32_t matrix_row = matrix * params.dstNzMatrixStride * sizeof(T) / kFractalRowBytes;
    for (uint32_t n = 0; n < params.nValue; ++n) {
      const uint64_t source = uint64_t{matrix} * params.srcNdMatrixStride + uint64_t{n} * params.srcDValue;
      const uint8_t* row = copy->ReadGm(from.region(), from[source].GetPhyAddr(), row_bytes);
      for (uint32_t column = 0; column * kFractalRowBytes < row_bytes; ++column) {
        const uint32_t place = matrix_row + column * params.dstNzC0Stride + n * params.dstNzNStride;
        filled.Add(place);
        const uint32_t address = to.Range(uint64_t{place} * kFractalRowBytes, kFractalRowBytes, "dst");
        uint8_t* target = copy->Write(kL1, address, kFractalRowBytes);
        const uint32_t taken = std::min(kFractalRowBytes, row_bytes - column * kFractalRowBytes);
        std::memcpy(target, row + column * kFractalRowBytes, taken);
        std::memset(target + taken, 0, kFractalRowBytes - taken);
      }
    }
  }
  copy->counters().bytes[kPipeMte2] += uint64_t{params.ndNum} * params.nValue * row_bytes;
  copy->counters().mte2_rows += uint64_t{params.ndNum} * params.nValue;
  ++copy->counters().dma_instructions[kPipeMte2];
}

// ---- L1 -> L0A / L0B

// Bytes on their way, each with whether it holds a value.
struct Carried {
  uint8_t data[2 * kFractalBytes];
  uint8_t written[2 * kFractalBytes];
};

inline MemoryId CheckL0(const LocalView& to) {
  to.CheckUsable("dst");
  if (to.memory != kL0A && to.memory != kL0B) {
    Refuse("dst is at ", PositionName(to.position), ", it must be at A2 or B2");
  }
  to.CheckAligned(kFractalBytes, "dst");
  return to.memory;
}

inline void Fetch(const Instruction& load, const LocalView& from, uint64_t start, uint32_t bytes, Carried* carried) {
  const uint32_t address = from.Range(start, bytes, "src");
  std::memcpy(carried->data, load->ReadPadded(from.memory, address, bytes), bytes);
  std::memcpy(carried->written, load->Memory(from.memory).written(address), bytes);
  if (std::memchr(carried->written, 1, bytes) == nullptr) {
    Refuse("loads bytes [", address, ", ", address + bytes, ") of ", MemoryName(from.memory),
           ", none of which was ever written");
  }
}

inline void Deliver(const Instruction& load, const LocalView& to, uint64_t start, const uint8_t* data,
                    const uint8_t* written) {
  const uint32_t address = to.Range(start, kFractalBytes, "dst");
  std::memcpy(load->Write(to.memory, address, kFractalBytes), data, kFractalBytes);
  std::memcpy(load->Memory(to.memory).written(address), written, kFractalBytes);
}

// dst[row r, column c] = src[row c, column r] of squares of `side` elements. In squares that are two fractals wide the
// left half comes first, as it does for 32-bit types; squares two fractals high are plain rows.
template <typename T>
void TransposeSquare(const uint8_t* from, uint8_t* to, uint32_t item_bytes) {
  constexpr uint32_t columns = kC0<T>;
  constexpr uint32_t side = columns > kFractalRows ? columns : kFractalRows;
  auto place = [](uint32_t row, uint32_t column) {
    return column / columns * kFractalRows * columns + row * columns + column % columns;
  };
  for (uint32_t row = 0; row < side; ++row) {
    for (uint32_t column = 0; column < side; ++column) {
      std::memcpy(to + place(row, column) * item_bytes, from + place(column, row) * item_bytes, item_bytes);
    }
  }
}

template <typename T>
void TransposeCarried(Carried* carried) {
  const Carried source = *carried;
  TransposeSquare<T>(source.data, carried->data, sizeof(T));
  TransposeSquare<T>(source.written, carried->written, sizeof(T));
}

inline void CountLoad(const Instruction& load, Pipe pipe, uint64_t bytes) {
  load->counters().bytes[pipe] += bytes;
  ++load->counters().dma_instructions[pipe];
}

inline void CheckRepeat(uint32_t repeat_times) {
  if (repeat_times == 0) Refuse("repeatTimes is 0, so nothing would be loaded; allowed are 1 to 255");
}

template <typename T>
void LoadFractals(const LocalView& to, const LocalView& from, const AscendC::LoadData2DParams& params) {
  Instruction load(kPipeMte1, "LoadData");
  CheckL0(to);
  from.CheckIn(kL1, "src");
  from.CheckAligned(32, "src");
  CheckRepeat(params.repeatTimes);
  if (params.addrMode != 0) Refuse("addrMode is ", int{params.addrMode}, ", from L1 it must be 0");
  if (params.ifTranspose && sizeof(T) != 2) {
    Refuse("ifTranspose with elements of ", sizeof(T), " bytes: LoadData transposes 16-bit types only, ",
           "use LoadDataWithTranspose");
  }
  Carried carried;
  for (uint32_t i = 0; i < params.repeatTimes; ++i) {
    Fetch(load, from, uint64_t{params.startIndex + i * params.srcStride} * kFractalBytes, kFractalBytes, &carried);
    if constexpr (sizeof(T) == 2) {
      if (params.ifTranspose) TransposeCarried<T>(&carried);
    }
    Deliver(load, to, uint64_t{i} * (params.dstGap + 1) * kFractalBytes, carried.data, carried.written);
  }
  CountLoad(load, kPipeMte1, uint64_t{params.repeatTimes} * kFractalBytes);
}

template <typename T>
void LoadFractalsFromGm(const LocalView& to, const AscendC::GlobalTensor<T>& from,
                        const AscendC::LoadData2DParams& params) {
  Instruction load(kPipeMte2, "LoadData");
  if (to.memory == kL1) {
    to.CheckAligned(32, "dst");
  } else {
    CheckL0(to);
  }
  CheckRepeat(params.repeatTimes);
  if (params.ifTranspose) Refuse("ifTranspose from GM: only loads from L1 transpose");
  const int64_t step = params.addrMode == 0 ? params.srcStride : -int64_t{params.srcStride};
  const std::vector<uint8_t> written(kFractalBytes, 1);
  for (int64_t i = 0; i < params.repeatTimes; ++i) {
    const auto* source = reinterpret_cast<const uint8_t*>(from.GetPhyAddr()) +
                         (params.startIndex + i * step) * int64_t{kFractalBytes};
    Deliver(load, to, i * (params.dstGap + 1) * kFractalBytes,
            load->ReadGm(from.region(), source, kFractalBytes), written.data());
  }
  CountLoad(load, kPipeMte2, uint64_t{params.repeatTimes} * kFractalBytes);
}

template <typename T>
void LoadTransposedSquares(const LocalView& to, const LocalView& from,
                           const AscendC::LoadData2dTransposeParams& params) {
  constexpr uint32_t fractals = sizeof(T) == 2 ? 1 : 2;
  Instruction load(kPipeMte1, "LoadDataWithTranspose");
  CheckL0(to);
  from.CheckIn(kL1, "src");
  from.CheckAligned(32, "src");
  CheckRepeat(params.repeatTimes);
  if (std::is_same_v<T, int16_t> || std::is_same_v<T, uint16_t>) {
    Refuse("int16_t and uint16_t: of 16-bit types, half and bfloat16_t are allowed");
  }
  if (params.addrMode != 0) Refuse("addrMode is ", int{params.addrMode}, ", it must be 0");
  Carried carried;
  for (uint32_t i = 0; i < params.repeatTimes; ++i) {
    const uint64_t square = params.startIndex + i * params.srcStride;
    Fetch(load, from, square * fractals * kFractalBytes, fractals * kFractalBytes, &carried);
    TransposeCarried<T>(&carried);
    for (uint32_t part = 0; part < fractals; ++part) {
      const uint64_t place = uint64_t{i} * (params.dstGap + 1) + uint64_t{part} * (params.dstFracGap + 1);
      Deliver(load, to, place * kFractalBytes, carried.data + part * kFractalBytes,
              carried.written + part * kFractalBytes);
    }
  }
  CountLoad(load, kPipeMte1, uint64_t{params.repeatTimes} * fractals * kFractalBytes);
}

}  // namespace ascendc_emulator

namespace AscendC {

template <typename T>
inline void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const Nd2NzParams& params) {
  ascendc_emulator::CopyNdToNz(dst.view(), src, params);
}

template <typename T>
inline void LoadData(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LoadData2DParams& params) {
  ascendc_emulator::LoadFractals<T>(dst.view(), src.view(), params);
}

template <typename T>
inline void LoadData(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const LoadData2DParams& params) {
  ascendc_emulator::LoadFractalsFromGm(dst.view(), src, params);
}

template <typename T>
inline void LoadDataWithTranspose(const LocalTensor<T>& dst, const LocalTensor<T>& src,
                                  const LoadData2dTransposeParams& params) {
  ascendc_emulator::LoadTransposedSquares<T>(dst.view(), src.view(), params);
}

}  // namespace AscendC
