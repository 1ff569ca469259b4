// The two matrix products of attention on the cube core, over pieces of 128 KV tokens:
//
//   scores [queries, tokens] = Q [queries, head_dim] K^T        values [queries, head_dim] = P [queries, tokens] V
//
// Where a matrix lives, and how (fractals of 16 x 16 elements, 512 bytes):
//
//           GM    L1 (fractals column by column)   L0 (fractals row by row)   L0C -> GM
//   Q, P    ND -> Nz                            -> L0A: Zz
//   K       ND -> Nz of K, i.e. Zn of K^T       -> L0B: Zn, as it stands      Nz -> ND
//   V       ND -> Nz of V                       -> L0B: Zn, each turned
//
// A piece of keys or values is multiplied with up to 128 queries, half of them at a time: it is read once for all.
//
// Queues carry every tensor from pipe to pipe, so that the next pieces load while these are multiplied. They take seven
// of the eight event ids between MTE2 and MTE1.
#pragma once

#include "kernel_operator.h"
#include "paged_attention_plan.h"
#include "paged_attention_tiling.h"

namespace paged_attention {

constexpr uint32_t kPieceTokens = 128;
constexpr uint32_t kFractal = 16;  // rows, and 16-bit columns
constexpr uint32_t kFractalElements = 256;
constexpr uint32_t kHalfQueries = 64;
constexpr uint32_t kSideColumns = 128;  // columns of head_dim that are multiplied at a time
constexpr uint32_t kSlots = 4;         // in L1 for keys or values, loading or loaded: those of two tiles
constexpr uint32_t kSlotElements = 2 * kPieceTokens * kSideColumns;

__aicore__ inline uint32_t CeilFractals(uint32_t length) { return (length + kFractal - 1) / kFractal; }

// Rows of a matrix in fractals, of which it has `height` rows.
struct FractalRows {
  uint32_t first;
  uint32_t count;
  uint32_t height;
};

template <typename Element>
class CubeMatmul {
 public:
  __aicore__ inline void Init(AscendC::TPipe& pipe, uint32_t head_dim) {
    head_dim_ = head_dim;
    const uint32_t rows_bytes = kCubeQueries * kPieceTokens * sizeof(Element);
    const uint32_t result_bytes = kHalfQueries * kPieceTokens * sizeof(float);
    pipe.InitBuffer(query_queue_, 1, rows_bytes);
    pipe.InitBuffer(weight_queue_, 2, rows_bytes);
    pipe.InitBuffer(slot_queue_, kSlots, kSlotElements * sizeof(Element));
    pipe.InitBuffer(left_queue_, 2, kHalfQueries * kPieceTokens * sizeof(Element));
    pipe.InitBuffer(right_queue_, 2, kPieceTokens * kSideColumns * sizeof(Element));
    pipe.InitBuffer(score_queue_, 2, result_bytes);
    pipe.InitBuffer(value_queue_, 1, 2 * result_bytes);
  }

  // Tokens of keys or values that a slot holds: pieces of 128, each in fractals of its own.
  __aicore__ inline uint32_t SlotTokens() const { return head_dim_ > kSideColumns ? kPieceTokens : 2 * kPieceTokens; }

  // A slot in L1, to be filled piece by piece (LoadRows) and then handed over.
  __aicore__ inline AscendC::LocalTensor<Element> NewSlot() { return slot_queue_.template AllocTensor<Element>(); }
  __aicore__ inline AscendC::LocalTensor<Element> PieceOf(const AscendC::LocalTensor<Element>& slot,
                                                          uint32_t first_token) const {
    return slot[first_token * head_dim_];
  }
  __aicore__ inline void HandOver(AscendC::LocalTensor<Element>& slot) { slot_queue_.EnQue(slot); }

  // Copies `rows` rows of head_dim elements, `source_stride` apart, to rows from `first_row` on of a piece that will have
  // `tokens` rows.
  __aicore__ inline void LoadRows(const AscendC::LocalTensor<Element>& piece,
                                  const AscendC::GlobalTensor<Element>& source, uint32_t source_stride,
                                  uint32_t first_row, uint32_t rows, uint32_t tokens) const {
    AscendC::Nd2NzParams params;
    params.ndNum = 1;
    params.nValue = static_cast<uint16_t>(rows);
    params.dValue = static_cast<uint16_t>(head_dim_);
    params.srcNdMatrixStride = 0;
    params.srcDValue = static_cast<uint16_t>(source_stride);
    params.dstNzC0Stride = static_cast<uint16_t>(CeilFractals(tokens) * kFractal);
    params.dstNzNStride = 1;
    params.dstNzMatrixStride = 0;
    AscendC::DataCopy(piece[first_row * kFractal], source, params);
  }

