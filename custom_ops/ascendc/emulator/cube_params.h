// The parameter structs of the cube unit's instructions, with the members, orders and defaults of CANN's
// kernel_struct_mm.h, kernel_struct_fixpipe.h and kernel_struct_data_copy.h for Atlas A2.
#pragma once

#include <cstdint>

enum QuantMode_t : uint8_t {
  NoQuant,
  F322F16,
  F322BF16,
  DEQF16,
  VDEQF16,
  QF322B8_PRE,
  VQF322B8_PRE,
  REQ8,
  VREQ8,
};

namespace AscendC {

// GM [rows, columns] -> L1 in fractals; strides of the source in elements, C0 and N strides in 32-byte blocks.
struct Nd2NzParams {
  Nd2NzParams() = default;
  Nd2NzParams(uint16_t nd_num, uint16_t n_value, uint16_t d_value, uint16_t src_nd_matrix_stride,
              uint16_t src_d_value, uint16_t dst_nz_c0_stride, uint16_t dst_nz_n_stride,
              uint16_t dst_nz_matrix_stride)
      : ndNum(nd_num), nValue(n_value), dValue(d_value), srcNdMatrixStride(src_nd_matrix_stride),
        srcDValue(src_d_value), dstNzC0Stride(dst_nz_c0_stride), dstNzNStride(dst_nz_n_stride),
        dstNzMatrixStride(dst_nz_matrix_stride) {}

  uint16_t ndNum = 0;
  uint16_t nValue = 0;
  uint16_t dValue = 0;
  uint16_t srcNdMatrixStride = 0;
  uint16_t srcDValue = 0;
  uint16_t dstNzC0Stride = 0;
  uint16_t dstNzNStride = 0;
  uint16_t dstNzMatrixStride = 0;
};

// Fractal by fractal, in units of 512 bytes.
struct LoadData2DParams {
  LoadData2DParams() = default;
  LoadData2DParams(uint16_t start_index, uint8_t repeat_times, uint16_t src_stride, uint8_t sid_in, uint16_t dst_gap,
                   bool if_transpose, uint8_t addr_mode)
      : startIndex(start_index), dstGap(dst_gap), srcStride(src_stride), ifTranspose(if_transpose),
        repeatTimes(repeat_times), sid(sid_in), addrMode(addr_mode) {}

  uint16_t startIndex = 0;
  uint16_t dstGap = 0;
  uint16_t srcStride = 0;
  bool ifTranspose = false;
  uint8_t repeatTimes = 0;
  uint8_t sid = 0;
  uint8_t addrMode = 0;
};
using LoadData2dParams = LoadData2DParams;

// Square by square (one fractal of 16-bit, two of 8- and 32-bit types); the gaps in units of 512 bytes.
struct LoadData2dTransposeParams {
  LoadData2dTransposeParams() = default;
  LoadData2dTransposeParams(uint16_t start_index, uint8_t repeat_times, uint16_t src_stride, uint16_t dst_gap,
                            uint16_t dst_frac_gap, uint8_t addr_mode = 0)
      : startIndex(start_index), repeatTimes(repeat_times), srcStride(src_stride), dstGap(dst_gap),
        dstFracGap(dst_frac_gap), addrMode(addr_mode) {}

  uint16_t startIndex = 0;
  uint8_t repeatTimes = 0;
  uint16_t srcStride = 0;
  uint16_t dstGap = 0;
  uint16_t dstFracGap = 0;
  uint8_t addrMode = 0;
};

struct MmadParams {
  MmadParams() = default;
  MmadParams(uint16_t m_in, uint16_t n_in, uint16_t k_in, bool is_bias, int32_t fm_offset, bool en_ssparse,
             bool en_winograd_a, bool en_winograd_b)
      : m(m_in), n(n_in), k(k_in), isBias(is_bias), fmOffset(fm_offset), enSsparse(en_ssparse),
        enWinogradA(en_winograd_a), enWinogradB(en_winograd_b) {}
  MmadParams(uint16_t m_in, uint16_t n_in, uint16_t k_in, uint8_t unit_flag, bool cmatrix_source,
             bool cmatrix_init_val)
      : m(m_in), n(n_in), k(k_in), unitFlag(unit_flag), cmatrixSource(cmatrix_source),
        cmatrixInitVal(cmatrix_init_val) {}

  uint16_t m = 0;
  uint16_t n = 0;
  uint16_t k = 0;
  bool isBias = false;  // the older way to say cmatrixInitVal = false
  int32_t fmOffset = 0;
  bool enSsparse = false;
  bool enWinogradA = false;
  bool enWinogradB = false;
  uint8_t unitFlag = 0;
  bool kDirectionAlign = false;
  bool cmatrixSource = false;
  bool cmatrixInitVal = true;
};

enum class CO2Layout : uint8_t { NZ = 0, ROW_MAJOR, COLUMN_MAJOR };

struct FixpipeConfig {
  CO2Layout format;
};

inline constexpr FixpipeConfig CFG_NZ = {CO2Layout::NZ};
inline constexpr FixpipeConfig CFG_ROW_MAJOR = {CO2Layout::ROW_MAJOR};
inline constexpr FixpipeConfig CFG_COLUMN_MAJOR = {CO2Layout::COLUMN_MAJOR};

// srcStride in rows of 16 accumulators; dstStride in elements of a row (ROW_MAJOR) or in 32-byte blocks (NZ).
struct FixpipeParamsV220 {
  FixpipeParamsV220() = default;
  FixpipeParamsV220(uint16_t n_size, uint16_t m_size, uint16_t src_stride, uint32_t dst_stride, bool relu_en)
      : nSize(n_size), mSize(m_size), srcStride(src_stride), dstStride(dst_stride), reluEn(relu_en) {}
  FixpipeParamsV220(uint16_t n_size, uint16_t m_size, uint16_t src_stride, uint32_t dst_stride, bool relu_en,
                    QuantMode_t quant_pre, int64_t deq_scalar, uint16_t nd_num, uint16_t src_nd_stride,
                    uint16_t dst_nd_stride, uint8_t unit_flag, bool is_channel_split = false)
      : nSize(n_size), mSize(m_size), srcStride(src_stride), dstStride(dst_stride), quantPre(quant_pre),
        deqScalar(static_cast<uint64_t>(deq_scalar)), ndNum(nd_num), srcNdStride(src_nd_stride),
        dstNdStride(dst_nd_stride), reluEn(relu_en), unitFlag(unit_flag), isChannelSplit(is_channel_split) {}

  uint16_t nSize = 0;
  uint16_t mSize = 0;
  uint16_t srcStride = 0;
  uint32_t dstStride = 0;
  QuantMode_t quantPre = QuantMode_t::NoQuant;
  uint64_t deqScalar = 0;
  uint16_t ndNum = 1;
  uint16_t srcNdStride = 0;
  uint16_t dstNdStride = 0;
  bool reluEn = false;
  uint8_t unitFlag = 0;
  bool isChannelSplit = false;
};

}  // namespace AscendC
