// rope_and_cache: what stands between the product with q, k and v and attention, for T tokens. Biases are added, each
// head of queries and keys is normed and rotated, keys and values go into their slots of the paged cache.
//
//   qkv                     [T, (H + 2 K) D] float32, float16 or bfloat16: queries, keys, values
//   bias                    [(H + 2 K) D] of the same type, read with kRopeHasBias alone
//   head_norms              [2, D] of the same type, of queries and of keys, read with kRopeNormsHeads alone
//   rotation                [T, R] float32, R / 2 cosines and R / 2 sines of each token, read with kRopeRotates alone:
//                           of a head the pairs (i, i + R / 2) are rotated
//   key_cache, value_cache  [NB, BS, K, D] float16 or bfloat16, written in place; or int8 [NB, BS, K, D + 4]: see
//                           reshape_and_quantize.h
//   slot_mapping            [T] int32: block * BS + position in the block, no slot twice; -1 = do not store
//   query                   [T, H, D], of the type of qkv
//
// D and R are multiples of 16, D at most 128; with int8 of 32. The host checks the slots: the device could not report a
// bad one. A slot outside [0, NB * BS) is skipped like -1. Work is cut into parts of a token: some of its queries, keys or
// values. All is computed in float32 and rounded once.

#include "core_share.h"
#include "head_rows.h"
#include "index_window.h"
#include "kernel_operator.h"
#include "page_heads.h"
#include "rope_and_cache_tiling.h"
#include "wide_rows.h"

#ifndef DTYPE_QKV
#define DTYPE_QKV half
#endif
#ifndef DTYPE_KEY_CACHE
#define DTYPE_KEY_CACHE half
#endif

namespace paged_ops {

template <typename Token, typename Cache>
class RopeAndCache {
 public:
  __aicore__ inline void Init(AscendC::TPipe* pipe, GM_ADDR qkv, GM_ADDR bias, GM_ADDR head_norms, GM_ADDR rotation,
                              GM_ADDR key_cache, GM_ADDR value_cache, GM_ADDR slot_mapping, GM_ADDR query,
                              const RopeAndCacheTiling& tiling) {
    tiling_ = tiling;
    width_ = (tiling.num_heads + 2 * tiling.num_kv_heads) * tiling.head_dim;
    const uint64_t tokens = tiling.num_tokens;
    qkv_.SetGlobalBuffer(reinterpret_cast<__gm__ Token*>(qkv), tokens * width_);
    bias_.SetGlobalBuffer(reinterpret_cast<__gm__ Token*>(bias), width_);
    head_norms_.SetGlobalBuffer(reinterpret_cast<__gm__ Token*>(head_norms), 2 * tiling.head_dim);
    rotations_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(rotation), tokens * tiling.rotated);
    query_.SetGlobalBuffer(reinterpret_cast<__gm__ Token*>(query), tokens * tiling.num_heads * tiling.head_dim);
    reader_.Init(pipe);
    writer_.Init(pipe);
    pages_.Init(pipe, key_cache, value_cache, tiling);
    slots_.Init(pipe, slot_mapping, tiling.num_tokens);
    heads_.Init(pipe, tiling.head_dim, tiling.rotated, tiling.epsilon);
    pipe->InitBuffer(rotation_queue_, 2, kRopeMostHeadDim * sizeof(float));
    pipe->InitBuffer(rows_buffer_, (2 * kRopeMostElements + 2 * kRopeMostHeadDim) * sizeof(float));
    rows_ = rows_buffer_.Get<float>();
    other_ = rows_[kRopeMostElements];
    norm_weights_ = other_[kRopeMostElements];
  }

  __aicore__ inline void Process() {
    if (Has(kRopeNormsHeads)) reader_.Read(norm_weights_, head_norms_, 2 * tiling_.head_dim);
    const uint32_t parts = RopePartsOfToken(tiling_);
    const CoreShare share = ShareOfThisCore(static_cast<uint64_t>(tiling_.num_tokens) * parts);
    for (uint64_t unit = share.begin; unit < share.end; ++unit) {
      ProcessPart(static_cast<uint32_t>(unit / parts), static_cast<uint32_t>(unit % parts));
    }
  }

 private:
  enum Kind : uint32_t { kQueries = 0, kKeys = 1, kValues = 2 };

  __aicore__ inline bool Has(uint32_t option) const { return (tiling_.options & option) != 0; }

