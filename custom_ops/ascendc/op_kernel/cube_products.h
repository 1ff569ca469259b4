// What the cube core does for attention: scores and weighted values of its tiles.
#pragma once

#include "cube_exchange.h"
#include "cube_matmul.h"
#include "paged_attention_io.h"
#include "paged_attention_plan.h"

namespace paged_attention {

// The cube core's part.
template <typename Element, typename Cache>
class CubeSide {
 public:
  __aicore__ inline void Init(AscendC::TPipe& pipe, const PagedAttentionTiling& tiling, const Arguments& arguments) {
    tiling_ = tiling;
    pages_.Init(tiling, arguments);
    query_.SetGlobalBuffer(reinterpret_cast<__gm__ Element*>(arguments.query));
    matmul_.Init(pipe, tiling.head_dim);
  }

  // Keys of the tile after the next are on their way while the weights of this one are awaited.
  __aicore__ inline void Attend(const Plan& plan, const Exchange<Element, Cache>& exchange) {
    Tile tile = plan.First(), before = tile;
    LoadKeys(plan, exchange, tile);
    for (uint64_t place = plan.begin(); place < plan.end(); ++place) {
      Scores(plan, exchange, tile);
      const Tile after = place + 1 < plan.end() ? plan.Next(tile) : tile;
      if (place > plan.begin()) LoadValues(plan, exchange, before);
      if (place + 1 < plan.end()) LoadKeys(plan, exchange, after);
      if (place > plan.begin()) Values(plan, exchange, before);
      before = tile;
      tile = after;
    }
    LoadValues(plan, exchange, before);
    Values(plan, exchange, before);
  }

 private:
  __aicore__ inline void LoadKeys(const Plan& plan, const Exchange<Element, Cache>& exchange, const Tile& tile) {
    if (plan.IsFirstHere(tile)) {
      const uint64_t first =
          static_cast<uint64_t>(tile.run.first_token) * tiling_.num_heads + tile.kv_head * tiling_.group;
      matmul_.LoadQueries(query_[first * tiling_.head_dim], tile.run.num_tokens, tiling_.group,
                          tiling_.num_heads * tiling_.head_dim);
    }
    if constexpr (Exchange<Element, Cache>::kWidens) {
      AscendC::CrossCoreWaitFlag(kWideKeysReady);
      LoadWide(exchange.WideKeys(tile.place), plan.Loaded(tile));
    } else {
      LoadTile(pages_.keys(), plan, tile);
    }
  }

  __aicore__ inline void LoadValues(const Plan& plan, const Exchange<Element, Cache>& exchange, const Tile& tile) {
    if constexpr (Exchange<Element, Cache>::kWidens) {
      AscendC::CrossCoreWaitFlag(kWideValuesReady);
      LoadWide(exchange.WideValues(tile.place), plan.Loaded(tile));
    } else {
      LoadTile(pages_.values(), plan, tile);
    }
  }

  __aicore__ inline void Scores(const Plan& plan, const Exchange<Element, Cache>& exchange, const Tile& tile) {
    matmul_.Scores(exchange.Scores(tile.place), plan.Loaded(tile));
    if (plan.IsLastHere(tile)) matmul_.ReleaseQueries();
    AscendC::CrossCoreSetFlag<kWithinBlock, PIPE_FIX>(kScoresReady);
  }

  // The weights are of all its queries, so they tell how many there are; those in L1 may be the next task's already.
  __aicore__ inline void Values(const Plan& plan, const Exchange<Element, Cache>& exchange, const Tile& tile) {
    AscendC::CrossCoreWaitFlag(kWeightsReady);
    matmul_.Values(exchange.Values(tile.place), exchange.Weights(tile.place), tile.run.num_tokens * tiling_.group,
                   plan.Loaded(tile));
    AscendC::CrossCoreSetFlag<kWithinBlock, PIPE_FIX>(kValuesReady);
  }

  __aicore__ inline void LoadTile(const AscendC::GlobalTensor<Cache>& cache, const Plan& plan, const Tile& tile) {
    const uint32_t total = plan.Loaded(tile), first = tile.First(plan.tile_tokens());
    for (uint32_t begin = 0; begin < total; begin += matmul_.SlotTokens()) {
      AscendC::LocalTensor<Element> slot = matmul_.NewSlot();
      const uint32_t end = Least(total, begin + matmul_.SlotTokens());
      for (uint32_t done = begin; done < end; done += kPieceTokens) {
        LoadPiece(matmul_.PieceOf(slot, done - begin), cache, tile, first + done, Least(end - done, kPieceTokens));
      }
      matmul_.HandOver(slot);
    }
  }

  __aicore__ inline void LoadPiece(const AscendC::LocalTensor<Element>& piece,
                                   const AscendC::GlobalTensor<Cache>& cache, const Tile& tile, uint32_t first,
                                   uint32_t count) {
    for (uint32_t row = 0; row < count;) {
      const auto found = pages_.PieceAt(tile.run.row, tile.kv_head, first + row, count - row);
      matmul_.LoadRows(piece, cache[found.offset], tiling_.num_kv_heads * tiling_.head_dim, row, found.tokens, count);
      row += found.tokens;
    }
  }

  __aicore__ inline void LoadWide(const AscendC::GlobalTensor<Element>& wide, uint32_t total) {
    for (uint32_t begin = 0; begin < total; begin += matmul_.SlotTokens()) {
      AscendC::LocalTensor<Element> slot = matmul_.NewSlot();
      const uint32_t end = Least(total, begin + matmul_.SlotTokens());
      for (uint32_t done = begin; done < end; done += kPieceTokens) {
        const uint32_t count = Least(end - done, kPieceTokens);
        matmul_.LoadRows(matmul_.PieceOf(slot, done - begin), wide[done * tiling_.head_dim], tiling_.head_dim, 0, count,
                         count);
      }
      matmul_.HandOver(slot);
    }
  }

  PagedAttentionTiling tiling_;
  Pages<Cache> pages_;
  AscendC::GlobalTensor<Element> query_;
  CubeMatmul<Element> matmul_;
};

}  // namespace paged_attention
