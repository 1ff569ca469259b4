// paged_attention for four and more query heads a KV head: the products on the cube core, the softmax on its two vector
// cores, which share the queries. A tile is 512 KV tokens; the cores hand it to and fro through the workspace:
//
//   cube core      scores(i)  . . . . . . values(i-1)  scores(i+1)  . . . . . values(i)
//                      \        weights(i-1) /    \         \       weights(i) /
//   vector cores   . . . softmax(i) . . . . . . . . add values(i-1), softmax(i+1) . . .
//
// Each of the three matrices has two places, used in turn. A flag for each tells that it is written; what was in a place
// two tiles ago has been read by then, because its reader's next flag has been awaited since.
#pragma once

#include "cube_matmul.h"
#include "kernel_operator.h"
#include "online_softmax.h"
#include "paged_attention_io.h"
#include "paged_attention_plan.h"

namespace paged_attention {

// Flags between the cube core and its vector cores; 11 to 14 belong to SyncAll.
constexpr uint16_t kScoresReady = 0;
constexpr uint16_t kWeightsReady = 1;
constexpr uint16_t kValuesReady = 2;
constexpr uint8_t kWithinBlock = 2;  // CrossCoreSetFlag's mode: a cube core and its vector cores

// One block's places in the workspace.
template <typename Cache>
class Exchange {
 public:
  __aicore__ inline void Init(GM_ADDR base, uint32_t block, uint32_t head_dim) {
    constexpr uint64_t kScores = static_cast<uint64_t>(kCubeQueries) * kCubeTileTokens;
    for (uint32_t place = 0; place < 2; ++place) {
      __gm__ uint8_t* start = base + (2 * static_cast<uint64_t>(block) + place) * CubeExchangeBytes(head_dim);
      scores_[place].SetGlobalBuffer(reinterpret_cast<__gm__ float*>(start));
      weights_[place].SetGlobalBuffer(reinterpret_cast<__gm__ Cache*>(start + kScores * sizeof(float)));
      values_[place].SetGlobalBuffer(
          reinterpret_cast<__gm__ float*>(start + kScores * (sizeof(float) + sizeof(Cache))));
    }
  }

  __aicore__ inline AscendC::GlobalTensor<float> Scores(uint64_t tile) const { return scores_[tile % 2]; }
  __aicore__ inline AscendC::GlobalTensor<Cache> Weights(uint64_t tile) const { return weights_[tile % 2]; }
  __aicore__ inline AscendC::GlobalTensor<float> Values(uint64_t tile) const { return values_[tile % 2]; }

 private:
  AscendC::GlobalTensor<float> scores_[2];   // [queries, kCubeTileTokens]
  AscendC::GlobalTensor<Cache> weights_[2];  // [queries, kCubeTileTokens]
  AscendC::GlobalTensor<float> values_[2];   // [queries, head_dim]
};

// The cube core's part.
template <typename Cache>
class CubeSide {
 public:
  __aicore__ inline void Init(AscendC::TPipe& pipe, const PagedAttentionTiling& tiling, const Arguments& arguments) {
    tiling_ = tiling;
    pages_.Init(tiling, arguments);
    query_.SetGlobalBuffer(reinterpret_cast<__gm__ Cache*>(arguments.query));
    matmul_.Init(pipe, tiling.head_dim);
  }

  __aicore__ inline void Attend(const Plan& plan, const Exchange<Cache>& exchange) {
    Tile tile = plan.First(), before = tile;
    for (uint64_t place = plan.begin(); place < plan.end(); ++place) {
      if (place > plan.begin()) tile = plan.Next(before);
      Scores(plan, exchange, tile);
      if (place > plan.begin()) Values(plan, exchange, before);
      before = tile;
    }
    Values(plan, exchange, before);
  }

 private:
  __aicore__ inline void Scores(const Plan& plan, const Exchange<Cache>& exchange, const Tile& tile) {
    if (plan.IsFirstHere(tile)) {
      const uint64_t first =
          static_cast<uint64_t>(tile.run.first_token) * tiling_.num_heads + tile.kv_head * tiling_.group;
      matmul_.LoadQueries(query_[first * tiling_.head_dim], tile.run.num_tokens, tiling_.group,
                          tiling_.num_heads * tiling_.head_dim);
    }
    LoadTile(pages_.keys(), plan, tile);
    matmul_.Scores(exchange.Scores(tile.place), plan.Loaded(tile));
    if (plan.IsLastHere(tile)) matmul_.ReleaseQueries();
    AscendC::CrossCoreSetFlag<kWithinBlock, PIPE_FIX>(kScoresReady);
  }

