// Attention of a tile of queries, all on one row, over one partition of that row's context.
//
//   context   |<---- partition 0 ---->|<---- partition 1 ---->|<- the rest ->|
//   chunks    |16|16|16|16| ...       |
//
// A partition is a fixed range of 256 positions. Inside it a softmax needs no rescaling: all scores first (K is read
// once), then one maximum, the exponentials, and the weighted sum of values (V is read once). Partitions are joined
// by the online softmax, always one by one from the left. So every sum of a query is taken in an order that depends on
// its context length alone: not on the threads, the neighbours in the batch, the blocks, or the tile it stands in.
//
// With a window a query sees the last tokens of its context only: what it has of a partition begins where its window
// does, partitions keep their places, and chunks before the windows of all queries are not read.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/attention/attention_panel.h"
#include "cpu/attention/prefetcher.h"
#include "cpu/attention/softmax.h"
#include "cpu/runtime/simd.h"
#include "op/attention_call.h"

namespace paged_ops {

// How many queries share one load of keys or values: the whole group of most models.
constexpr int kSharedQueries = 4;

// Tokens that so many queries meet at once for their scores, and vectors of a value for their results. All the sums
// have to stay in registers: 16 of AVX-512's 32; of the 16 that others have, 12 beside three queries and a key.
constexpr int TileWidth(int queries) {
#if defined(PAGED_OPS_AVX512)
  constexpr int kMaxSums = 16;
#else
  constexpr int kMaxSums = 12;
#endif
  return queries * 4 <= kMaxSums ? 4 : 2;
}

// Keys and values of some neighbouring KV heads, as one row of the block table arranges them.
template <typename Cache>
struct RowCache {
  const Cache* keys;  // of the first of the heads, in block 0
  const Cache* values;
  const int32_t* blocks;
  int64_t block_size;
  int64_t block_stride;
  int64_t token_stride;
  int64_t head_dim;
  const float* key_scales;  // of an int8 cache: of the first of the heads, in block 0; else null
  const float* value_scales;

  // Where position `position` lies, in elements from `keys` or `values`.
  int64_t Offset(int64_t position) const {
    return blocks[position / block_size] * block_stride + position % block_size * token_stride;
  }

  // Of `cached`, which is `keys` or `values`, the tokens of the chunk at `position` that are before `end`.
  ComingTokens<Cache> Coming(const Cache* cached, int64_t position, int64_t end) const {
    if (position >= end) return {nullptr, 0};
    return {cached + Offset(position), std::min(end - position, kChunkTokens)};
  }

  // Where it has its scale, from `key_scales` or `value_scales`; the scales of its other heads follow.
  int64_t ScaleOffset(int64_t position) const {
    constexpr int64_t kElementBytes = sizeof(Cache), kScaleBytes = sizeof(float);
    return blocks[position / block_size] * block_stride * kElementBytes / kScaleBytes +
           position % block_size * (token_stride / head_dim);
  }
};

// The first chunk of a partition that is read, where position `first_seen` is the first that any query sees.
inline int64_t FirstChunk(int64_t partition, int64_t first_seen) {
  return std::max(partition * kPartitionTokens, first_seen / kChunkTokens * kChunkTokens);
}

// Queries that share loads: for each of the heads, `per_head` of them. All are float32 and already scaled, in rows of
// `stride` floats, a multiple of kLanes, with zeros behind head_dim.
struct QueryTile {
  const float* queries;
  const int64_t* contexts;  // of the queries of one head; the same for every head
  int64_t heads;
  int64_t per_head;
  int64_t stride;
  int64_t first_seen;  // position: of what any of them sees
  int64_t window;      // tokens that each sees, 0 = all

  int64_t count() const { return heads * per_head; }
};

// Keys, or values, of consecutive tokens and one head.
template <typename Cache>
struct Tokens {
  const Cache* first;
  int64_t stride;
  int64_t head_dim;

