// What a vector core does beside the cube core: scores become weights, weighted values become results.
#pragma once

#include "cube_exchange.h"
#include "cube_scales.h"
#include "kernel_operator.h"
#include "online_softmax.h"
#include "paged_attention_io.h"
#include "paged_attention_plan.h"
#include "tile_widener.h"

namespace paged_attention {

// A vector core's part.
template <typename Element, typename Cache>
class VectorSide {
 public:
  __aicore__ inline void Init(AscendC::TPipe& pipe, const PagedAttentionTiling& tiling, const Arguments& arguments) {
    tiling_ = tiling;
    bands_ = tiling.cut.bands;
    core_ = AscendC::GetBlockIdx();
    output_.Init(pipe, tiling, arguments, kBandQueries);
    for (uint32_t band = 0; band < bands_; ++band) softmax_[band].Init(pipe, kBandQueries, tiling.head_dim);
    pipe.InitBuffer(score_queue_, 1, kScoreFloats * sizeof(float));
    pipe.InitBuffer(weight_queue_, 1, kScoreFloats * sizeof(Element));
    pipe.InitBuffer(fold_buffer_, kBandQueries * kLanes * sizeof(float));
    folded_ = fold_buffer_.template Get<float>();
    if constexpr (kWidens) {
      pages_.Init(tiling, arguments);
      widener_.Init(pipe, tiling.head_dim);
      scales_.Init(pipe);
    }
  }

  __aicore__ inline void Attend(const Plan& plan, const Exchange<Element, Cache>& exchange) {
    Tile tile = plan.First(), before = tile, after = tile;
    WidenKeys(plan, exchange, tile);
    for (uint64_t place = plan.begin(); place < plan.end(); ++place) {
      if (place + 1 < plan.end()) {
        after = plan.Next(tile);
        WidenKeys(plan, exchange, after);
      }
      WidenValues(plan, exchange, tile);
      const bool begins = plan.IsFirstHere(tile);
      const Part part = PartOf(tile);
      AscendC::CrossCoreWaitFlag(kScoresReady);
      if (begins) {
        if (place > plan.begin()) FinishTask(plan, exchange, before);
        for (uint32_t i = 0; i < NumBands(part); ++i) softmax_[i].Begin(BandOf(part, i).NumQueries());
      }
      if constexpr (kWidens) {
        if (part.num_heads > 0) {
          scales_.Load(score_queue_, pages_, tile, tile.First(plan.tile_tokens()), plan.Loaded(tile));
        }
      }
      for (uint32_t i = 0; i < NumBands(part); ++i) Weigh(plan, exchange, tile, i);
      AscendC::CrossCoreSetFlag<kWithinBlock, PIPE_MTE3>(kWeightsReady);
      if (!begins) AddValues(exchange, before);
      for (uint32_t i = 0; i < NumBands(part); ++i) softmax_[i].Decay(BandOf(part, i).NumQueries());
      before = tile;
      tile = after;
    }
    FinishTask(plan, exchange, before);
  }

  // Adds what the same core of the blocks after this one has of the task that its piece ends in.
  __aicore__ inline void Collect(const Plan& plan) {
    if (unfinished_.run.num_tokens == 0) return;
    const uint32_t others = plan.CoreOf(unfinished_.TaskEnd() - 1) - plan.CoreOf(unfinished_.place);
    const Part part = PartOf(unfinished_);
    for (uint32_t i = 0; i < NumBands(part); ++i) {
      const Part band = BandOf(part, i);
      for (uint32_t done = 0; done < others; done += kScoreFloats / output_.slot_floats()) {
        MergeOthers(i, band, done + 1, Least(others - done, kScoreFloats / output_.slot_floats()));
      }
      output_.Write(softmax_[i], band);
    }
  }

  __aicore__ inline void WritePadding(const Plan& plan) {
    output_.WritePadding(plan, core_, AscendC::GetBlockNum() * kCubeVectorCores);
  }

 private:
  static constexpr bool kWidens = Exchange<Element, Cache>::kWidens;
  static constexpr uint32_t kScoreFloats = kBandQueries * kCubeTileTokens;

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

