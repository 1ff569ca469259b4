// Products of many queries of one KV head with the tokens of a partition: bound by multiplications, not by memory.
//
// Keys and values are first laid out as panels of floats, two vectors wide:
//
//   keys     [tokens / kPanelWidth][head_dim][kPanelWidth]   a vector has one element of kLanes tokens
//   values   [head_dim / kPanelWidth][tokens][kPanelWidth]   a vector has kLanes elements of one token
//
// Then the sums of kPanelQueries queries and a panel's two vectors stay in registers, and no sum goes across lanes.
// Every sum is taken in the order of ScoreTokens and WeighTokens, which serve fewer queries.
#pragma once

#include <algorithm>

#include "cpu/runtime/simd.h"
#include "op/aot_op.h"

namespace paged_ops {

constexpr int64_t kPartitionTokens = 256;

constexpr int kPanelVecs = 2;
constexpr int64_t kPanelWidth = kPanelVecs * kLanes;
constexpr int kPanelQueries = 6;  // 12 sums, two vectors of the panel and an element of a query fit in 16 registers

// Floats from one panel of values to the next.
constexpr int64_t kValuePanel = kPartitionTokens * kPanelWidth;

inline int64_t PanelCount(int64_t floats) { return (floats + kPanelWidth - 1) / kPanelWidth; }

// Room for the panels of keys or of values, and for a chunk on its way there.
inline int64_t PanelFloats(int64_t stride) { return PanelCount(stride) * kValuePanel + kChunkTokens * stride; }

// The keys or values of a chunk as floats, with zeros behind head_dim.
template <typename Cache>
inline void WidenTokens(const Cache* tokens, int64_t token_stride, int64_t head_dim, float* rows, int64_t stride) {
  for (int64_t t = 0; t < kChunkTokens; ++t) {
    const Cache* source = tokens + t * token_stride;
    float* row = rows + t * stride;
    int64_t d = 0;
    for (; d + kLanes <= head_dim; d += kLanes) Store(row + d, Load(source + d));
    if (d < head_dim) Store(row + d, LoadPart(source + d, head_dim - d));
  }
}

// Puts a chunk of keys [kChunkTokens][stride] where its place in the partition, `first`, has it in the panels.
inline void PackKeys(const float* rows, int64_t stride, int64_t first, float* panels) {
  for (int64_t t = 0; t < kChunkTokens; t += kLanes) {
    float* target = panels + (first + t) / kPanelWidth * kPanelWidth * stride + (first + t) % kPanelWidth;
    for (int64_t d = 0; d < stride; d += 4) {
      TransposeFours(rows + t * stride + d, stride, target + d * kPanelWidth, kPanelWidth);
    }
  }
}

// The same of values.
inline void PackValues(const float* rows, int64_t stride, int64_t first, float* panels) {
  for (int64_t d = 0; d < stride; d += kLanes) {
    float* target = panels + d / kPanelWidth * kValuePanel + first * kPanelWidth + d % kPanelWidth;
    for (int64_t t = 0; t < kChunkTokens; ++t) Store(target + t * kPanelWidth, Load(rows + t * stride + d));
  }
}

// sums[q][v] += factors[q * stride] * panel[v], for the two vectors of a row of a panel.
template <int NQ>
inline void AddPanelRow(const float* factors, int64_t stride, const float* row, Vec (&sums)[NQ][kPanelVecs]) {
  Vec vecs[kPanelVecs];
  PAGED_OPS_UNROLL_TILE
  for (int v = 0; v < kPanelVecs; ++v) vecs[v] = InRegister(Load(row + v * kLanes));
  PAGED_OPS_UNROLL_TILE
  for (int q = 0; q < NQ; ++q) {
    const Vec factor = InRegister(Broadcast(factors[q * stride]));
    PAGED_OPS_UNROLL_TILE
    for (int v = 0; v < kPanelVecs; ++v) sums[q][v] = MulAdd(factor, vecs[v], sums[q][v]);
  }
}

// Scores of kPanelQueries queries against the tokens of a panel. ScoreTokens adds the products of each lane, elements
// kLanes apart, and then the lanes; so does this, with all the sums of one lane in registers.
inline void ScorePanel(const float* queries, int64_t stride, const float* panel, float* scores) {
  Vec waiting[5][kPanelQueries][kPanelVecs];  // of 1, 2, 4, ... lanes: waiting for their neighbours in kLaneOrder
  for (int i = 0; i < kLanes; ++i) {
    Vec sums[kPanelQueries][kPanelVecs];
    PAGED_OPS_UNROLL_TILE
    for (int q = 0; q < kPanelQueries; ++q) {
      PAGED_OPS_UNROLL_TILE
      for (int v = 0; v < kPanelVecs; ++v) sums[q][v] = Vec{};
    }
    for (int64_t d = kLaneOrder[i]; d < stride; d += kLanes) {
      AddPanelRow(queries + d, stride, panel + d * kPanelWidth, sums);
    }
    int level = 0;
    for (; i >> level & 1; ++level) {
      PAGED_OPS_UNROLL_TILE
      for (int q = 0; q < kPanelQueries; ++q) {
        PAGED_OPS_UNROLL_TILE
        for (int v = 0; v < kPanelVecs; ++v) sums[q][v] += waiting[level][q][v];
      }
    }
    PAGED_OPS_UNROLL_TILE
    for (int q = 0; q < kPanelQueries; ++q) {
      PAGED_OPS_UNROLL_TILE
      for (int v = 0; v < kPanelVecs; ++v) waiting[level][q][v] = sums[q][v];
    }
    if (i < kLanes - 1) continue;
    PAGED_OPS_UNROLL_TILE
    for (int q = 0; q < kPanelQueries; ++q) {
      PAGED_OPS_UNROLL_TILE
      for (int v = 0; v < kPanelVecs; ++v) Store(scores + q * kPartitionTokens + v * kLanes, sums[q][v]);
    }
  }
}

// result[q] = the sum over `count` tokens of weights[q][token] * the token's elements in the panel, for the `width` of
// them that there are; added to what is there if `goes_on`.
template <int NQ>
inline void WeighPanel(const float* weights, const float* panel, int64_t count, bool goes_on, float* result,
                       int64_t stride, int64_t width) {
  Vec sums[NQ][kPanelVecs];
  PAGED_OPS_UNROLL_TILE
  for (int q = 0; q < NQ; ++q) {
    PAGED_OPS_UNROLL_TILE
    for (int v = 0; v < kPanelVecs; ++v) {
      sums[q][v] = goes_on && v * kLanes < width ? Load(result + q * stride + v * kLanes) : Vec{};
    }
  }
  for (int64_t t = 0; t < count; ++t) AddPanelRow(weights + t, kPartitionTokens, panel + t * kPanelWidth, sums);
  PAGED_OPS_UNROLL_TILE
  for (int q = 0; q < NQ; ++q) {
    PAGED_OPS_UNROLL_TILE
    for (int v = 0; v < kPanelVecs; ++v) {
      if (v * kLanes < width) Store(result + q * stride + v * kLanes, sums[q][v]);
    }
  }
}

}  // namespace paged_ops