  __aicore__ inline void Values(const Plan& plan, const Exchange<Cache>& exchange, const Tile& tile) {
    LoadTile(pages_.values(), plan, tile);
    AscendC::CrossCoreWaitFlag(kWeightsReady);
    matmul_.Values(exchange.Values(tile.place), exchange.Weights(tile.place), tile.run.num_tokens * tiling_.group,
                   plan.Loaded(tile));
    AscendC::CrossCoreSetFlag<kWithinBlock, PIPE_FIX>(kValuesReady);
  }

  __aicore__ inline void LoadTile(const AscendC::GlobalTensor<Cache>& cache, const Plan& plan, const Tile& tile) {
    const uint32_t total = plan.Loaded(tile), first = tile.First(kCubeTileTokens);
    for (uint32_t done = 0; done < total; done += kPieceTokens) {
      const uint32_t count = total - done < kPieceTokens ? total - done : kPieceTokens;
      AscendC::LocalTensor<Cache> piece = matmul_.NewPiece();
      for (uint32_t row = 0; row < count;) {
        const auto found = pages_.PieceAt(tile.run.row, tile.kv_head, first + done + row, count - row);
        matmul_.LoadRows(piece, cache[found.offset], tiling_.num_kv_heads * tiling_.head_dim, row, found.tokens, count);
        row += found.tokens;
      }
      matmul_.HandOver(piece);
    }
  }

  PagedAttentionTiling tiling_;
  Pages<Cache> pages_;
  AscendC::GlobalTensor<Cache> query_;
  CubeMatmul<Cache> matmul_;
};

// A vector core's part.
template <typename Cache>
class VectorSide {
 public:
  __aicore__ inline void Init(AscendC::TPipe& pipe, const PagedAttentionTiling& tiling, const Arguments& arguments) {
    tiling_ = tiling;
    core_ = AscendC::GetBlockIdx();
    output_.Init(pipe, tiling, arguments, kMaxQueries);
    softmax_.Init(pipe, kMaxQueries, tiling.head_dim);
    pipe.InitBuffer(score_queue_, 1, kMaxQueries * kCubeTileTokens * sizeof(float));
    pipe.InitBuffer(weight_queue_, 1, kMaxQueries * kCubeTileTokens * sizeof(Cache));
    pipe.InitBuffer(value_queue_, 1, kMaxQueries * tiling.head_dim * sizeof(float));
    pipe.InitBuffer(fold_buffer_, SoftmaxStateFloats(kMaxQueries, kPagedAttentionMaxHeadDim) * sizeof(float));
    scratch_ = fold_buffer_.template Get<float>();
  }

  __aicore__ inline void Attend(const Plan& plan, const Exchange<Cache>& exchange) {
    Tile tile = plan.First(), before = tile;
    for (uint64_t place = plan.begin(); place < plan.end(); ++place) {
      if (place > plan.begin()) tile = plan.Next(before);
      const bool begins = plan.IsFirstHere(tile);
      AscendC::CrossCoreWaitFlag(kScoresReady);
      if (begins) {
        if (place > plan.begin()) FinishTask(plan, exchange, before);
        if (PartOf(tile).num_heads > 0) softmax_.Begin(PartOf(tile).NumQueries());
      }
      Weigh(plan, exchange, tile);
      if (!begins) AddValues(exchange, before);
      if (PartOf(tile).num_heads > 0) softmax_.Decay(PartOf(tile).NumQueries());
      before = tile;
    }
    FinishTask(plan, exchange, before);
  }