  // A part is worked on band by band: as many of its tokens as there is room for.
  __aicore__ inline uint32_t NumBands(const Part& part) const {
    if (part.num_heads == 0) return 0;
    const uint32_t tokens = kBandQueries / part.num_heads;
    return (part.num_tokens + tokens - 1) / tokens;
  }
  __aicore__ inline Part BandOf(const Part& part, uint32_t i) const {
    const uint32_t tokens = kBandQueries / part.num_heads, first = i * tokens;
    return {part.first_token + first, Least(part.num_tokens - first, tokens), part.first_head, part.num_heads};
  }

  // Where the band's first query stands among the task's.
  __aicore__ inline uint32_t FirstQuery(const Tile& tile, const Part& band) const {
    return (band.first_token - tile.run.first_token) * tiling_.group + band.first_head - tile.kv_head * tiling_.group;
  }

  __aicore__ inline void Weigh(const Plan& plan, const Exchange<Element, Cache>& exchange, const Tile& tile, uint32_t i) {
    const Part band = BandOf(PartOf(tile), i);
    const uint32_t loaded = plan.Loaded(tile), width = (loaded + kLanes - 1) / kLanes * kLanes;
    const uint32_t first = FirstQuery(tile, band) * kCubeTileTokens;
    AscendC::LocalTensor<float> scores = LoadScores(exchange.Scores(tile.place)[first], band, loaded, width);
    if constexpr (kWidens) scales_.OfKeys(scores, width, band.NumQueries());
    Mask(plan, tile, band, scores, width, kMaskedScore);
    AscendC::Muls(scores, scores, tiling_.scale, static_cast<int32_t>(band.NumQueries() * width));
    VectorBarrier();
    softmax_[i].Weigh(scores, width, band.NumQueries(), folded_);
    if constexpr (kWidens) {
      scales_.OfValues(scores, width, band.NumQueries());
      Mask(plan, tile, band, scores, width, 0.0f);  // a scale of NaN is not for those who do not see it
    }
    StoreWeights(exchange.Weights(tile.place)[first], scores, band.NumQueries(), width);
    score_queue_.FreeTensor(scores);
  }

  __aicore__ inline void Mask(const Plan& plan, const Tile& tile, const Part& band,
                              const AscendC::LocalTensor<float>& scores, uint32_t width, float hidden_value) const {
    for (uint32_t token = 0; token < band.num_tokens; ++token) {
      const Plan::Sight seen = plan.Visible(tile, band.first_token + token);
      softmax_[0].Mask(scores, width, token * band.num_heads, band.num_heads, seen.first, seen.end, hidden_value);
    }
    VectorBarrier();
  }

  __aicore__ inline void WidenKeys(const Plan& plan, const Exchange<Element, Cache>& exchange, const Tile& tile) {
    if constexpr (kWidens) {
      widener_.Widen(exchange.WideKeys(tile.place), pages_, pages_.keys(), tile, tile.First(plan.tile_tokens()),
                     plan.Loaded(tile), folded_);
      AscendC::CrossCoreSetFlag<kWithinBlock, PIPE_MTE3>(kWideKeysReady);
    }
  }

  __aicore__ inline void WidenValues(const Plan& plan, const Exchange<Element, Cache>& exchange, const Tile& tile) {
    if constexpr (kWidens) {
      widener_.Widen(exchange.WideValues(tile.place), pages_, pages_.values(), tile, tile.First(plan.tile_tokens()),
                     plan.Loaded(tile), folded_);
      AscendC::CrossCoreSetFlag<kWithinBlock, PIPE_MTE3>(kWideValuesReady);
    }
  }

  // Rows of `width` floats, of which the first `loaded` come from the cube core.
  __aicore__ inline AscendC::LocalTensor<float> LoadScores(const AscendC::GlobalTensor<float>& source, const Part& band,
                                                           uint32_t loaded, uint32_t width) {
    AscendC::LocalTensor<float> scores = score_queue_.template AllocTensor<float>();
    const uint32_t bytes = loaded * sizeof(float), row_blocks = (bytes + kBlockBytes - 1) / kBlockBytes;
    AscendC::DataCopyPad(
        scores, source,
        AscendC::DataCopyExtParams(static_cast<uint16_t>(band.NumQueries()), bytes,
                                   static_cast<uint32_t>(kCubeTileTokens * sizeof(float)) - bytes,
                                   static_cast<uint32_t>(width / kBlockLanes) - row_blocks, 0),
        AscendC::DataCopyPadExtParams<float>(false, 0, 0, 0.0f));
    score_queue_.EnQue(scores);
    return score_queue_.template DeQue<float>();
  }