  Tokens From(int64_t token) const { return {first + token * stride, stride, head_dim}; }
};

// products[q][t] += query q * key t, for the kLanes elements from d on.
template <int NQ, int NT, typename Cache, typename LoadVec>
inline void AddProducts(const float* queries, int64_t stride, const Tokens<Cache>& keys, int64_t d, LoadVec load,
                        Vec (&products)[NQ * NT]) {
  Vec query[NQ];
  PAGED_OPS_UNROLL for (int q = 0; q < NQ; ++q) query[q] = InRegister(Load(queries + q * stride + d));
  PAGED_OPS_UNROLL for (int t = 0; t < NT; ++t) {
    const Vec key = InRegister(load(keys.first + t * keys.stride + d));
    PAGED_OPS_UNROLL for (int q = 0; q < NQ; ++q) products[q * NT + t] = MulAdd(query[q], key, products[q * NT + t]);
  }
}

// Scores of NQ queries against TileWidth(NQ) tokens.
template <int NQ, typename Cache>
inline void ScoreTokens(const float* queries, int64_t stride, const Tokens<Cache>& keys, float* scores) {
  constexpr int kTokens = TileWidth(NQ);
  Vec products[NQ * kTokens];
  PAGED_OPS_UNROLL for (int q = 0; q < NQ; ++q) {
    PAGED_OPS_UNROLL for (int t = 0; t < kTokens; ++t) products[q * kTokens + t] = Vec{};
  }
  int64_t d = 0;
  for (; d + kLanes <= keys.head_dim; d += kLanes) {
    AddProducts<NQ, kTokens>(queries, stride, keys, d, [](const Cache* source) { return Load(source); }, products);
  }
  if (d < keys.head_dim) {
    const auto load_part = [&](const Cache* source) { return LoadPart(source, keys.head_dim - d); };
    AddProducts<NQ, kTokens>(queries, stride, keys, d, load_part, products);
  }
  PAGED_OPS_UNROLL for (int i = 0; i < NQ * kTokens; i += 4) {  // of one query, or of two with half as many tokens
    float sums[4];
    SumLanes(products + i, sums);
    for (int part = 0; part < 4; part += kTokens) {
      std::memcpy(scores + (i + part) / kTokens * kPartitionTokens, sums + part, kTokens * sizeof(float));
    }
  }
}

// For the NV vectors from d on: result[q] += the sum over `count` tokens of weights[q][token] * value of the token.
template <int NQ, int NV, typename Cache, typename LoadVec>
inline void WeighVectors(const float* weights, const Tokens<Cache>& values, int64_t count, int64_t d, LoadVec load,
                         float* result, int64_t stride) {
  Vec sums[NQ][NV];
  PAGED_OPS_UNROLL for (int q = 0; q < NQ; ++q) {
    PAGED_OPS_UNROLL for (int v = 0; v < NV; ++v) sums[q][v] = Load(result + q * stride + d + v * kLanes);
  }
  for (int64_t t = 0; t < count; ++t) {
    Vec weight[NQ];
    PAGED_OPS_UNROLL for (int q = 0; q < NQ; ++q) weight[q] = InRegister(Broadcast(weights[q * kPartitionTokens + t]));
    PAGED_OPS_UNROLL for (int v = 0; v < NV; ++v) {
      const Vec value = InRegister(load(values.first + t * values.stride + d + v * kLanes));
      PAGED_OPS_UNROLL for (int q = 0; q < NQ; ++q) sums[q][v] = MulAdd(weight[q], value, sums[q][v]);
    }
  }
  PAGED_OPS_UNROLL for (int q = 0; q < NQ; ++q) {
    PAGED_OPS_UNROLL for (int v = 0; v < NV; ++v) Store(result + q * stride + d + v * kLanes, sums[q][v]);
  }
}

template <int NQ, typename Cache>
inline void WeighTokens(const float* weights, const Tokens<Cache>& values, int64_t count, float* result,
                        int64_t stride, Prefetcher& prefetcher) {
  constexpr int kVecs = TileWidth(NQ);
  const auto load = [](const Cache* source) { return Load(source); };
  int64_t d = 0;
  for (; d + kVecs * kLanes <= values.head_dim; d += kVecs * kLanes) {
    prefetcher.Advance(NQ * count * kVecs * kLanes);
    WeighVectors<NQ, kVecs>(weights, values, count, d, load, result, stride);
  }
  for (; d + kLanes <= values.head_dim; d += kLanes) {
    WeighVectors<NQ, 1>(weights, values, count, d, load, result, stride);
  }
  if (d < values.head_dim) {
    const auto load_part = [&](const Cache* source) { return LoadPart(source, values.head_dim - d); };
    WeighVectors<NQ, 1>(weights, values, count, d, load_part, result, stride);
  }
}

template <typename Cache>
class PartitionAttention {
 public:
  // `scores` has room for kPartitionTokens floats a query. With `panels`, room for PanelFloats, it goes by panels: a
  // tile of one head, with kPanelQueries or more. Without, it reads the pages in place, and fetches `coming`, the keys
  // that are read after this partition.
  PartitionAttention(const RowCache<Cache>& cache, const QueryTile& tile, int64_t partition, float* scores,
                     float* panels, const ComingTokens<Cache>& coming, Softmax result)
      : cache_(cache),
        tile_(tile),
        start_(partition * kPartitionTokens),
        first_chunk_(FirstChunk(partition, tile.first_seen)),
        end_(std::min(*std::max_element(tile.contexts, tile.contexts + tile.per_head), start_ + kPartitionTokens)),
        scores_(scores),
        panels_(panels),
        coming_(coming),
        result_(result) {}

