// paged_attention on the vector cores alone: the memory's speed for groups of up to two query heads a KV head.
//
// For each KV tile of 64 tokens (24 of wide heads), one load serves every query of the task:
//
//   MTE2   K tile, V tile (two of each: the next are on their way while these are worked on)
//   V      K to float32; each query: products with K, summed by row -> scores
//          softmax over all queries at once (online_softmax.h)
//          V to float32; each query: V times weights, summed by halving -> values
//          int8 tiles bring their tokens' scales with them: scores are multiplied by those of K, weights by those of V
//   MTE3   finished rows to the output, an unfinished one to the workspace
#pragma once

#include "kernel_operator.h"
#include "online_softmax.h"
#include "paged_attention_io.h"
#include "paged_attention_plan.h"

namespace paged_attention {

template <typename Query, typename Cache>
class VectorAttention {
 public:
  // On `num_cores` vector cores, of which this is `core`.
  __aicore__ inline void Init(AscendC::TPipe& pipe, const PagedAttentionTiling& tiling, const Arguments& arguments,
                              uint32_t core, uint32_t num_cores) {
    tiling_ = tiling;
    core_ = core;
    num_cores_ = num_cores;
    plan_.Init(tiling, VectorCut(tiling.group, tiling.head_dim), arguments.rows, arguments.context_lens, core, num_cores);
    pages_.Init(tiling, arguments);
    queries_.Init(pipe, tiling, arguments.query, kVectorQueries);
    output_.Init(pipe, tiling, arguments, kVectorQueries);
    softmax_.Init(pipe, kVectorQueries, tiling.head_dim);
    const uint32_t tokens = plan_.tile_tokens(), tile = tokens * tiling.head_dim;
    scales_at_ = tile;
    const uint32_t loaded = tile * sizeof(Cache) + (kScaled ? tokens * kBlockBytes : 0);
    pipe.InitBuffer(key_queue_, 2, loaded);
    pipe.InitBuffer(value_queue_, 2, loaded);
    if constexpr (kScaled) {
      pipe.InitBuffer(half_buffer_, tile * sizeof(half));
      pipe.InitBuffer(scale_buffer_, tokens * sizeof(float));
      halves_ = half_buffer_.template Get<half>();
      scales_ = scale_buffer_.template Get<float>();
    }
    pipe.InitBuffer(tile_buffer_, tile * sizeof(float));
    pipe.InitBuffer(product_buffer_, kProductFloats * sizeof(float));
    pipe.InitBuffer(score_buffer_, kVectorQueries * kLanes * sizeof(float));
    pipe.InitBuffer(weight_buffer_, tokens * kBlockLanes * sizeof(float));
    floats_ = tile_buffer_.template Get<float>();
    products_ = product_buffer_.template Get<float>();
    scores_ = score_buffer_.template Get<float>();
    weights_ = weight_buffer_.template Get<float>();
  }

  __aicore__ inline void Process() {
    output_.WritePadding(plan_, core_, num_cores_);
    if (plan_.begin() < plan_.end()) AttendPiece();
    if (!plan_.has_cut_tasks()) return;
    AscendC::SyncAll<true>();
    if (unfinished_.run.num_tokens > 0) Collect(unfinished_);
  }

 private:
  static constexpr bool kScaled = Pages<Cache>::kScaled;
  static constexpr uint32_t kProductFloats = kVectorTileTokens * kWideHeadDim;  // enough for a state from another core
  static_assert(kProductFloats >= kWideVectorTileTokens * kPagedAttentionMaxHeadDim, "a tile's products");
  static_assert(kProductFloats >= SoftmaxStateFloats(kVectorQueries, kPagedAttentionMaxHeadDim), "a state");

  __aicore__ inline void AttendPiece() {
    Tile tile = plan_.First();
    Load(tile);
    while (true) {
      const bool last = tile.place + 1 == plan_.end();
      Tile next = tile;
      if (!last) {
        next = plan_.Next(tile);
        Load(next);
      }
      Attend(tile);
      if (plan_.IsLastHere(tile)) FinishTask(tile);
      if (last) return;
      tile = next;
    }
  }

  // A vector core does all queries of its tasks.
  __aicore__ inline Part PartOf(const Tile& tile) const {
    return {tile.run.first_token, tile.run.num_tokens, tile.kv_head * tiling_.group, tiling_.group};
  }