  // Adds what the same core of the blocks after this one has of the task that its piece ends in.
  __aicore__ inline void Collect(const Plan& plan) {
    const Part part = PartOf(unfinished_);
    if (unfinished_.run.num_tokens == 0 || part.num_heads == 0) return;
    const uint32_t others = plan.CoreOf(unfinished_.TaskEnd() - 1) - plan.CoreOf(unfinished_.place);
    for (uint32_t i = 1; i <= others; ++i) {
      output_.Restore(scratch_, core_ + i * kVectorCores, softmax_, part);
      softmax_.Merge(scratch_, part.NumQueries());
    }
    output_.Write(softmax_, part);
  }

  __aicore__ inline void WritePadding(const Plan& plan) {
    output_.WritePadding(plan, core_, AscendC::GetBlockNum() * kVectorCores);
  }

 private:
  static constexpr uint32_t kVectorCores = 2;  // of a cube core
  static constexpr uint32_t kMaxQueries = kCubeQueries / kVectorCores;

  // The vector cores share the tokens of a run, or the heads of its only token; one may be left without.
  __aicore__ inline Part PartOf(const Tile& tile) const {
    const uint32_t head = tile.kv_head * tiling_.group, tokens = tile.run.num_tokens;
    const bool second = AscendC::GetSubBlockIdx() == 1;
    if (tokens > 1) {
      const uint32_t half = (tokens + 1) / 2;
      if (second) return {tile.run.first_token + half, tokens - half, head, tiling_.group};
      return {tile.run.first_token, half, head, tiling_.group};
    }
    const uint32_t half = (tiling_.group + 1) / 2;
    if (second) return {tile.run.first_token, 1, head + half, tiling_.group - half};
    return {tile.run.first_token, 1, head, half};
  }

  // Where the part's first query stands among the task's.
  __aicore__ inline uint32_t FirstQuery(const Tile& tile, const Part& part) const {
    return (part.first_token - tile.run.first_token) * tiling_.group + part.first_head - tile.kv_head * tiling_.group;
  }

  __aicore__ inline void Weigh(const Plan& plan, const Exchange<Cache>& exchange, const Tile& tile) {
    const Part part = PartOf(tile);
    if (part.num_heads > 0) {
      const uint32_t loaded = plan.Loaded(tile), width = (loaded + kLanes - 1) / kLanes * kLanes;
      const uint32_t first = FirstQuery(tile, part) * kCubeTileTokens;
      AscendC::LocalTensor<float> scores = LoadScores(exchange.Scores(tile.place)[first], part, loaded, width);
      for (uint32_t i = 0; i < part.num_tokens; ++i) {
        const Plan::Sight seen = plan.Visible(tile, part.first_token + i);
        softmax_.Mask(scores, width, i * part.num_heads, part.num_heads, seen.first, seen.end);
      }
      VectorBarrier();
      AscendC::Muls(scores, scores, tiling_.scale, static_cast<int32_t>(part.NumQueries() * width));
      VectorBarrier();
      softmax_.Weigh(scores, width, part.NumQueries(), scratch_);
      StoreWeights(exchange.Weights(tile.place)[first], scores, part.NumQueries(), width);
      score_queue_.FreeTensor(scores);
    }
    AscendC::CrossCoreSetFlag<kWithinBlock, PIPE_MTE3>(kWeightsReady);
  }

  // Rows of `width` floats, of which the first `loaded` come from the cube core.
  __aicore__ inline AscendC::LocalTensor<float> LoadScores(const AscendC::GlobalTensor<float>& source, const Part& part,
                                                           uint32_t loaded, uint32_t width) {
    AscendC::LocalTensor<float> scores = score_queue_.template AllocTensor<float>();
    const uint32_t bytes = loaded * sizeof(float), row_blocks = (bytes + kBlockBytes - 1) / kBlockBytes;
    AscendC::DataCopyPad(
        scores, source,
        AscendC::DataCopyExtParams(static_cast<uint16_t>(part.NumQueries()), bytes,
                                   static_cast<uint32_t>(kCubeTileTokens * sizeof(float)) - bytes,
                                   static_cast<uint32_t>(width / kBlockLanes) - row_blocks, 0),
        AscendC::DataCopyPadExtParams<float>(false, 0, 0, 0.0f));
    score_queue_.EnQue(scores);
    return score_queue_.template DeQue<float>();
  }

