// reshape_and_cache: put the keys and values of T tokens into their slots of the paged cache.
//
//   key, value              [T, K, D] float32, float16 or bfloat16
//   key_cache, value_cache  [NB, BS, K, D] float16 or bfloat16, written in place, rounded to their own type; or int8
//                           [NB, BS, K, D + 4]: see reshape_and_quantize.h
//   slot_mapping            [T] int32: block * BS + position in the block, no slot twice; -1 = do not store
//   done                    [1] int32, always 0: something for later operators to depend on
//
// The host checks the slots: the device could not report a bad one. A slot outside [0, NB * BS) is skipped like -1.
// Work is cut into rows: T keys, then T values, each of K * D elements that lie together on both sides.

#include "core_share.h"
#include "done_output.h"
#include "index_window.h"
#include "kernel_operator.h"
#include "reshape_and_cache_tiling.h"
#include "reshape_and_quantize.h"
#include "row_reader.h"

#ifndef DTYPE_KEY
#define DTYPE_KEY half
#endif
#ifndef DTYPE_KEY_CACHE
#define DTYPE_KEY_CACHE half
#endif

namespace paged_ops {

template <typename Token, typename Cache>
class ReshapeAndCache {
 public:
  __aicore__ inline void Init(AscendC::TPipe* pipe, GM_ADDR key, GM_ADDR value, GM_ADDR key_cache, GM_ADDR value_cache,
                              GM_ADDR slot_mapping, const ReshapeAndCacheTiling& tiling) {
    tiling_ = tiling;
    const uint64_t width = tiling.token_width;
    tokens_[0].SetGlobalBuffer(reinterpret_cast<__gm__ Token*>(key), tiling.num_tokens * width);
    tokens_[1].SetGlobalBuffer(reinterpret_cast<__gm__ Token*>(value), tiling.num_tokens * width);
    caches_[0].SetGlobalBuffer(reinterpret_cast<__gm__ Cache*>(key_cache), tiling.num_slots * width);
    caches_[1].SetGlobalBuffer(reinterpret_cast<__gm__ Cache*>(value_cache), tiling.num_slots * width);
    slots_.Init(pipe, slot_mapping, tiling.num_tokens);
    reader_.Init(pipe, tiling.tokens_per_batch * tiling.part_width);
  }

  __aicore__ inline void Process() {
    const uint64_t num_keys = tiling_.num_tokens;
    const CoreShare share = ShareOfThisCore(2 * num_keys);
    StoreRows(0, share.begin, share.end < num_keys ? share.end : num_keys);
    if (share.end > num_keys) StoreRows(1, share.begin > num_keys ? share.begin - num_keys : 0, share.end - num_keys);
  }

 private:
  // Tokens [begin, end) of the keys (which = 0) or the values (1).
  __aicore__ inline void StoreRows(uint32_t which, uint32_t begin, uint32_t end) {
    for (uint32_t token = begin; token < end; token += tiling_.tokens_per_batch) {
      const uint32_t left = end - token;
      const uint32_t count = left < tiling_.tokens_per_batch ? left : tiling_.tokens_per_batch;
      for (uint32_t offset = 0; offset < tiling_.token_width; offset += tiling_.part_width) {
        StoreParts(which, token, count, offset);
      }
    }
  }

  // The elements from `offset` on of `count` tokens. Either a part is a whole token or there is one token.
  __aicore__ inline void StoreParts(uint32_t which, uint32_t token, uint32_t count, uint32_t offset) {
    const uint32_t left = tiling_.token_width - offset;
    const uint32_t part = left < tiling_.part_width ? left : tiling_.part_width;
    const uint64_t width = tiling_.token_width;
    AscendC::LocalTensor<Cache> rows = reader_.Read(tokens_[which][token * width + offset], count * part);
    for (uint32_t i = 0; i < count; ++i) {
      const int32_t slot = slots_.Get(token + i);
      if (slot < 0 || static_cast<uint32_t>(slot) >= tiling_.num_slots) continue;
      AscendC::DataCopy(caches_[which][slot * width + offset], rows[i * part], part);
    }
    reader_.Free(rows);
  }

  ReshapeAndCacheTiling tiling_;
  AscendC::GlobalTensor<Token> tokens_[2];
  AscendC::GlobalTensor<Cache> caches_[2];
  IndexWindow slots_;
  RowReader<Token, Cache> reader_;
};

template <typename Token>
class ReshapeAndCache<Token, int8_t> : public ReshapeAndQuantize<Token> {};

}  // namespace paged_ops

extern "C" __global__ __aicore__ void reshape_and_cache_custom(GM_ADDR key, GM_ADDR value, GM_ADDR key_cache,
                                                               GM_ADDR value_cache, GM_ADDR slot_mapping, GM_ADDR done,
                                                               GM_ADDR workspace, GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  REGISTER_TILING_DEFAULT(ReshapeAndCacheTiling);
  GET_TILING_DATA(tiling_data, tiling);
  AscendC::TPipe pipe;
  paged_ops::DoneOutput done_output;
  done_output.Write(&pipe, done);
  paged_ops::ReshapeAndCache<DTYPE_KEY, DTYPE_KEY_CACHE> op;
  op.Init(&pipe, key, value, key_cache, value_cache, slot_mapping, tiling_data);
  op.Process();
}