  void Run() {
    panels_ ? ScorePanels() : ScorePages();
    if constexpr (kScaled) MultiplyByScales(cache_.key_scales);
    for (int64_t q = 0; q < tile_.count(); ++q) {
      const int64_t end = std::max<int64_t>(0, End(q % tile_.per_head) - start_);
      const int64_t first = std::min(First(q % tile_.per_head) - start_, end);
      ScoresToWeights(scores_ + q * kPartitionTokens, first, end, result_.OfQuery(q, tile_.stride));
    }
    if constexpr (kScaled) MultiplyByScales(cache_.value_scales);
    panels_ ? WeighPanels() : WeighPages();
  }

 private:
  // Also of tokens that a query does not see, or that are not there, to the end of a tile: no one reads those scores.
  void ScorePages() const {
    const ComingTokens<Cache> first_values = cache_.Coming(cache_.values, first_chunk_, end_);
    EachGroupOfChunk(cache_.keys, first_values, [this](auto nq, const Group& group, Prefetcher& prefetcher) {
      const float* queries = tile_.queries + group.query * tile_.stride;
      float* scores = Scores(group.query, group.position);
      for (int64_t t = group.first / TileWidth(nq()) * TileWidth(nq()); t < group.seen; t += TileWidth(nq())) {
        prefetcher.Advance(nq() * TileWidth(nq()) * tile_.stride);
        ScoreTokens<nq()>(queries, tile_.stride, group.tokens.From(t), scores + t);
      }
    });
  }

  void WeighPages() const {
    std::fill_n(result_.values, tile_.count() * tile_.stride, 0.0f);
    EachGroupOfChunk(cache_.values, coming_, [this](auto nq, const Group& group, Prefetcher& prefetcher) {
      if (group.first < group.shared_first) WeighAlone<nq()>(group, group.first, group.shared_first, prefetcher);
      Weigh<nq()>(group, group.query, group.shared_first, group.shared, prefetcher);
      if (group.shared < group.seen) WeighAlone<nq()>(group, group.shared, group.seen, prefetcher);
    });
  }

  void ScorePanels() const {
    EachChunk(cache_.keys, [this](const float* rows, int64_t first) { PackKeys(rows, tile_.stride, first, panels_); });
    for (int64_t t = (first_chunk_ - start_) / kPanelWidth * kPanelWidth; t < end_ - start_; t += kPanelWidth) {
      EachGroup([&](int64_t group, const Sight& sight) {
        if (t >= sight.seen || t + kPanelWidth <= sight.first) return;
        ScorePanel(tile_.queries + group * tile_.stride, tile_.stride, panels_ + t * tile_.stride,
                   scores_ + group * kPartitionTokens + t);
      });
    }
  }