  // A part of a token: which kind it is of, and which heads of these.
  __aicore__ inline void ProcessPart(uint32_t token, uint32_t part) {
    const uint32_t of_queries = RopeParts(tiling_.num_heads, tiling_.heads_per_part);
    const uint32_t of_keys = RopeParts(tiling_.num_kv_heads, tiling_.heads_per_part);
    if (part < of_queries) return ProcessHeads(token, kQueries, 0, tiling_.num_heads, part);
    part -= of_queries;
    const uint32_t kind = part < of_keys ? kKeys : kValues;
    const uint32_t before = tiling_.num_heads + (kind == kKeys ? 0 : tiling_.num_kv_heads);
    ProcessHeads(token, kind, before, tiling_.num_kv_heads, kind == kKeys ? part : part - of_keys);
  }

  // before: heads of qkv before those of the kind, which has `all`.
  __aicore__ inline void ProcessHeads(uint32_t token, uint32_t kind, uint32_t before, uint32_t all, uint32_t part) {
    const uint32_t head = part * tiling_.heads_per_part;
    const uint32_t heads = all - head < tiling_.heads_per_part ? all - head : tiling_.heads_per_part;
    const int32_t slot = kind == kQueries ? 0 : slots_.Get(token);
    if (slot < 0 || static_cast<uint32_t>(slot) >= tiling_.num_slots) return;
    Load(token, (before + head) * tiling_.head_dim, heads * tiling_.head_dim);
    if (kind != kValues) {
      if (Has(kRopeNormsHeads)) heads_.Norm(rows_, norm_weights_[kind * tiling_.head_dim], heads);
      if (Has(kRopeRotates)) Rotate(token, heads);
    }
    if (kind == kQueries) {
      const uint64_t first = static_cast<uint64_t>(token) * tiling_.num_heads + head;
      writer_.Write(query_[first * tiling_.head_dim], rows_, heads * tiling_.head_dim);
    } else {
      pages_.Store(kind == kKeys ? 0 : 1, static_cast<uint32_t>(slot), head, rows_, heads);
    }
  }

  __aicore__ inline void Load(uint32_t token, uint32_t column, uint32_t count) {
    reader_.Read(rows_, qkv_[static_cast<uint64_t>(token) * width_ + column], count);
    if (!Has(kRopeHasBias)) return;
    reader_.Read(other_, bias_[column], count);
    AscendC::Add(rows_, rows_, other_, static_cast<int32_t>(count));
    AscendC::PipeBarrier<PIPE_V>();
  }

  __aicore__ inline void Rotate(uint32_t token, uint32_t heads) {
    AscendC::LocalTensor<float> loading = rotation_queue_.template AllocTensor<float>();
    AscendC::DataCopy(loading, rotations_[static_cast<uint64_t>(token) * tiling_.rotated], tiling_.rotated);
    rotation_queue_.EnQue(loading);
    AscendC::LocalTensor<float> rotation = rotation_queue_.template DeQue<float>();
    heads_.Rotate(rows_, rotation, heads);
    rotation_queue_.FreeTensor(rotation);
  }

  RopeAndCacheTiling tiling_;
  uint32_t width_ = 0;
  AscendC::GlobalTensor<Token> qkv_;
  AscendC::GlobalTensor<Token> bias_;
  AscendC::GlobalTensor<Token> head_norms_;
  AscendC::GlobalTensor<float> rotations_;
  AscendC::GlobalTensor<Token> query_;
  WideReader<Token> reader_;
  WideWriter<Token> writer_;
  PageHeads<Cache> pages_;
  IndexWindow slots_;
  HeadRows heads_;
  AscendC::TQue<AscendC::TPosition::VECIN, 1> rotation_queue_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> rows_buffer_;
  AscendC::LocalTensor<float> rows_;
  AscendC::LocalTensor<float> other_;
  AscendC::LocalTensor<float> norm_weights_;
};

}  // namespace paged_ops

extern "C" __global__ __aicore__ void rope_and_cache_custom(GM_ADDR qkv, GM_ADDR bias, GM_ADDR head_norms,
                                                            GM_ADDR rotation, GM_ADDR key_cache, GM_ADDR value_cache,
                                                            GM_ADDR slot_mapping, GM_ADDR query, GM_ADDR workspace,
                                                            GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  REGISTER_TILING_DEFAULT(RopeAndCacheTiling);
  GET_TILING_DATA(tiling_data, tiling);
  AscendC::TPipe pipe;
  paged_ops::RopeAndCache<DTYPE_QKV, DTYPE_KEY_CACHE> op;
  op.Init(&pipe, qkv, bias, head_norms, rotation, key_cache, value_cache, slot_mapping, query, tiling_data);
  op.Process();
}