  // Loads the queries of a task: `num_tokens` times `num_heads` rows, `token_stride` elements from token to token.
  __aicore__ inline void LoadQueries(const AscendC::GlobalTensor<Element>& source, uint32_t num_tokens,
                                     uint32_t num_heads, uint32_t token_stride) {
    num_queries_ = num_tokens * num_heads;
    const bool single = num_queries_ == 1;
    AscendC::Nd2NzParams params;
    params.ndNum = static_cast<uint16_t>(single ? 2 : num_tokens);
    params.nValue = static_cast<uint16_t>(num_heads);
    params.dValue = static_cast<uint16_t>(head_dim_);
    params.srcNdMatrixStride = static_cast<uint16_t>(single ? 0 : token_stride);
    params.srcDValue = static_cast<uint16_t>(head_dim_);
    params.dstNzC0Stride = static_cast<uint16_t>(CeilFractals(num_queries_) * kFractal);
    params.dstNzNStride = 1;
    params.dstNzMatrixStride = static_cast<uint16_t>(num_heads * kFractal);
    queries_ = query_queue_.template AllocTensor<Element>();
    AscendC::DataCopy(queries_, source, params);
    query_queue_.EnQue(queries_);
    queries_ = query_queue_.template DeQue<Element>();
  }
  __aicore__ inline void ReleaseQueries() { query_queue_.FreeTensor(queries_); }

  // scores[:, 0:tokens] of the next slots, as they come out of the queue: kCubeTileTokens floats from row to row.
  __aicore__ inline void Scores(const AscendC::GlobalTensor<float>& scores, uint32_t tokens) {
    for (uint32_t begin = 0; begin < tokens; begin += SlotTokens()) {
      AscendC::LocalTensor<Element> slot = slot_queue_.template DeQue<Element>();
      const uint32_t end = Least(tokens, begin + SlotTokens());
      for (uint32_t done = begin; done < end; done += kPieceTokens) {
        ScoresOfPiece(scores[done], PieceOf(slot, done - begin), Least(end - done, kPieceTokens));
      }
      slot_queue_.FreeTensor(slot);
    }
  }

  // values = weights times the next slots; `weights` has kCubeTileTokens elements from row to row.
  __aicore__ inline void Values(const AscendC::GlobalTensor<float>& values,
                                const AscendC::GlobalTensor<Element>& weights, uint32_t num_queries, uint32_t tokens) {
    AscendC::LocalTensor<float> product = value_queue_.template AllocTensor<float>();
    for (uint32_t begin = 0; begin < tokens; begin += SlotTokens()) {
      AscendC::LocalTensor<Element> slot = slot_queue_.template DeQue<Element>();
      const uint32_t end = Least(tokens, begin + SlotTokens());
      for (uint32_t done = begin; done < end; done += kPieceTokens) {
        AddPiece(product, weights[done], PieceOf(slot, done - begin), num_queries, Least(end - done, kPieceTokens),
                 done == 0);
      }
      slot_queue_.FreeTensor(slot);
    }
    value_queue_.EnQue(product);
    product = value_queue_.template DeQue<float>();
    for (uint32_t row = 0, part = 0; row < num_queries; row += HalfOf(num_queries, row)) {
      for (uint32_t column = 0; column < head_dim_; column += kSideColumns, ++part) {
        Store(values[row * head_dim_ + column], product[part * kHalfQueries * kPieceTokens], HalfOf(num_queries, row),
              Least(head_dim_ - column, kSideColumns), head_dim_);
      }
    }
    value_queue_.FreeTensor(product);
  }

 private:
  // Queries that are multiplied together, from `row` on, where the half before ends: 64, or what is left. Never one of
  // several: the unit takes a left matrix of one row in another layout.
  __aicore__ static inline uint32_t HalfOf(uint32_t num_queries, uint32_t row) {
    if (row > 0 || num_queries <= kHalfQueries) return num_queries - row;
    return num_queries == kHalfQueries + 1 ? kHalfQueries - kFractal : kHalfQueries;
  }

