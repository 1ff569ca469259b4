// Fixpipe: results out of L0C, to GM as rows or as fractals, or to L1 as fractals, converted on the way.
#pragma once

#include "cube_mmad.h"

namespace ascendc_emulator {

constexpr uint32_t kFixpipeAlignment = 64;  // 16 accumulators

template <typename Src, typename Dst>
constexpr bool IsFixpipeTypes() {
  if (std::is_same_v<Src, int32_t>) return std::is_same_v<Dst, int32_t>;
  return std::is_same_v<Src, float> &&
         (std::is_same_v<Dst, float> || std::is_same_v<Dst, half> || std::is_same_v<Dst, bfloat16_t>);
}

template <typename Dst>
constexpr QuantMode_t QuantModeFor() {
  if (std::is_same_v<Dst, half>) return QuantMode_t::F322F16;
  return std::is_same_v<Dst, bfloat16_t> ? QuantMode_t::F322BF16 : QuantMode_t::NoQuant;
}

template <typename Dst, typename Src>
void CheckFixpipe(const LocalView& src, const AscendC::FixpipeParamsV220& params, bool rows_out) {
  src.CheckIn(kL0C, "src");
  src.CheckAligned(kFixpipeAlignment, "src");
  if (!IsFixpipeTypes<Src, Dst>()) {
    Refuse("this combination of types: emulated are float -> float, half or bfloat16_t, and int32_t -> int32_t");
  }
  if (params.quantPre != QuantModeFor<Dst>()) {
    Refuse("quantPre is ", int{params.quantPre}, ", these types need ", int{QuantModeFor<Dst>()},
           " (NoQuant is 0, F322F16 1, F322BF16 2)");
  }
  CheckRangeOf("nSize", params.nSize, 1, 4095);
  CheckRangeOf("mSize", params.mSize, 1, rows_out ? 8192 : 65535);
  if (!rows_out && params.nSize % kFractalRows != 0) {
    Refuse("nSize is ", params.nSize, ", in format NZ it must be a multiple of 16");
  }
  if (params.dstStride == 0) Refuse("dstStride is 0, it must be at least 1");
  if (params.nSize > kFractalRows && params.srcStride < params.mSize) {
    Refuse("srcStride is ", params.srcStride, ", but the columns of fractals are mSize = ", params.mSize, " rows high");
  }
  if (params.isChannelSplit) Refuse("isChannelSplit is not emulated");
  // The documentation names two units for srcNdStride, so nothing that depends on it can be trusted.
  if (rows_out && params.ndNum != 1) Refuse("ndNum is ", params.ndNum, ", only 1 is emulated: call it once a matrix");
}

template <typename Dst, typename Src>
Dst ConvertAccumulator(Src value, bool relu) {
  if (relu && !(value > Src{0})) value = Src{0};
  return Dst(value);
}

// Reads `count` accumulators from element `start` of `src` on, and converts them.
template <typename Dst, typename Src>
std::vector<Dst> ReadAccumulators(const Instruction& fixpipe, const LocalView& src, uint64_t start, uint32_t count,
                                  const AscendC::FixpipeParamsV220& params) {
  const uint32_t bytes = count * sizeof(Src);
  const uint8_t* from = fixpipe->Read(kL0C, src.Range(start * sizeof(Src), bytes, "src"), bytes);
  std::vector<Dst> values(count);
  for (uint32_t i = 0; i < count; ++i) {
    Src value;
    std::memcpy(&value, from + i * sizeof(Src), sizeof(Src));
    values[i] = ConvertAccumulator<Dst>(value, params.reluEn);
  }
  return values;
}

// Gives `store(destination in bytes, values)` every stretch of at most 16 results of a row.
template <typename Dst, typename Src, typename Store>
void ForEachResult(const Instruction& fixpipe, const LocalView& src, const AscendC::FixpipeParamsV220& params,
                   bool rows_out, Store store) {
  for (uint64_t row = 0; row < params.mSize; ++row) {
    for (uint64_t column = 0; column < params.nSize; column += kFractalRows) {
      const uint32_t count = std::min<uint32_t>(kFractalRows, params.nSize - column);
      const uint64_t start = AccumulatorOffset(row, column, params.srcStride);
      const uint64_t place_in_rows = (row * params.dstStride + column) * sizeof(Dst);
      const uint64_t place_in_fractals =
          column / kFractalRows * params.dstStride * 32 + row * kFractalRows * sizeof(Dst);
      const uint64_t place = rows_out ? place_in_rows : place_in_fractals;
      store(place, ReadAccumulators<Dst, Src>(fixpipe, src, start, count, params));
    }
  }
}

// What both destinations have in common; the API itself puts a PipeBarrier<PIPE_FIX> in front.
template <typename Dst, typename Src, typename Store>
void MoveResults(const LocalView& src, const AscendC::FixpipeParamsV220& params, bool rows_out, Store store) {
  CurrentCore().Barrier(kPipeFix);
  Instruction fixpipe(kPipeFix, "Fixpipe");
  CheckFixpipe<Dst, Src>(src, params, rows_out);
  if constexpr (IsFixpipeTypes<Src, Dst>()) {
    const uint32_t columns = CeilDivide(params.nSize, kFractalRows);
    const uint32_t rows = CeilDivide(params.mSize, kFractalRows) * kFractalRows;
    for (uint32_t column = 0; column < columns && params.unitFlag != 0; ++column) {
      const uint32_t bytes = rows * kFractalRows * sizeof(Src);
      const uint64_t start = uint64_t{column} * params.srcStride * kFractalRows * sizeof(Src);
      PassUnitFlags(fixpipe, src.Range(start, bytes, "src"), bytes, params.unitFlag, false);
    }
    if (params.unitFlag != 0) fixpipe->FollowsByHardware(kPipeM);
    uint64_t bytes = 0;
    ForEachResult<Dst, Src>(fixpipe, src, params, rows_out, [&](uint64_t place, const std::vector<Dst>& values) {
      const uint32_t size = static_cast<uint32_t>(values.size() * sizeof(Dst));
      std::memcpy(store(fixpipe, place, size), values.data(), size);
      bytes += size;
    });
    CountLoad(fixpipe, kPipeFix, bytes);
  }
}

template <typename Dst, typename Src>
void FixpipeToGm(const AscendC::GlobalTensor<Dst>& dst, const LocalView& src,
                 const AscendC::FixpipeParamsV220& params, AscendC::CO2Layout format) {
  const bool rows_out = format == AscendC::CO2Layout::ROW_MAJOR;
  MoveResults<Dst, Src>(src, params, rows_out, [&](const Instruction& fixpipe, uint64_t place, uint32_t bytes) {
    auto* address = const_cast<uint8_t*>(reinterpret_cast<const uint8_t*>(dst.GetPhyAddr())) + place;
    const uint64_t offset = static_cast<uint64_t>(address - dst.region()->begin());
    if (!rows_out && offset % 32 != 0) {
      Refuse("dst is byte ", offset, " of GM buffer '", dst.region()->name(),
             "', in format NZ it must be a multiple of 32");
    }
    return fixpipe->WriteGm(dst.region(), address, bytes);
  });
}

template <typename Dst, typename Src>
void FixpipeToL1(const LocalView& dst, const LocalView& src, const AscendC::FixpipeParamsV220& params,
                 AscendC::CO2Layout format) {
  CurrentCore().set_api("Fixpipe");
  dst.CheckIn(kL1, "dst");
  dst.CheckAligned(32, "dst");
  if (format != AscendC::CO2Layout::NZ) Refuse("to L1 the format must be CFG_NZ");
  if (std::is_same_v<Dst, Src>) Refuse("to L1 float must become half or bfloat16_t");
  MoveResults<Dst, Src>(src, params, false, [&](const Instruction& fixpipe, uint64_t place, uint32_t bytes) {
    return fixpipe->Write(kL1, dst.Range(place, bytes, "dst"), bytes);
  });
}

}  // namespace ascendc_emulator

namespace AscendC {

template <typename DstT, typename SrcT, const FixpipeConfig& config = CFG_ROW_MAJOR>
inline void Fixpipe(const GlobalTensor<DstT>& dst, const LocalTensor<SrcT>& src, const FixpipeParamsV220& params) {
  static_assert(config.format != CO2Layout::COLUMN_MAJOR, "Atlas A2 has no CFG_COLUMN_MAJOR");
  ascendc_emulator::FixpipeToGm<DstT, SrcT>(dst, src.view(), params, config.format);
}

template <typename DstT, typename SrcT, const FixpipeConfig& config = CFG_ROW_MAJOR>
inline void Fixpipe(const LocalTensor<DstT>& dst, const LocalTensor<SrcT>& src, const FixpipeParamsV220& params) {
  ascendc_emulator::FixpipeToL1<DstT, SrcT>(dst.view(), src.view(), params, config.format);
}

}  // namespace AscendC