  __aicore__ inline void StoreWeights(const AscendC::GlobalTensor<Cache>& target,
                                      const AscendC::LocalTensor<float>& scores, uint32_t queries, uint32_t width) {
    AscendC::LocalTensor<Cache> weights = weight_queue_.template AllocTensor<Cache>();
    AscendC::Cast(weights, scores, AscendC::RoundMode::CAST_RINT, static_cast<int32_t>(queries * width));
    weight_queue_.EnQue(weights);
    weights = weight_queue_.template DeQue<Cache>();
    const uint32_t row_blocks = width * sizeof(Cache) / kBlockBytes;
    AscendC::DataCopy(
        target, weights,
        AscendC::DataCopyParams(static_cast<uint16_t>(queries), static_cast<uint16_t>(row_blocks), 0,
                                static_cast<uint16_t>(kCubeTileTokens * sizeof(Cache) / kBlockBytes - row_blocks)));
    weight_queue_.FreeTensor(weights);
  }

  __aicore__ inline void AddValues(const Exchange<Cache>& exchange, const Tile& tile) {
    AscendC::CrossCoreWaitFlag(kValuesReady);
    const Part part = PartOf(tile);
    if (part.num_heads == 0) return;
    const uint32_t count = part.NumQueries() * tiling_.head_dim;
    AscendC::LocalTensor<float> values = value_queue_.template AllocTensor<float>();
    AscendC::DataCopy(values, exchange.Values(tile.place)[FirstQuery(tile, part) * tiling_.head_dim], count);
    value_queue_.EnQue(values);
    values = value_queue_.template DeQue<float>();
    AscendC::Add(softmax_.Values(), softmax_.Values(), values, static_cast<int32_t>(count));
    value_queue_.FreeTensor(values);
  }

  __aicore__ inline void FinishTask(const Plan& plan, const Exchange<Cache>& exchange, const Tile& last) {
    AddValues(exchange, last);
    const Part part = PartOf(last);
    if (plan.EndsAfter(last) && !plan.BeginsBefore(last)) unfinished_ = last;
    if (part.num_heads == 0) return;
    if (plan.BeginsBefore(last)) {
      output_.Save(softmax_, core_, part);
    } else if (!plan.EndsAfter(last)) {
      output_.Write(softmax_, part);
    }
  }

  PagedAttentionTiling tiling_;
  uint32_t core_ = 0;
  Output<Cache> output_;
  OnlineSoftmax softmax_;
  AscendC::TQue<AscendC::TPosition::VECIN, 1> score_queue_;
  AscendC::TQue<AscendC::TPosition::VECOUT, 1> weight_queue_;
  AscendC::TQue<AscendC::TPosition::VECIN, 1> value_queue_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> fold_buffer_;
  AscendC::LocalTensor<float> scratch_;
  Tile unfinished_ = {};
};

template <typename Cache>
class CubeAttention {
 public:
  __aicore__ inline void Init(const PagedAttentionTiling& tiling, const Arguments& arguments) {
    const uint32_t num_blocks = AscendC::GetBlockNum();
    uint32_t block = AscendC::GetBlockIdx();
    if ASCEND_IS_AIV {
      block /= 2;
      vectors_.Init(pipe_, tiling, arguments);
    }
    if ASCEND_IS_AIC {
      cube_.Init(pipe_, tiling, arguments);
    }
    plan_.Init(tiling, arguments.rows, arguments.context_lens, block, num_blocks);
    const uint64_t slots = 2 * num_blocks * SoftmaxStateFloats(kCubeQueries / 2, tiling.head_dim) * sizeof(float);
    exchange_.Init(arguments.workspace + slots, block, tiling.head_dim);
  }

  __aicore__ inline void Process() {
    const bool busy = plan_.begin() < plan_.end();
    if ASCEND_IS_AIC {
      if (busy) cube_.Attend(plan_, exchange_);
    }
    if ASCEND_IS_AIV {
      vectors_.WritePadding(plan_);
      if (busy) vectors_.Attend(plan_, exchange_);
    }
    AscendC::SyncAll<false>();
    if ASCEND_IS_AIV {
      vectors_.Collect(plan_);
    }
  }

 private:
  AscendC::TPipe pipe_;
  Plan plan_;
  Exchange<Cache> exchange_;
  CubeSide<Cache> cube_;
  VectorSide<Cache> vectors_;
};

}  // namespace paged_attention
