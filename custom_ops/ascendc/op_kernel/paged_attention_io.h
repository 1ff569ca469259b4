// What paged_attention reads from and writes to global memory: queries, pages of the cache, results, unfinished softmax.
#pragma once

#include "kernel_operator.h"
#include "online_softmax.h"
#include "paged_attention_plan.h"
#include "pipe_order.h"

namespace paged_attention {

struct Arguments {
  GM_ADDR query;
  GM_ADDR key_cache;
  GM_ADDR value_cache;
  GM_ADDR block_table;
  GM_ADDR rows;
  GM_ADDR context_lens;
  GM_ADDR attention;
  GM_ADDR workspace;
};

// DataCopy counts in these.
constexpr uint32_t kBlockBytes = 32;

// The pages of a layer, read through block_table. Behind the values of an int8 page lie their scales: float32, one for
// each token and KV head, [block_size, num_kv_heads].
template <typename Cache>
class Pages {
 public:
  static constexpr bool kScaled = AscendC::IsSameType<Cache, int8_t>::value;

  __aicore__ inline void Init(const PagedAttentionTiling& tiling, const Arguments& arguments) {
    block_size_ = tiling.block_size;
    blocks_per_row_ = tiling.blocks_per_row;
    head_dim_ = tiling.head_dim;
    num_kv_heads_ = tiling.num_kv_heads;
    keys_.SetGlobalBuffer(reinterpret_cast<__gm__ Cache*>(arguments.key_cache));
    values_.SetGlobalBuffer(reinterpret_cast<__gm__ Cache*>(arguments.value_cache));
    const uint64_t page_values = static_cast<uint64_t>(block_size_) * num_kv_heads_ * head_dim_;
    const uint64_t page_scales = kScaled ? static_cast<uint64_t>(block_size_) * num_kv_heads_ : 0;
    page_stride_ = page_values + page_scales * sizeof(float) / sizeof(Cache);
    key_scales_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(arguments.key_cache + page_values));
    value_scales_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(arguments.value_cache + page_values));
    block_table_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(arguments.block_table));
  }

  __aicore__ inline const AscendC::GlobalTensor<Cache>& keys() const { return keys_; }
  __aicore__ inline const AscendC::GlobalTensor<Cache>& values() const { return values_; }
  // Of the first page, an int8 one.
  __aicore__ inline const AscendC::GlobalTensor<float>& key_scales() const { return key_scales_; }
  __aicore__ inline const AscendC::GlobalTensor<float>& value_scales() const { return value_scales_; }

  // Where position `position` of a row has its keys or values of `kv_head`, and how many of the `wanted` tokens from
  // there on are in the same page, num_kv_heads * head_dim elements apart. Of int8 also where its scale is; the scales
  // are num_kv_heads floats apart.
  struct Piece {
    uint64_t offset;
    uint32_t tokens;
    uint64_t scale_offset;
  };
  __aicore__ inline Piece PieceAt(int32_t row, uint32_t kv_head, uint32_t position, uint32_t wanted) const {
    const uint64_t entry = static_cast<uint64_t>(row) * blocks_per_row_ + position / block_size_;
    const uint32_t inside = position % block_size_;
    const uint64_t page = static_cast<uint64_t>(block_table_.GetValue(entry)) * page_stride_;
    const uint64_t head = static_cast<uint64_t>(inside) * num_kv_heads_ + kv_head;
    const uint32_t left = block_size_ - inside;
    return {page + head * head_dim_, left < wanted ? left : wanted, page * sizeof(Cache) / sizeof(float) + head};
  }

  // Copies `count` tokens of the row, from position `first` on, into [count, head_dim] of unified buffer.
  __aicore__ inline void Load(const AscendC::LocalTensor<Cache>& target, const AscendC::GlobalTensor<Cache>& cache,
                              const Tile& tile, uint32_t first, uint32_t count) const {
    const uint16_t row_blocks = static_cast<uint16_t>(head_dim_ * sizeof(Cache) / kBlockBytes);
    const uint16_t gap = static_cast<uint16_t>((num_kv_heads_ - 1) * row_blocks);
    for (uint32_t done = 0; done < count;) {
      const Piece piece = PieceAt(tile.run.row, tile.kv_head, first + done, count - done);
      AscendC::DataCopy(target[done * head_dim_], cache[piece.offset],
                        AscendC::DataCopyParams(static_cast<uint16_t>(piece.tokens), row_blocks, gap, 0));
      done += piece.tokens;
    }
  }

  // Copies the scales of these tokens to [count, 8] of unified buffer: a scale and seven zeros.
  __aicore__ inline void LoadScales(const AscendC::LocalTensor<float>& target,
                                    const AscendC::GlobalTensor<float>& scales, const Tile& tile, uint32_t first,
                                    uint32_t count) const {
    constexpr uint32_t kScaleBytes = sizeof(float);
    for (uint32_t done = 0; done < count;) {
      const Piece piece = PieceAt(tile.run.row, tile.kv_head, first + done, count - done);
      AscendC::DataCopyPad(target[done * kBlockLanes], scales[piece.scale_offset],
                           AscendC::DataCopyExtParams(static_cast<uint16_t>(piece.tokens), kScaleBytes,
                                                      (num_kv_heads_ - 1) * kScaleBytes, 0, 0),
                           AscendC::DataCopyPadExtParams<float>(true, 0, kBlockLanes - 1, 0.0f));
      done += piece.tokens;
    }
  }

 private:
  AscendC::GlobalTensor<Cache> keys_;
  AscendC::GlobalTensor<Cache> values_;
  AscendC::GlobalTensor<float> key_scales_;
  AscendC::GlobalTensor<float> value_scales_;
  AscendC::GlobalTensor<int32_t> block_table_;
  uint64_t page_stride_ = 0;
  uint32_t block_size_ = 0;
  uint32_t blocks_per_row_ = 0;
  uint32_t head_dim_ = 0;
  uint32_t num_kv_heads_ = 0;
};

