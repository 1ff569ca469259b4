// Mmad: C (+)= A B on the cube unit, A in L0A, B in L0B, C in L0C.
#pragma once

#include "cube_load.h"

namespace ascendc_emulator {

constexpr uint32_t kAccumulatorAlignment = 1024;
constexpr uint32_t kUnitFlagBytes = 512;

template <typename C, typename A, typename B>
constexpr bool IsMmadTypes() {
  if (!std::is_same_v<A, B>) return false;
  if (std::is_same_v<A, int8_t>) return std::is_same_v<C, int32_t>;
  const bool is_float = std::is_same_v<A, half> || std::is_same_v<A, bfloat16_t> || std::is_same_v<A, float>;
  return is_float && std::is_same_v<C, float>;
}

template <typename C, typename T>
C ToAccumulator(const uint8_t* element) {
  T value;
  std::memcpy(&value, element, sizeof(T));
  if constexpr (std::is_integral_v<T>) return static_cast<C>(value);
  return static_cast<C>(static_cast<float>(value));
}

// Reads the part of an operand that counts: [lanes, k] in row order.
template <typename C, typename T>
std::vector<C> ReadOperand(const Instruction& mmad, const LocalView& from, const OperandLayout& layout,
                           const char* name) {
  std::vector<C> matrix(size_t{layout.lanes} * layout.k);
  const uint32_t k_fractals = CeilDivide(layout.k, layout.c0);
  for (uint32_t lane_fractal = 0; lane_fractal < layout.LaneFractals(); ++lane_fractal) {
    for (uint32_t k_fractal = 0; k_fractal < k_fractals; ++k_fractal) {
      const FractalPart part = layout.Part(lane_fractal, k_fractal);
      for (uint32_t row = 0; row < part.rows; ++row) {
        const uint64_t start = (uint64_t{part.element} + row * layout.c0) * sizeof(T);
        const uint32_t bytes = part.row_elements * sizeof(T);
        const uint8_t* elements = mmad->Read(from.memory, from.Range(start, bytes, name), bytes);
        C* target = &matrix[(size_t{lane_fractal} * kFractalRows + row) * layout.k + k_fractal * layout.c0];
        for (uint32_t i = 0; i < part.row_elements; ++i) target[i] = ToAccumulator<C, T>(elements + i * sizeof(T));
      }
    }
  }
  return matrix;
}

// With m = 1 the cube unit takes A as a plain vector of k elements (its "GEMV" mode), not as fractals.
template <typename C, typename T>
std::vector<C> ReadVector(const Instruction& mmad, const LocalView& from, uint32_t k) {
  std::vector<C> vector(k);
  const uint8_t* elements = mmad->Read(from.memory, from.Range(0, k * sizeof(T), "fm"), k * sizeof(T));
  for (uint32_t i = 0; i < k; ++i) vector[i] = ToAccumulator<C, T>(elements + i * sizeof(T));
  return vector;
}

// Calls `visit(address, row, first column, columns)` for every stretch of a row of C that lies in one fractal.
template <typename Visit>
void ForEachAccumulatorRow(const LocalView& c, uint32_t m, uint32_t n, uint32_t item_bytes, Visit visit) {
  const uint32_t column_stride = CeilDivide(m, kFractalRows) * kFractalRows;
  for (uint32_t column = 0; column < n; column += kFractalRows) {
    const uint32_t columns = std::min(kFractalRows, n - column);
    for (uint32_t row = 0; row < m; ++row) {
      const uint64_t start = uint64_t{AccumulatorOffset(row, column, column_stride)} * item_bytes;
      visit(c.Range(start, columns * item_bytes, "dst"), row, column, columns);
    }
  }
}

// Unit flags order Mmad and Fixpipe block by block: 0 lets Mmad write, 1 lets Fixpipe read, 3 turns it over.
inline void PassUnitFlags(const Instruction& instruction, uint32_t address, uint32_t bytes, uint8_t mode,
                          bool is_mmad) {
  if (mode == 0) return;
  if (mode != 2 && mode != 3) Refuse("unitFlag is ", int{mode}, ", allowed are 0, 2 and 3");
  auto& flags = instruction->unit_flags;
  const uint32_t first = address / kUnitFlagBytes, last = (address + bytes - 1) / kUnitFlagBytes;
  for (uint32_t block = first; block <= last; ++block) {
    if (flags[block] != is_mmad) continue;
    Refuse("deadlock: unitFlag waits for bytes [", block * kUnitFlagBytes, ", ", (block + 1) * kUnitFlagBytes,
           ") of L0C, which ", is_mmad ? "no Fixpipe with unitFlag 3 has taken" : "no Mmad with unitFlag 3 has given");
  }
  for (uint32_t block = first; mode == 3 && block <= last; ++block) flags[block] = is_mmad;
}

template <typename C, typename A, typename B>
void CheckMmad(const LocalView& c, const LocalView& a, const LocalView& b, const AscendC::MmadParams& params) {
  c.CheckIn(kL0C, "dst");
  a.CheckIn(kL0A, "fm");
  b.CheckIn(kL0B, "filter");
  c.CheckAligned(kAccumulatorAlignment, "dst");
  a.CheckAligned(kFractalBytes, "fm");
  b.CheckAligned(kFractalBytes, "filter");
  if (!IsMmadTypes<C, A, B>()) {
    Refuse("this combination of types: allowed are half x half, bfloat16_t x bfloat16_t and float x float -> float, ",
           "int8_t x int8_t -> int32_t");
  }
  CheckRangeOf("m", params.m, 1, 4095);
  CheckRangeOf("n", params.n, 1, 4095);
  CheckRangeOf("k", params.k, 1, 4095);
  if (params.cmatrixSource) Refuse("cmatrixSource is true: the bias table is not emulated");
}

// c[m, n] += a[m, k] b[n, k]^T, sixteen columns at a time: a loop of that length becomes vector instructions.
template <typename C>
void Accumulate(const std::vector<C>& a, const std::vector<C>& b, uint32_t n, uint32_t k, std::vector<C>* c) {
  const size_t m = a.size() / k;
  std::vector<C> panel(size_t{k} * kFractalRows);
  for (uint32_t column = 0; column < n; column += kFractalRows) {
    const uint32_t columns = std::min(kFractalRows, n - column);
    std::fill(panel.begin(), panel.end(), C{0});
    for (uint32_t i = 0; i < columns; ++i) {
      for (uint32_t j = 0; j < k; ++j) panel[size_t{j} * kFractalRows + i] = b[size_t{column + i} * k + j];
    }
    for (size_t row = 0; row < m; ++row) {
      C sums[kFractalRows] = {};
      C* const target = c->data() + row * n + column;
      std::copy_n(target, columns, sums);
      for (uint32_t j = 0; j < k; ++j) {
        const C left = a[row * k + j];
        const C* const right = &panel[size_t{j} * kFractalRows];
        for (uint32_t i = 0; i < kFractalRows; ++i) sums[i] += left * right[i];
      }
      std::copy_n(sums, columns, target);
    }
  }
}

template <typename C, typename A, typename B>
void MultiplyAdd(const LocalView& c, const LocalView& a, const LocalView& b, const AscendC::MmadParams& params) {
  Instruction mmad(kPipeM, "Mmad");
  CheckMmad<C, A, B>(c, a, b, params);
  if constexpr (IsMmadTypes<C, A, B>()) {
    const uint32_t m = params.m, n = params.n, k = params.k;
    uint32_t k_fractals = CeilDivide(k, kC0<A>);
    if (sizeof(A) == 4 && params.kDirectionAlign) k_fractals = CeilDivide(k, kFractalRows) * 2;
    const std::vector<C> left = m == 1 ? ReadVector<C, A>(mmad, a, k)
                                       : ReadOperand<C, A>(mmad, a, {m, k, kC0<A>, k_fractals, true}, "fm");
    const std::vector<C> right = ReadOperand<C, B>(mmad, b, {n, k, kC0<B>, k_fractals, false}, "filter");

    const uint32_t m_fractals = CeilDivide(m, kFractalRows), n_fractals = CeilDivide(n, kFractalRows);
    const uint32_t c_bytes = m_fractals * n_fractals * kAccumulatorFractal * sizeof(C);
    PassUnitFlags(mmad, c.Range(0, c_bytes, "dst"), c_bytes, params.unitFlag, true);
    if (params.unitFlag != 0) mmad->FollowsByHardware(kPipeFix);
    // A product that is large enough reads C long after the one before has written it.
    if ((m / kFractalRows) * (n / kFractalRows) >= 10) mmad->FollowsByHardware(kPipeM);
    std::vector<C> sums(size_t{m} * n, C{0});
    if (!params.cmatrixInitVal || params.isBias) {
      ForEachAccumulatorRow(c, m, n, sizeof(C), [&](uint32_t address, uint32_t row, uint32_t column, uint32_t count) {
        std::memcpy(&sums[size_t{row} * n + column], mmad->Read(kL0C, address, count * sizeof(C)), count * sizeof(C));
      });
    }
    Accumulate(left, right, n, k, &sums);
    ForEachAccumulatorRow(c, m, n, sizeof(C), [&](uint32_t address, uint32_t row, uint32_t column, uint32_t count) {
      std::memcpy(mmad->Write(kL0C, address, count * sizeof(C)), &sums[size_t{row} * n + column], count * sizeof(C));
    });
    ++mmad->counters().cube_instructions;
    // The cube unit multiplies whole fractals.
    mmad->counters().cube_macs +=
        uint64_t{m_fractals} * n_fractals * kAccumulatorFractal * CeilDivide(k, kC0<A>) * kC0<A>;
  }
}

}  // namespace ascendc_emulator

namespace AscendC {

template <typename DstT, typename Src0T, typename Src1T>
inline void Mmad(const LocalTensor<DstT>& dst, const LocalTensor<Src0T>& fm, const LocalTensor<Src1T>& filter,
                 const MmadParams& params) {
  ascendc_emulator::MultiplyAdd<DstT, Src0T, Src1T>(dst.view(), fm.view(), filter.view(), params);
}

}  // namespace AscendC
