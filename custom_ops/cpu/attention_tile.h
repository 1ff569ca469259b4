// Attention of a tile of queries, all on one row, over one partition of that row's context.
//
//   context   |<---- partition 0 ---->|<---- partition 1 ---->|<- the rest ->|
//   chunks    |16|16|16|16| ...       |
//
// A partition is a fixed range of 256 positions. Inside it a softmax needs no rescaling: all scores first (K is read
// once), then one maximum, the exponentials, and the weighted sum of values (V is read once). Partitions are joined
// by the online softmax, always one by one from the left. So every sum of a query is taken in an order that depends on
// its context length alone: not on the threads, the neighbours in the batch, the blocks, or the tile it stands in.
#pragma once

#include <algorithm>
#include <type_traits>

#include "aot_op.h"
#include "attention_panel.h"
#include "simd.h"
#include "softmax.h"

namespace paged_ops {

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

  // Where it has its scale, from `key_scales` or `value_scales`; the scales of its other heads follow.
  int64_t ScaleOffset(int64_t position) const {
    constexpr int64_t kElementBytes = sizeof(Cache), kScaleBytes = sizeof(float);
    return blocks[position / block_size] * block_stride * kElementBytes / kScaleBytes +
           position % block_size * (token_stride / head_dim);
  }
};

// Queries that share loads: for each of the heads, `per_head` of them. All are float32 and already scaled, in rows of
// `stride` floats, a multiple of kLanes, with zeros behind head_dim.
struct QueryTile {
  const float* queries;
  const int64_t* contexts;  // of the queries of one head; the same for every head
  int64_t heads;
  int64_t per_head;
  int64_t stride;

  int64_t count() const { return heads * per_head; }
};

// Keys, or values, of consecutive tokens and one head.
template <typename Cache>
struct Tokens {
  const Cache* first;
  int64_t stride;
  int64_t head_dim;
  int64_t ahead;  // from an element to one that will be wanted soon: what to prefetch

  Tokens From(int64_t token) const { return {first + token * stride, stride, head_dim, ahead}; }
};

// Without this the processor waits: its own foresight needs long even streams, and here each token is a short run.
// Into the second-level cache: one head of 16 tokens often lies at a stride of 4096 bytes, too many lines for the few
// places that the first level has for such addresses.
inline void Prefetch(const void* address) { __builtin_prefetch(address, 0, 2); }

// products[q][t] += query q * key t, for the kLanes elements from d on.
template <int NQ, int NT, typename Cache, typename LoadVec>
inline void AddProducts(const float* queries, int64_t stride, const Tokens<Cache>& keys, int64_t d, LoadVec load,
                        Vec (&products)[NQ][4]) {
  Vec query[NQ];
  PAGED_OPS_UNROLL for (int q = 0; q < NQ; ++q) query[q] = InRegister(Load(queries + q * stride + d));
  PAGED_OPS_UNROLL for (int t = 0; t < NT; ++t) {
    const Cache* source = keys.first + t * keys.stride + d;
    const Vec key = InRegister(load(source));
    Prefetch(source + keys.ahead);
    PAGED_OPS_UNROLL for (int q = 0; q < NQ; ++q) products[q][t] = MulAdd(query[q], key, products[q][t]);
  }
}

// Scores of NQ queries against NT tokens, at most 4.
template <int NQ, int NT, typename Cache>
inline void ScoreTokens(const float* queries, int64_t stride, const Tokens<Cache>& keys, float* scores) {
  Vec products[NQ][4];
  PAGED_OPS_UNROLL for (int q = 0; q < NQ; ++q) {
    PAGED_OPS_UNROLL for (int t = 0; t < 4; ++t) products[q][t] = Vec{};
  }
  int64_t d = 0;
  for (; d + kLanes <= keys.head_dim; d += kLanes) {
    AddProducts<NQ, NT>(queries, stride, keys, d, [](const Cache* source) { return Load(source); }, products);
  }
  if (d < keys.head_dim) {
    const auto load_part = [&](const Cache* source) { return LoadPart(source, keys.head_dim - d); };
    AddProducts<NQ, NT>(queries, stride, keys, d, load_part, products);
  }
  PAGED_OPS_UNROLL for (int q = 0; q < NQ; ++q) {
    float sums[4];
    SumLanes(products[q], sums);
    std::memcpy(scores + q * kPartitionTokens, sums, NT * sizeof(float));
  }
}

// For the NV vectors from d on: result[q] += the sum over `count` tokens of weights[q][token] * value of the token.
template <int NQ, int NV, typename Cache, typename LoadVec>
inline void WeighVectors(const float* weights, const Tokens<Cache>& values, int64_t count, int64_t d, LoadVec load,
                         float* result, int64_t stride) {
  Vec sums[NQ][NV];
  for (int q = 0; q < NQ; ++q) {
    for (int v = 0; v < NV; ++v) sums[q][v] = Load(result + q * stride + d + v * kLanes);
  }
  for (int64_t t = 0; t < count; ++t) {
    Vec value[NV];
    for (int v = 0; v < NV; ++v) {
      const Cache* source = values.first + t * values.stride + d + v * kLanes;
      value[v] = InRegister(load(source));
      Prefetch(source + values.ahead);
    }
    for (int q = 0; q < NQ; ++q) {
      const Vec weight = Broadcast(weights[q * kPartitionTokens + t]);
      for (int v = 0; v < NV; ++v) sums[q][v] = MulAdd(weight, value[v], sums[q][v]);
    }
  }
  for (int q = 0; q < NQ; ++q) {
    for (int v = 0; v < NV; ++v) Store(result + q * stride + d + v * kLanes, sums[q][v]);
  }
}