// The queries of a task as float32, times scale: [tokens x heads of the group, head_dim].
template <typename Query>
class Queries {
 public:
  __aicore__ inline void Init(AscendC::TPipe& pipe, const PagedAttentionTiling& tiling, GM_ADDR query,
                              uint32_t max_queries) {
    tiling_ = tiling;
    query_.SetGlobalBuffer(reinterpret_cast<__gm__ Query*>(query));
    const uint32_t size = max_queries * tiling.head_dim;
    pipe.InitBuffer(queue_, 2, size * sizeof(Query));
    pipe.InitBuffer(buffer_, size * sizeof(float));
    floats_ = buffer_.template Get<float>();
  }

  __aicore__ inline AscendC::LocalTensor<float> Row(uint32_t query) const { return floats_[query * tiling_.head_dim]; }

  // Starts to load; Prepare takes them in the same order.
  __aicore__ inline void Load(const Part& part) {
    const uint32_t head = tiling_.head_dim * sizeof(Query) / kBlockBytes;
    const uint64_t first = static_cast<uint64_t>(part.first_token) * tiling_.num_heads + part.first_head;
    AscendC::LocalTensor<Query> loaded = queue_.template AllocTensor<Query>();
    AscendC::DataCopy(loaded, query_[first * tiling_.head_dim],
                      AscendC::DataCopyParams(static_cast<uint16_t>(part.num_tokens),
                                              static_cast<uint16_t>(part.num_heads * head),
                                              static_cast<uint16_t>((tiling_.num_heads - part.num_heads) * head), 0));
    queue_.EnQue(loaded);
  }

  __aicore__ inline void Prepare(const Part& part) {
    const int32_t count = static_cast<int32_t>(part.NumQueries() * tiling_.head_dim);
    AscendC::LocalTensor<Query> loaded = queue_.template DeQue<Query>();
    if constexpr (sizeof(Query) == sizeof(float)) {
      AscendC::Muls(floats_, loaded, tiling_.scale, count);
    } else {
      AscendC::Cast(floats_, loaded, AscendC::RoundMode::CAST_NONE, count);
      VectorBarrier();
      AscendC::Muls(floats_, floats_, tiling_.scale, count);
    }
    queue_.FreeTensor(loaded);
  }

 private:
  PagedAttentionTiling tiling_;
  AscendC::GlobalTensor<Query> query_;
  AscendC::TQue<AscendC::TPosition::VECIN, 2> queue_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> buffer_;
  AscendC::LocalTensor<float> floats_;
};