  __aicore__ inline void Load(const Tile& tile) {
    if (plan_.IsFirstHere(tile)) queries_.Load(PartOf(tile));
    const uint32_t first = tile.First(plan_.tile_tokens()), count = plan_.Loaded(tile);
    AscendC::LocalTensor<Cache> keys = key_queue_.template AllocTensor<Cache>();
    pages_.Load(keys, pages_.keys(), tile, first, count);
    if constexpr (kScaled) pages_.LoadScales(ScaleRows(keys), pages_.key_scales(), tile, first, count);
    key_queue_.EnQue(keys);
    AscendC::LocalTensor<Cache> values = value_queue_.template AllocTensor<Cache>();
    pages_.Load(values, pages_.values(), tile, first, count);
    if constexpr (kScaled) pages_.LoadScales(ScaleRows(values), pages_.value_scales(), tile, first, count);
    value_queue_.EnQue(values);
  }

  __aicore__ inline void Attend(const Tile& tile) {
    const Part part = PartOf(tile);
    const uint32_t loaded = plan_.Loaded(tile);
    if (plan_.IsFirstHere(tile)) {
      queries_.Prepare(part);
      softmax_.Begin(part.NumQueries());
    }
    Widen(key_queue_, loaded);
    for (uint32_t query = 0; query < part.NumQueries(); ++query) Score(query, loaded);
    if constexpr (kScaled) MultiplyByScales(part.NumQueries(), loaded);
    for (uint32_t i = 0; i < part.num_tokens; ++i) {
      const Plan::Sight seen = plan_.Visible(tile, part.first_token + i);
      softmax_.Mask(scores_, kLanes, i * part.num_heads, part.num_heads, seen.first, seen.end);
    }
    VectorBarrier();
    softmax_.Weigh(scores_, kLanes, part.NumQueries(), products_);
    softmax_.Decay(part.NumQueries());
    Widen(value_queue_, loaded);
    if constexpr (kScaled) MultiplyByScales(part.NumQueries(), loaded);
    for (uint32_t query = 0; query < part.NumQueries(); ++query) {
      AddValues(query, plan_.Visible(tile, part.first_token + query / part.num_heads));
    }
  }

  __aicore__ inline void Widen(AscendC::TQue<AscendC::TPosition::VECIN, 2>& queue, uint32_t tokens) {
    AscendC::LocalTensor<Cache> narrow = queue.template DeQue<Cache>();
    const int32_t count = static_cast<int32_t>(tokens * tiling_.head_dim);
    if constexpr (kScaled) {
      AscendC::Cast(halves_, narrow, AscendC::RoundMode::CAST_NONE, count);  // which the chip has no way around
      AscendC::WholeReduceSum<float>(scales_, ScaleRows(narrow), static_cast<int32_t>(kBlockLanes), tokens, 1, 1, 1);
      VectorBarrier();
      AscendC::Cast(floats_, halves_, AscendC::RoundMode::CAST_NONE, count);
    } else {
      AscendC::Cast(floats_, narrow, AscendC::RoundMode::CAST_NONE, count);
    }
    queue.FreeTensor(narrow);
    VectorBarrier();
  }

  // Where an int8 tile has its scales, [tokens, 8].
  __aicore__ inline AscendC::LocalTensor<float> ScaleRows(const AscendC::LocalTensor<Cache>& tile) const {
    return tile[scales_at_].template ReinterpretCast<float>();
  }

  // The scores, or the weights, of `tokens` tokens, times the scales of the tile that was widened last.
  __aicore__ inline void MultiplyByScales(uint32_t queries, uint32_t tokens) {
    constexpr uint8_t kRow = kLanes / kBlockLanes;
    AscendC::Mul(scores_, scores_, scales_, static_cast<uint64_t>(tokens), static_cast<uint8_t>(queries),
                 {1, 1, 1, kRow, kRow, 0});
    VectorBarrier();
  }

