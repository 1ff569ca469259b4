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
// Queues carry every tensor from pipe to pipe, so that the next pieces load while these are multiplied.
#pragma once

#include "kernel_operator.h"
#include "paged_attention_tiling.h"

namespace paged_attention {

constexpr uint32_t kPieceTokens = 128;
constexpr uint32_t kFractal = 16;  // rows, and 16-bit columns
constexpr uint32_t kFractalElements = 256;
constexpr uint32_t kPiecesAhead = 4;  // pieces of K or V in L1, loading or loaded

__aicore__ inline uint32_t CeilFractals(uint32_t length) { return (length + kFractal - 1) / kFractal; }

template <typename Element>
class CubeMatmul {
 public:
  __aicore__ inline void Init(AscendC::TPipe& pipe, uint32_t head_dim) {
    head_dim_ = head_dim;
    const uint32_t rows_bytes = kCubeQueries * kPieceTokens * sizeof(Element);
    const uint32_t piece_bytes = kPieceTokens * kPagedAttentionMaxHeadDim * sizeof(Element);
    const uint32_t result_bytes = kCubeQueries * kPieceTokens * sizeof(float);
    pipe.InitBuffer(query_queue_, 1, rows_bytes);
    pipe.InitBuffer(weight_queue_, 2, rows_bytes);
    pipe.InitBuffer(piece_queue_, kPiecesAhead, piece_bytes);
    pipe.InitBuffer(left_queue_, 2, rows_bytes);
    pipe.InitBuffer(right_queue_, 2, piece_bytes);
    pipe.InitBuffer(score_queue_, 2, result_bytes);
    pipe.InitBuffer(value_queue_, 1, result_bytes);
  }

  // A place in L1 for a piece of K or V, to be filled by rows (LoadRows) and then handed over.
  __aicore__ inline AscendC::LocalTensor<Element> NewPiece() { return piece_queue_.template AllocTensor<Element>(); }
  __aicore__ inline void HandOver(AscendC::LocalTensor<Element>& piece) { piece_queue_.EnQue(piece); }

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
    AscendC::Nd2NzParams params;
    params.ndNum = static_cast<uint16_t>(num_tokens);
    params.nValue = static_cast<uint16_t>(num_heads);
    params.dValue = static_cast<uint16_t>(head_dim_);
    params.srcNdMatrixStride = static_cast<uint16_t>(token_stride);
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

  // scores[:, 0:tokens] of the next pieces, as they come out of the queue: kCubeTileTokens floats from row to row.
  __aicore__ inline void Scores(const AscendC::GlobalTensor<float>& scores, uint32_t tokens) {
    AscendC::LocalTensor<Element> left = LoadLeft(queries_, num_queries_, head_dim_);
    for (uint32_t done = 0; done < tokens; done += kPieceTokens) {
      const uint32_t count = tokens - done < kPieceTokens ? tokens - done : kPieceTokens;
      AscendC::LocalTensor<Element> keys = LoadKeys(count);
      AscendC::LocalTensor<float> product = score_queue_.template AllocTensor<float>();
      Multiply(product, left, keys, num_queries_, count, head_dim_, true);
      right_queue_.FreeTensor(keys);
      score_queue_.EnQue(product);
      product = score_queue_.template DeQue<float>();
      Store(scores[done], product, num_queries_, count, kCubeTileTokens);
      score_queue_.FreeTensor(product);
    }
    left_queue_.FreeTensor(left);
  }

  // values = weights times the next pieces; `weights` has kCubeTileTokens elements from row to row.
  __aicore__ inline void Values(const AscendC::GlobalTensor<float>& values,
                                const AscendC::GlobalTensor<Element>& weights, uint32_t num_queries, uint32_t tokens) {
    AscendC::LocalTensor<float> product = value_queue_.template AllocTensor<float>();
    for (uint32_t done = 0; done < tokens; done += kPieceTokens) {
      const uint32_t count = tokens - done < kPieceTokens ? tokens - done : kPieceTokens;
      AscendC::LocalTensor<Element> left = LoadWeights(weights[done], num_queries, count);
      AscendC::LocalTensor<Element> right = LoadValues(count);
      Multiply(product, left, right, num_queries, head_dim_, count, done == 0);
      AscendC::PipeBarrier<PIPE_M>();
      left_queue_.FreeTensor(left);
      right_queue_.FreeTensor(right);
    }
    value_queue_.EnQue(product);
    product = value_queue_.template DeQue<float>();
    Store(values, product, num_queries, head_dim_, head_dim_);
    value_queue_.FreeTensor(product);
  }