  __aicore__ inline void StoreWeights(const AscendC::GlobalTensor<Element>& target,
                                      const AscendC::LocalTensor<float>& scores, uint32_t queries, uint32_t width) {
    AscendC::LocalTensor<Element> weights = weight_queue_.template AllocTensor<Element>();
    AscendC::Cast(weights, scores, AscendC::RoundMode::CAST_RINT, static_cast<int32_t>(queries * width));
    weight_queue_.EnQue(weights);
    weights = weight_queue_.template DeQue<Element>();
    const uint32_t row_blocks = width * sizeof(Element) / kBlockBytes;
    AscendC::DataCopy(
        target, weights,
        AscendC::DataCopyParams(static_cast<uint16_t>(queries), static_cast<uint16_t>(row_blocks), 0,
                                static_cast<uint16_t>(kCubeTileTokens * sizeof(Element) / kBlockBytes - row_blocks)));
    weight_queue_.FreeTensor(weights);
  }

  __aicore__ inline void AddValues(const Exchange<Element, Cache>& exchange, const Tile& tile) {
    AscendC::CrossCoreWaitFlag(kValuesReady);
    const Part part = PartOf(tile);
    for (uint32_t i = 0; i < NumBands(part); ++i) {
      const Part band = BandOf(part, i);
      const uint32_t count = band.NumQueries() * tiling_.head_dim;
      AscendC::LocalTensor<float> values = score_queue_.template AllocTensor<float>();
      AscendC::DataCopy(values, exchange.Values(tile.place)[FirstQuery(tile, band) * tiling_.head_dim], count);
      score_queue_.EnQue(values);
      values = score_queue_.template DeQue<float>();
      if constexpr (kWidens) {
        AscendC::Axpy(softmax_[i].Values(), values, 1 / kScaleGain, static_cast<int32_t>(count));
      } else {
        AscendC::Add(softmax_[i].Values(), softmax_[i].Values(), values, static_cast<int32_t>(count));
      }
      score_queue_.FreeTensor(values);
    }
  }

  __aicore__ inline void FinishTask(const Plan& plan, const Exchange<Element, Cache>& exchange, const Tile& last) {
    AddValues(exchange, last);
    const Part part = PartOf(last);
    if (plan.EndsAfter(last) && !plan.BeginsBefore(last)) unfinished_ = last;
    for (uint32_t i = 0; i < NumBands(part); ++i) {
      if (plan.BeginsBefore(last)) {
        output_.Save(softmax_[i], SlotOf(0, i), BandOf(part, i));
      } else if (!plan.EndsAfter(last)) {
        output_.Write(softmax_[i], BandOf(part, i));
      }
    }
  }

  // Of the same vector core so many blocks on.
  __aicore__ inline uint32_t SlotOf(uint32_t blocks_on, uint32_t band) const {
    return (core_ + blocks_on * kCubeVectorCores) * bands_ + band;
  }

  // Adds what `count` blocks, from `first` blocks on, have of a band: all on their way at once.
  __aicore__ inline void MergeOthers(uint32_t i, const Part& band, uint32_t first, uint32_t count) {
    AscendC::LocalTensor<float> states = score_queue_.template AllocTensor<float>();
    for (uint32_t other = 0; other < count; ++other) {
      output_.Fetch(states[other * output_.slot_floats()], SlotOf(first + other, i), softmax_[i], band);
    }
    score_queue_.EnQue(states);
    states = score_queue_.template DeQue<float>();
    for (uint32_t other = 0; other < count; ++other) {
      softmax_[i].Merge(states[other * output_.slot_floats()], band.NumQueries());
    }
    score_queue_.FreeTensor(states);
  }

  PagedAttentionTiling tiling_;
  uint32_t bands_ = 0;
  uint32_t core_ = 0;
  Pages<Cache> pages_;
  TileWidener<Element, Cache> widener_;
  CubeScales scales_;
  Output<Element> output_;
  OnlineSoftmax softmax_[kMaxBands];
  AscendC::TQue<AscendC::TPosition::VECIN, 1> score_queue_;  // scores, then values, at last what other blocks have
  AscendC::TQue<AscendC::TPosition::VECOUT, 1> weight_queue_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> fold_buffer_;
  AscendC::LocalTensor<float> folded_;
  Tile unfinished_ = {};
};

}  // namespace paged_attention