  void WeighPanels() const {
    EachChunk(cache_.values, [this](const float* rows, int64_t first) {
      PackValues(rows, tile_.stride, first, panels_);
    });
    for (int64_t d = 0; d < tile_.stride; d += kPanelWidth) {
      const float* panel = panels_ + d / kPanelWidth * kValuePanel;
      const auto weigh = [&](auto nq, int64_t query, int64_t first, int64_t end, bool goes_on) {
        WeighPanel<nq()>(scores_ + query * kPartitionTokens + first, panel + first * kPanelWidth, end - first, goes_on,
                         result_.values + query * tile_.stride + d, tile_.stride, tile_.stride - d);
      };
      EachGroup([&](int64_t group, const Sight& sight) {
        const auto weigh_alone = [&](int64_t first, int64_t end, bool goes_on) {
          for (int64_t q = group; q < group + kPanelQueries; ++q) {
            const int64_t from = std::min(std::max(First(q) - start_, first), end);
            weigh(std::integral_constant<int, 1>(), q, from, std::max(std::min(End(q) - start_, end), from), goes_on);
          }
        };
        const bool some_begin = sight.first < sight.shared_first;
        if (some_begin) weigh_alone(sight.first, sight.shared_first, false);
        weigh(std::integral_constant<int, kPanelQueries>(), group, sight.shared_first, sight.shared, some_begin);
        if (sight.shared < sight.seen) weigh_alone(sight.shared, sight.seen, true);
      });
    }
  }

  // What some queries of one head see of a run of tokens, counted from the run's first: each sees a part of what is
  // from `first` to `seen`, and all of them see what is from `shared_first` to `shared`.
  struct Sight {
    int64_t first;
    int64_t shared_first;
    int64_t shared;
    int64_t seen;
  };

  // Of the `length` tokens from `position` on, what `count` queries of a head see. Where no token is seen by all of them,
  // what is shared is nothing.
  Sight SightOf(int64_t query, int64_t count, int64_t position, int64_t length) const {
    const int64_t* contexts = tile_.contexts + query;
    const auto [least, most] = std::minmax_element(contexts, contexts + count);
    const auto inside = [&](int64_t place) { return std::clamp<int64_t>(place - position, 0, length); };
    const Sight sight{inside(FirstSeen(*least, tile_.window)), inside(FirstSeen(*most, tile_.window)), inside(*least),
                      inside(*most)};
    if (sight.shared_first <= sight.shared) return sight;
    return {sight.first, sight.first, sight.first, sight.seen};
  }

  // Calls body(first query, what they see of the partition) for each kPanelQueries queries. The last of these groups may
  // share queries with the one before; it finds the same.
  template <typename Body>
  void EachGroup(Body body) const {
    for (int64_t q = 0; q < tile_.per_head; q += kPanelQueries) {
      const int64_t group = std::min(q, tile_.per_head - kPanelQueries);
      body(group, SightOf(group, kPanelQueries, start_, end_ - start_));
    }
  }

  // Calls body(kChunkTokens tokens as floats, their place in the partition) for each chunk of it.
  template <typename Body>
  void EachChunk(const Cache* cached, Body body) const {
    float* rows = panels_ + PanelCount(tile_.stride) * kValuePanel;
    for (int64_t chunk = first_chunk_; chunk < end_; chunk += kChunkTokens) {
      WidenTokens(cached + cache_.Offset(chunk), cache_.token_stride, cache_.head_dim, rows, tile_.stride);
      body(rows, chunk - start_);
    }
  }

  static constexpr bool kScaled = std::is_same_v<Cache, int8_t>;

  // Consecutive queries of one head that meet a chunk together.
  struct Group : Sight {
    int64_t query;     // the first
    int64_t position;  // of the chunk, in the context
    Tokens<Cache> tokens;
  };

  float* Scores(int64_t query, int64_t position) const {
    return scores_ + query * kPartitionTokens + position - start_;
  }

  template <int NQ>
  void Weigh(const Group& group, int64_t query, int64_t first, int64_t end, Prefetcher& prefetcher) const {
    if (end <= first) return;
    WeighTokens<NQ>(Scores(query, group.position + first), group.tokens.From(first), end - first,
                    result_.OfQuery(query, tile_.stride).values, tile_.stride, prefetcher);
  }