 private:
  // L1 -> L0A: rows of fractals from columns of fractals.
  __aicore__ inline AscendC::LocalTensor<Element> LoadLeft(const AscendC::LocalTensor<Element>& matrix, uint32_t rows,
                                                           uint32_t columns) {
    const uint32_t row_fractals = CeilFractals(rows), column_fractals = CeilFractals(columns);
    AscendC::LocalTensor<Element> left = left_queue_.template AllocTensor<Element>();
    for (uint32_t row = 0; row < row_fractals; ++row) {
      AscendC::LoadData(left[row * column_fractals * kFractalElements], matrix,
                        AscendC::LoadData2DParams(static_cast<uint16_t>(row), static_cast<uint8_t>(column_fractals),
                                                  static_cast<uint16_t>(row_fractals), 0, 0, false, 0));
    }
    left_queue_.EnQue(left);
    return left_queue_.template DeQue<Element>();
  }

  __aicore__ inline AscendC::LocalTensor<Element> LoadWeights(const AscendC::GlobalTensor<Element>& weights,
                                                              uint32_t rows, uint32_t tokens) {
    AscendC::Nd2NzParams params;
    params.ndNum = 1;
    params.nValue = static_cast<uint16_t>(rows);
    params.dValue = static_cast<uint16_t>(tokens);
    params.srcNdMatrixStride = 0;
    params.srcDValue = static_cast<uint16_t>(kCubeTileTokens);
    params.dstNzC0Stride = static_cast<uint16_t>(CeilFractals(rows) * kFractal);
    params.dstNzNStride = 1;
    params.dstNzMatrixStride = 0;
    AscendC::LocalTensor<Element> loaded = weight_queue_.template AllocTensor<Element>();
    AscendC::DataCopy(loaded, weights, params);
    weight_queue_.EnQue(loaded);
    loaded = weight_queue_.template DeQue<Element>();
    AscendC::LocalTensor<Element> left = LoadLeft(loaded, rows, tokens);
    weight_queue_.FreeTensor(loaded);
    return left;
  }

  // L1 -> L0B for K^T: all fractals as they stand.
  __aicore__ inline AscendC::LocalTensor<Element> LoadKeys(uint32_t tokens) {
    AscendC::LocalTensor<Element> piece = piece_queue_.template DeQue<Element>();
    AscendC::LocalTensor<Element> right = right_queue_.template AllocTensor<Element>();
    const uint32_t fractals = CeilFractals(head_dim_) * CeilFractals(tokens);
    AscendC::LoadData(right, piece, AscendC::LoadData2DParams(0, static_cast<uint8_t>(fractals), 1, 0, 0, false, 0));
    piece_queue_.FreeTensor(piece);
    right_queue_.EnQue(right);
    return right_queue_.template DeQue<Element>();
  }

  // L1 -> L0B for V: each fractal turned, and rows of fractals from columns of fractals.
  __aicore__ inline AscendC::LocalTensor<Element> LoadValues(uint32_t tokens) {
    AscendC::LocalTensor<Element> piece = piece_queue_.template DeQue<Element>();
    AscendC::LocalTensor<Element> right = right_queue_.template AllocTensor<Element>();
    const uint32_t row_fractals = CeilFractals(tokens), column_fractals = CeilFractals(head_dim_);
    for (uint32_t row = 0; row < row_fractals; ++row) {
      AscendC::LoadData(right[row * column_fractals * kFractalElements], piece,
                        AscendC::LoadData2DParams(static_cast<uint16_t>(row), static_cast<uint8_t>(column_fractals),
                                                  static_cast<uint16_t>(row_fractals), 0, 0, true, 0));
    }
    piece_queue_.FreeTensor(piece);
    right_queue_.EnQue(right);
    return right_queue_.template DeQue<Element>();
  }

  __aicore__ inline void Multiply(const AscendC::LocalTensor<float>& product,
                                  const AscendC::LocalTensor<Element>& left,
                                  const AscendC::LocalTensor<Element>& right, uint32_t m, uint32_t n, uint32_t k,
                                  bool from_zero) const {
    AscendC::MmadParams params;
    params.m = static_cast<uint16_t>(m);
    params.n = static_cast<uint16_t>(n);
    params.k = static_cast<uint16_t>(k);
    params.cmatrixInitVal = from_zero;
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
  AscendC::TQue<AscendC::TPosition::B1, kPiecesAhead> piece_queue_;
  AscendC::TQue<AscendC::TPosition::A2, 2> left_queue_;
  AscendC::TQue<AscendC::TPosition::B2, 2> right_queue_;
  AscendC::TQue<AscendC::TPosition::CO1, 2> score_queue_;
  AscendC::TQue<AscendC::TPosition::CO1, 1> value_queue_;
};

}  // namespace paged_attention