template <int NQ, typename Cache>
inline void WeighTokens(const float* weights, const Tokens<Cache>& values, int64_t count, float* result,
                        int64_t stride) {
  const auto load = [](const Cache* source) { return Load(source); };
  int64_t d = 0;
  for (; d + 4 * kLanes <= values.head_dim; d += 4 * kLanes) {
    WeighVectors<NQ, 4>(weights, values, count, d, load, result, stride);
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
  // tile of one head, with kPanelQueries or more. Without, it reads the pages in place.
  PartitionAttention(const RowCache<Cache>& cache, const QueryTile& tile, int64_t partition, float* scores,
                     float* panels, Softmax result)
      : cache_(cache),
        tile_(tile),
        start_(partition * kPartitionTokens),
        longest_context_(*std::max_element(tile.contexts, tile.contexts + tile.per_head)),
        end_(std::min(longest_context_, start_ + kPartitionTokens)),
        scores_(scores),
        panels_(panels),
        result_(result) {}

  void Run() {
    panels_ ? ScorePanels() : ScorePages();
    if constexpr (kScaled) MultiplyByScales(cache_.key_scales);
    for (int64_t q = 0; q < tile_.count(); ++q) {
      const int64_t count = std::max<int64_t>(0, End(q % tile_.per_head) - start_);
      ScoresToWeights(scores_ + q * kPartitionTokens, count, result_.OfQuery(q, tile_.stride));
    }
    if constexpr (kScaled) MultiplyByScales(cache_.value_scales);
    panels_ ? WeighPanels() : WeighPages();
  }

 private:
  void ScorePages() const {
    EachRun(cache_.keys, cache_.values + cache_.Offset(start_), [this](auto nq, const TokenRun& run) {
      const float* queries = tile_.queries + run.query * tile_.stride;
      int64_t t = 0;
      for (; t + 4 <= run.count; t += 4) {
        ScoreTokens<nq(), 4>(queries, tile_.stride, run.tokens.From(t), Scores(run) + t);
      }
      for (; t < run.count; ++t) ScoreTokens<nq(), 1>(queries, tile_.stride, run.tokens.From(t), Scores(run) + t);
    });
  }

  void WeighPages() const {
    std::fill_n(result_.values, tile_.count() * tile_.stride, 0.0f);
    EachRun(cache_.values, KeysOfNextPartition(), [this](auto nq, const TokenRun& run) {
      WeighTokens<nq()>(Scores(run), run.tokens, run.count, result_.OfQuery(run.query, tile_.stride).values,
                        tile_.stride);
    });
  }

  void ScorePanels() const {
    EachChunk(cache_.keys, [this](const float* rows, int64_t first) { PackKeys(rows, tile_.stride, first, panels_); });
    for (int64_t t = 0; t < end_ - start_; t += kPanelWidth) {
      EachGroup([&](int64_t group, int64_t, int64_t last_end) {
        if (t >= last_end) return;
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
      const auto weigh = [&](auto nq, int64_t query, int64_t first, int64_t end) {
        WeighPanel<nq()>(scores_ + query * kPartitionTokens + first, panel + first * kPanelWidth, end - first,
                         first > 0, result_.values + query * tile_.stride + d, tile_.stride, tile_.stride - d);
      };
      EachGroup([&](int64_t group, int64_t shared_end, int64_t last_end) {
        weigh(std::integral_constant<int, kPanelQueries>(), group, 0, shared_end);
        if (shared_end == last_end) return;
        for (int64_t q = group; q < group + kPanelQueries; ++q) {
          weigh(std::integral_constant<int, 1>(), q, shared_end, std::max(End(q) - start_, shared_end));
        }
      });
    }
  }

  // Calls body(first query, tokens of the partition that all its queries see, tokens that any of them sees) for each
  // kPanelQueries queries. The last of these groups may share queries with the one before; it finds the same.
  template <typename Body>
  void EachGroup(Body body) const {
    for (int64_t q = 0; q < tile_.per_head; q += kPanelQueries) {
      const int64_t group = std::min(q, tile_.per_head - kPanelQueries);
      const auto [least, most] = std::minmax_element(tile_.contexts + group, tile_.contexts + group + kPanelQueries);
      const auto seen = [this](int64_t context) { return std::max<int64_t>(0, std::min(context, end_) - start_); };
      body(group, seen(*least), seen(*most));
    }
  }

  // Calls body(kChunkTokens tokens as floats, their place in the partition) for each chunk of it.
  template <typename Body>
  void EachChunk(const Cache* cached, Body body) const {
    float* rows = panels_ + PanelCount(tile_.stride) * kValuePanel;
    for (int64_t chunk = start_; chunk < end_; chunk += kChunkTokens) {
      WidenTokens(cached + cache_.Offset(chunk), cache_.token_stride, cache_.head_dim, rows, tile_.stride);
      body(rows, chunk - start_);
    }
  }

  static constexpr bool kScaled = std::is_same_v<Cache, int8_t>;

  // Consecutive tokens that some consecutive queries all see.
  struct TokenRun {
    int64_t query;     // the first
    int64_t position;  // of the first token, in the context
    int64_t count;
    Tokens<Cache> tokens;
  };

  float* Scores(const TokenRun& run) const { return scores_ + run.query * kPartitionTokens + run.position - start_; }

  // Scores of int8 keys, or weights of int8 values, times their tokens' scales: a product each, in no order.
  void MultiplyByScales(const float* scales) const {
    float of_head[kPartitionTokens];
    for (int64_t head = 0; head < tile_.heads; ++head) {
      for (int64_t chunk = start_; chunk < end_; chunk += kChunkTokens) {
        const float* here = scales + cache_.ScaleOffset(chunk) + head;
        const int64_t step = cache_.token_stride / cache_.head_dim;
        for (int64_t t = 0; t < kChunkTokens; ++t) of_head[chunk - start_ + t] = here[t * step];
      }
      for (int64_t q = 0; q < tile_.per_head; ++q) {
        float* factors = scores_ + (head * tile_.per_head + q) * kPartitionTokens;
        for (int64_t t = 0; t < End(q) - start_; ++t) factors[t] *= of_head[t];
      }
    }
  }

  // Where the tokens of this partition end for query q of a head; it may have none.
  int64_t End(int64_t q) const { return std::min(tile_.contexts[q], end_); }

  // What will be read after this partition; behind the last one, something harmless to prefetch.
  const Cache* KeysOfNextPartition() const {
    return cache_.keys + cache_.Offset(end_ < longest_context_ ? end_ : start_);
  }

  // Calls body(number of queries, run) so that every query meets each of its tokens once and in order. Chunk by chunk
  // and there head by head, which is the order of the cache in memory; and all queries of a head use its chunk while
  // it is in the core's own cache. `afterwards` is what will be read when all is done.
  template <typename Body>
  void EachRun(const Cache* cached, const Cache* afterwards, Body body) const {
    for (int64_t chunk = start_; chunk < end_; chunk += kChunkTokens) {
      const Cache* here = cached + cache_.Offset(chunk);
      const bool is_last = chunk + kChunkTokens >= end_;
      const Cache* next = is_last ? afterwards : cached + cache_.Offset(chunk + kChunkTokens);
      Tokens<Cache> tokens{here, cache_.token_stride, cache_.head_dim, next - here};
      for (int64_t head = 0; head < tile_.heads; ++head, tokens.first += cache_.head_dim) {
        for (int64_t q = 0; q < tile_.per_head; q += kTileQueries) {
          EachRunOfGroup(head, q, chunk, tokens, body);
        }
      }
    }
  }

  // The runs of up to kTileQueries queries of one head in one chunk.
  template <typename Body>
  void EachRunOfGroup(int64_t head, int64_t first, int64_t chunk, const Tokens<Cache>& tokens, Body& body) const {
    const int64_t last = std::min<int64_t>(first + kTileQueries, tile_.per_head) - 1;
    const int64_t before = head * tile_.per_head;  // queries of the heads before
    const int64_t chunk_end = std::min(chunk + kChunkTokens, end_);
    int64_t shared_end = chunk_end;
    for (int64_t q = first; q <= last; ++q) shared_end = std::min(shared_end, std::max(End(q), chunk));
    if (shared_end > chunk) {
      const TokenRun run{before + first, chunk, shared_end - chunk, tokens};
      WithQueryCount(last - first + 1, [&](auto nq) { body(nq, run); });
    }
    // Tokens that only some of the group may see: each such query takes them alone.
    for (int64_t q = first; q <= last; ++q) {
      const int64_t count = std::min(End(q), chunk_end) - shared_end;
      if (count <= 0) continue;
      const TokenRun run{before + q, shared_end, count, tokens.From(shared_end - chunk)};
      body(std::integral_constant<int, 1>(), run);
    }
  }

  template <typename Body>
  static void WithQueryCount(int64_t count, Body body) {
    static_assert(kTileQueries == 2 || kTileQueries == 4, "one case below for each number of queries");
    if (count == 1) return body(std::integral_constant<int, 1>());
    if (count == 2) return body(std::integral_constant<int, 2>());
    if constexpr (kTileQueries == 4) {
      if (count == 3) return body(std::integral_constant<int, 3>());
      body(std::integral_constant<int, 4>());
    }
  }

  const RowCache<Cache>& cache_;
  const QueryTile& tile_;
  const int64_t start_;            // of the partition, a position
  const int64_t longest_context_;  // of the tile's queries
  const int64_t end_;
  float* const scores_;
  float* const panels_;
  const Softmax result_;
};

}  // namespace paged_ops