  __aicore__ inline void Score(uint32_t query, uint32_t tokens) {
    const uint32_t head_dim = tiling_.head_dim;
    const uint8_t repeat = static_cast<uint8_t>(tokens), stride = static_cast<uint8_t>(head_dim / kBlockLanes);
    constexpr uint8_t kRow = kLanes / kBlockLanes;
    const AscendC::LocalTensor<float> row = queries_.Row(query);
    const uint64_t lanes = LanesLeft(head_dim, 0);
    AscendC::Mul(products_, floats_, row, lanes, repeat, {1, 1, 1, kRow, stride, 0});
    VectorBarrier();
    for (uint32_t column = kLanes; column < head_dim; column += kLanes) {
      AscendC::MulAddDst(products_, floats_[column], row[column], LanesLeft(head_dim, column), repeat,
                         {1, 1, 1, kRow, stride, 0});
      VectorBarrier();
    }
    AscendC::WholeReduceSum<float>(scores_[query * kLanes], products_, static_cast<int32_t>(lanes), tokens, 1,
                                   1, kRow);
    VectorBarrier();
  }

  // values[query] += weights[query] times the rows of V that it sees.
  __aicore__ inline void AddValues(uint32_t query, const Plan::Sight& seen) {
    if (seen.first >= seen.end) return;
    const uint32_t tokens = seen.end - seen.first;
    const uint32_t head_dim = tiling_.head_dim;
    const uint8_t repeat = static_cast<uint8_t>(tokens), stride = static_cast<uint8_t>(head_dim / kBlockLanes);
    AscendC::Brcb(weights_, scores_[query * kLanes],
                  static_cast<uint8_t>((seen.end + kBlockLanes - 1) / kBlockLanes), {1, kBlockLanes});
    VectorBarrier();
    for (uint32_t column = 0; column < head_dim; column += kLanes) {
      AscendC::Mul(products_[column], floats_[seen.first * head_dim + column], weights_[seen.first * kBlockLanes],
                   LanesLeft(head_dim, column), repeat, {1, 1, 0, stride, stride, 1});
    }
    VectorBarrier();
    for (uint32_t rows = tokens; rows > 1;) {
      const uint32_t half = (rows + 1) / 2;
      AscendC::Add(products_, products_, products_[half * head_dim], static_cast<int32_t>((rows - half) * head_dim));
      VectorBarrier();
      rows = half;
    }
    const AscendC::LocalTensor<float> sums = softmax_.Values()[query * head_dim];
    AscendC::Add(sums, sums, products_, static_cast<int32_t>(head_dim));
  }

  // What happens to a task after this core's last tile of it.
  __aicore__ inline void FinishTask(const Tile& tile) {
    if (plan_.BeginsBefore(tile)) {
      output_.Save(softmax_, core_, PartOf(tile));
    } else if (plan_.EndsAfter(tile)) {
      unfinished_ = tile;
    } else {
      output_.Write(softmax_, PartOf(tile));
    }
  }

  // Adds what the cores after this one have of the task that its piece ends in.
  __aicore__ inline void Collect(const Tile& tile) {
    const uint32_t last_core = plan_.CoreOf(tile.TaskEnd() - 1);
    for (uint32_t core = core_ + 1; core <= last_core; ++core) {
      paged_ops::OrderPipes<AscendC::HardEvent::V_MTE2>();
      output_.Fetch(products_, core, softmax_, PartOf(tile));
      paged_ops::OrderPipes<AscendC::HardEvent::MTE2_V>();
      softmax_.Merge(products_, PartOf(tile).NumQueries());
    }
    output_.Write(softmax_, PartOf(tile));
  }

  PagedAttentionTiling tiling_;
  uint32_t core_ = 0;
  uint32_t num_cores_ = 0;
  Plan plan_;
  Pages<Cache> pages_;
  Queries<Query> queries_;
  Output<Query> output_;
  OnlineSoftmax softmax_;
  AscendC::TQue<AscendC::TPosition::VECIN, 2> key_queue_;
  AscendC::TQue<AscendC::TPosition::VECIN, 2> value_queue_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> tile_buffer_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> product_buffer_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> score_buffer_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> weight_buffer_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> half_buffer_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> scale_buffer_;
  uint32_t scales_at_ = 0;                // of an int8 tile, the element behind its values
  AscendC::LocalTensor<half> halves_;     // an int8 tile on its way to float32
  AscendC::LocalTensor<float> scales_;    // its tokens' scales
  AscendC::LocalTensor<float> floats_;    // the K tile, then the V tile: [tokens, head_dim]
  AscendC::LocalTensor<float> products_;  // [tokens, 64] for scores, [tokens, head_dim] for values
  AscendC::LocalTensor<float> scores_;    // [queries, 64], then their weights
  AscendC::LocalTensor<float> weights_;   // one query's weights, each eight times
  Tile unfinished_ = {};
};

}  // namespace paged_attention