  __aicore__ inline void ScoresOfPiece(const AscendC::GlobalTensor<float>& scores,
                                       const AscendC::LocalTensor<Element>& piece, uint32_t tokens) {
    AscendC::LocalTensor<Element> keys[2];
    const uint32_t sides = (head_dim_ + kSideColumns - 1) / kSideColumns;
    for (uint32_t side = 0; side < sides; ++side) keys[side] = LoadKeys(piece, side, tokens);
    for (uint32_t row = 0; row < num_queries_; row += HalfOf(num_queries_, row)) {
      const uint32_t rows = HalfOf(num_queries_, row);
      AscendC::LocalTensor<float> product = score_queue_.template AllocTensor<float>();
      for (uint32_t side = 0; side < sides; ++side) {
        const uint32_t columns = SideColumns(side);
        AscendC::LocalTensor<Element> left =
            LoadLeft(queries_[side * kSideColumns * CeilFractals(num_queries_) * kFractal],
                     {row / kFractal, CeilFractals(rows), CeilFractals(num_queries_)}, columns);
        Multiply(product, left, keys[side], rows, tokens, columns, side == 0);
        left_queue_.FreeTensor(left);
      }
      score_queue_.EnQue(product);
      product = score_queue_.template DeQue<float>();
      Store(scores[row * kCubeTileTokens], product, rows, tokens, kCubeTileTokens);
      score_queue_.FreeTensor(product);
    }
    for (uint32_t side = 0; side < sides; ++side) right_queue_.FreeTensor(keys[side]);
  }

  // product (+)= weights times a piece of values; of each half and side it has a part.
  __aicore__ inline void AddPiece(const AscendC::LocalTensor<float>& product,
                                  const AscendC::GlobalTensor<Element>& weights,
                                  const AscendC::LocalTensor<Element>& piece, uint32_t num_queries, uint32_t tokens,
                                  bool from_zero) {
    AscendC::LocalTensor<Element> values[2];
    const uint32_t sides = (head_dim_ + kSideColumns - 1) / kSideColumns;
    AscendC::LocalTensor<Element> loaded = LoadWeights(weights, num_queries, tokens);
    for (uint32_t side = 0; side < sides; ++side) values[side] = LoadValues(piece, side, tokens);
    for (uint32_t row = 0, part = 0; row < num_queries; row += HalfOf(num_queries, row)) {
      const uint32_t rows = HalfOf(num_queries, row);
      AscendC::LocalTensor<Element> left =
          LoadLeft(loaded, {row / kFractal, CeilFractals(rows), CeilFractals(num_queries)}, tokens);
      for (uint32_t side = 0; side < sides; ++side, ++part) {
        Multiply(product[part * kHalfQueries * kPieceTokens], left, values[side], rows, SideColumns(side), tokens,
                 from_zero);
      }
      left_queue_.FreeTensor(left);
    }
    weight_queue_.FreeTensor(loaded);
    for (uint32_t side = 0; side < sides; ++side) right_queue_.FreeTensor(values[side]);
  }

  __aicore__ inline uint32_t SideColumns(uint32_t side) const {
    return Least(head_dim_ - side * kSideColumns, kSideColumns);
  }

  // L1 -> L0A: rows of fractals from columns of fractals.
  __aicore__ inline AscendC::LocalTensor<Element> LoadLeft(const AscendC::LocalTensor<Element>& matrix,
                                                           const FractalRows& rows, uint32_t columns) {
    const uint32_t column_fractals = CeilFractals(columns);
    AscendC::LocalTensor<Element> left = left_queue_.template AllocTensor<Element>();
    for (uint32_t row = 0; row < rows.count; ++row) {
      AscendC::LoadData(left[row * column_fractals * kFractalElements], matrix,
                        AscendC::LoadData2DParams(static_cast<uint16_t>(rows.first + row),
                                                  static_cast<uint8_t>(column_fractals),
                                                  static_cast<uint16_t>(rows.height), 0, 0, false, 0));
    }
    left_queue_.EnQue(left);
    return left_queue_.template DeQue<Element>();
  }