// Results, and the workspace slots of the vector cores whose piece begins inside a task.
template <typename Query>
class Output {
 public:
  __aicore__ inline void Init(AscendC::TPipe& pipe, const PagedAttentionTiling& tiling, const Arguments& arguments,
                              uint32_t max_queries) {
    tiling_ = tiling;
    slot_floats_ = static_cast<uint32_t>(SoftmaxStateFloats(max_queries, tiling.head_dim));
    attention_.SetGlobalBuffer(reinterpret_cast<__gm__ Query*>(arguments.attention));
    slots_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(arguments.workspace));
    pipe.InitBuffer(queue_, 1, max_queries * tiling.head_dim * sizeof(Query));
  }

  // Zeros for padding tokens, which the cores share out.
  __aicore__ inline void WritePadding(const Plan& plan, uint32_t core, uint32_t num_cores) {
    for (uint32_t token = core; token < tiling_.num_tokens; token += num_cores) {
      if (plan.IsPadding(token)) WriteZeros(token);
    }
  }

  // Results of a finished task.
  __aicore__ inline void Write(OnlineSoftmax& softmax, const Part& part) {
    softmax.Normalize(part.NumQueries());
    AscendC::LocalTensor<Query> results = queue_.template AllocTensor<Query>();
    const int32_t count = static_cast<int32_t>(part.NumQueries() * tiling_.head_dim);
    if constexpr (sizeof(Query) == sizeof(float)) {
      AscendC::Adds(results, softmax.Values(), 0.0f, count);
    } else {
      AscendC::Cast(results, softmax.Values(), AscendC::RoundMode::CAST_RINT, count);
    }
    VectorBarrier();
    queue_.EnQue(results);
    results = queue_.template DeQue<Query>();
    Copy(results, part);
    queue_.FreeTensor(results);
  }

  // Leaves an unfinished task in a slot.
  __aicore__ inline void Save(const OnlineSoftmax& softmax, uint32_t slot, const Part& part) {
    paged_ops::OrderPipes<AscendC::HardEvent::V_MTE3>();
    AscendC::DataCopy(slots_[static_cast<uint64_t>(slot) * slot_floats_], softmax.State(), softmax.StateFloats(part.NumQueries()));
    paged_ops::OrderPipes<AscendC::HardEvent::MTE3_V>();
  }

  // Fetches what has been left in a slot of the same part, into `target`; the caller orders the pipes.
  __aicore__ inline void Fetch(const AscendC::LocalTensor<float>& target, uint32_t slot, const OnlineSoftmax& softmax,
                               const Part& part) {
    AscendC::DataCopy(target, slots_[static_cast<uint64_t>(slot) * slot_floats_], softmax.StateFloats(part.NumQueries()));
  }

  __aicore__ inline uint32_t slot_floats() const { return slot_floats_; }

 private:
  __aicore__ inline void WriteZeros(uint32_t token) {
    AscendC::LocalTensor<Query> zeros = queue_.template AllocTensor<Query>();
    const uint32_t heads = tiling_.group < kBlockLanes ? tiling_.group : kBlockLanes;
    const uint32_t bytes = heads * tiling_.head_dim * sizeof(Query);
    AscendC::Duplicate(zeros.template ReinterpretCast<int16_t>(), static_cast<int16_t>(0),
                       static_cast<int32_t>(bytes / sizeof(int16_t)));
    queue_.EnQue(zeros);
    zeros = queue_.template DeQue<Query>();
    for (uint32_t head = 0; head < tiling_.num_heads; head += heads) {
      const uint32_t left = tiling_.num_heads - head;
      Copy(zeros, {token, 1, head, left < heads ? left : heads});
    }
    queue_.FreeTensor(zeros);
  }

  __aicore__ inline void Copy(const AscendC::LocalTensor<Query>& results, const Part& part) {
    const uint32_t head = tiling_.head_dim * sizeof(Query) / kBlockBytes;
    const uint64_t first = static_cast<uint64_t>(part.first_token) * tiling_.num_heads + part.first_head;
    AscendC::DataCopy(attention_[first * tiling_.head_dim], results,
                      AscendC::DataCopyParams(static_cast<uint16_t>(part.num_tokens),
                                              static_cast<uint16_t>(part.num_heads * head), 0,
                                              static_cast<uint16_t>((tiling_.num_heads - part.num_heads) * head)));
  }

  PagedAttentionTiling tiling_;
  uint32_t slot_floats_ = 0;
  AscendC::GlobalTensor<Query> attention_;
  AscendC::GlobalTensor<float> slots_;
  AscendC::TQue<AscendC::TPosition::VECOUT, 1> queue_;
};

}  // namespace paged_attention