  // Tokens that only some of the group may see: each such query takes them alone.
  template <int NQ>
  void WeighAlone(const Group& group, int64_t first, int64_t end, Prefetcher& prefetcher) const {
    for (int64_t q = group.query; q < group.query + NQ; ++q) {
      const int64_t of_head = q % tile_.per_head;
      Weigh<1>(group, q, std::max(first, First(of_head) - group.position), std::min(end, End(of_head) - group.position),
               prefetcher);
    }
  }

  // Scores of int8 keys, or weights of int8 values, times their tokens' scales: a product each, in no order.
  void MultiplyByScales(const float* scales) const {
    float of_head[kPartitionTokens];
    for (int64_t head = 0; head < tile_.heads; ++head) {
      for (int64_t chunk = first_chunk_; chunk < end_; chunk += kChunkTokens) {
        const float* here = scales + cache_.ScaleOffset(chunk) + head;
        const int64_t step = cache_.token_stride / cache_.head_dim;
        for (int64_t t = 0; t < kChunkTokens; ++t) of_head[chunk - start_ + t] = here[t * step];
      }
      for (int64_t q = 0; q < tile_.per_head; ++q) {
        float* factors = scores_ + (head * tile_.per_head + q) * kPartitionTokens;
        for (int64_t t = First(q) - start_; t < End(q) - start_; ++t) factors[t] *= of_head[t];
      }
    }
  }

  // Where the tokens of this partition begin and end for query q of a head; it may have none.
  int64_t First(int64_t q) const { return std::max(FirstSeen(tile_.contexts[q], tile_.window), start_); }
  int64_t End(int64_t q) const { return std::min(tile_.contexts[q], end_); }

  // Calls body(number of queries, group, prefetcher) so that every query meets its tokens in order. Chunk by chunk and
  // there head by head, which is the order of the cache in memory; and all queries of a head use its chunk while it is
  // in the core's own cache. `coming` is what will be read when all is done.
  template <typename Body>
  void EachGroupOfChunk(const Cache* cached, const ComingTokens<Cache>& coming, Body body) const {
    for (int64_t chunk = first_chunk_; chunk < end_; chunk += kChunkTokens) {
      const bool is_last = chunk + kChunkTokens >= end_;
      const int64_t work = std::min(kChunkTokens, end_ - chunk) * tile_.count() * tile_.stride;
      Prefetcher prefetcher(is_last ? coming : cache_.Coming(cached, chunk + kChunkTokens, end_),
                            tile_.heads * cache_.head_dim, cache_.token_stride, work);
      Tokens<Cache> tokens{cached + cache_.Offset(chunk), cache_.token_stride, cache_.head_dim};
      for (int64_t head = 0; head < tile_.heads; ++head, tokens.first += cache_.head_dim) {
        for (int64_t q = 0; q < tile_.per_head; q += kSharedQueries) {
          const int64_t count = std::min<int64_t>(kSharedQueries, tile_.per_head - q);
          const Group group{SightOf(q, count, chunk, kChunkTokens), head * tile_.per_head + q, chunk, tokens};
          WithQueryCount(count, [&](auto nq) { body(nq, group, prefetcher); });
        }
      }
      prefetcher.Finish();
    }
  }

  template <typename Body>
  static void WithQueryCount(int64_t count, Body body) {
    static_assert(kSharedQueries == 4, "one case below for each number of queries");
    if (count == 1) return body(std::integral_constant<int, 1>());
    if (count == 2) return body(std::integral_constant<int, 2>());
    if (count == 3) return body(std::integral_constant<int, 3>());
    body(std::integral_constant<int, 4>());
  }

  const RowCache<Cache>& cache_;
  const QueryTile& tile_;
  const int64_t start_;  // of the partition, a position
  const int64_t first_chunk_;
  const int64_t end_;
  float* const scores_;
  float* const panels_;
  const ComingTokens<Cache> coming_;
  const Softmax result_;
};

}  // namespace paged_ops