  // GM -> L1.
  __aicore__ inline AscendC::LocalTensor<Element> LoadWeights(const AscendC::GlobalTensor<Element>& weights,
                                                              uint32_t rows, uint32_t tokens) {
    const bool single = rows == 1;
    AscendC::Nd2NzParams params;
    params.ndNum = single ? 2 : 1;
    params.nValue = static_cast<uint16_t>(rows);
    params.dValue = static_cast<uint16_t>(tokens);
    params.srcNdMatrixStride = 0;
    params.srcDValue = static_cast<uint16_t>(kCubeTileTokens);
    params.dstNzC0Stride = static_cast<uint16_t>(CeilFractals(rows) * kFractal);
    params.dstNzNStride = 1;
    params.dstNzMatrixStride = single ? kFractal : 0;
    AscendC::LocalTensor<Element> loaded = weight_queue_.template AllocTensor<Element>();
    AscendC::DataCopy(loaded, weights, params);
    weight_queue_.EnQue(loaded);
    return weight_queue_.template DeQue<Element>();
  }

  // L1 -> L0B for K^T: the fractals of a side as they stand.
  __aicore__ inline AscendC::LocalTensor<Element> LoadKeys(const AscendC::LocalTensor<Element>& piece, uint32_t side,
                                                           uint32_t tokens) {
    AscendC::LocalTensor<Element> right = right_queue_.template AllocTensor<Element>();
    const uint32_t rows = CeilFractals(tokens), fractals = CeilFractals(SideColumns(side)) * rows;
    AscendC::LoadData(right, piece[side * kSideColumns * rows * kFractal],
                      AscendC::LoadData2DParams(0, static_cast<uint8_t>(fractals), 1, 0, 0, false, 0));
    right_queue_.EnQue(right);
    return right_queue_.template DeQue<Element>();
  }

  // L1 -> L0B for V: each fractal of a side turned, and rows of fractals from columns of fractals.
  __aicore__ inline AscendC::LocalTensor<Element> LoadValues(const AscendC::LocalTensor<Element>& piece, uint32_t side,
                                                             uint32_t tokens) {
    AscendC::LocalTensor<Element> right = right_queue_.template AllocTensor<Element>();
    const uint32_t row_fractals = CeilFractals(tokens), column_fractals = CeilFractals(SideColumns(side));
    for (uint32_t row = 0; row < row_fractals; ++row) {
      AscendC::LoadData(right[row * column_fractals * kFractalElements],
                        piece[side * kSideColumns * row_fractals * kFractal],
                        AscendC::LoadData2DParams(static_cast<uint16_t>(row), static_cast<uint8_t>(column_fractals),
                                                  static_cast<uint16_t>(row_fractals), 0, 0, true, 0));
    }
    right_queue_.EnQue(right);
    return right_queue_.template DeQue<Element>();
  }

  // product (+)= left times right. A single query stands twice in left.
  __aicore__ inline void Multiply(const AscendC::LocalTensor<float>& product,
                                  const AscendC::LocalTensor<Element>& left,
                                  const AscendC::LocalTensor<Element>& right, uint32_t m, uint32_t n, uint32_t k,
                                  bool from_zero) const {
    AscendC::MmadParams params;
    params.m = static_cast<uint16_t>(m == 1 ? 2 : m);
    params.n = static_cast<uint16_t>(n);
    params.k = static_cast<uint16_t>(k);
    params.cmatrixInitVal = from_zero;
    if (!from_zero) {
      AscendC::PipeBarrier<PIPE_M>();
    }
    AscendC::Mmad(product, left, right, params);
  }

  // L0C -> GM, `stride` floats from row to row.
  __aicore__ inline void Store(const AscendC::GlobalTensor<float>& target, const AscendC::LocalTensor<float>& product,
                               uint32_t rows, uint32_t columns, uint32_t stride) const {
    AscendC::Fixpipe(target, product,
                     AscendC::FixpipeParamsV220(static_cast<uint16_t>(columns), static_cast<uint16_t>(rows),
                                                static_cast<uint16_t>(CeilFractals(rows) * kFractal), stride, false));
  }

  uint32_t head_dim_ = 0;
  uint32_t num_queries_ = 0;
  AscendC::LocalTensor<Element> queries_;
  AscendC::TQue<AscendC::TPosition::A1, 1> query_queue_;
  AscendC::TQue<AscendC::TPosition::A1, 2> weight_queue_;
  AscendC::TQue<AscendC::TPosition::B1, kSlots> slot_queue_;
  AscendC::TQue<AscendC::TPosition::A2, 2> left_queue_;
  AscendC::TQue<AscendC::TPosition::B2, 2> right_queue_;
  AscendC::TQue<AscendC::TPosition::CO1, 2> score_queue_;
  AscendC::TQue<AscendC::TPosition::CO1, 1> value_queue_;
};

}  // namespace paged_attention
