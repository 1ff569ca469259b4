// read_blocks: copy whole blocks out of the paged cache, for the tiers below it.
//
//   key_cache, value_cache  [NB, BS, K, D] float16 or bfloat16, or int8 [NB, BS, K, D + 4]
//   block_ids               [P] int32
//   pages                   [2, P, BS, K, D] of the caches' type: keys, then values
//
// The host checks the ids: the device could not report a bad one. An id outside [0, NB) is skipped here, which leaves
// its page of the output as it was.

#include "byte_mover.h"
#include "core_share.h"
#include "index_window.h"
#include "kernel_operator.h"
#include "read_blocks_tiling.h"

namespace paged_ops {

class ReadBlocks {
 public:
  __aicore__ inline void Init(AscendC::TPipe* pipe, GM_ADDR key_cache, GM_ADDR value_cache, GM_ADDR block_ids,
                              GM_ADDR pages, const ReadBlocksTiling& tiling) {
    tiling_ = tiling;
    const uint64_t cache_bytes = tiling.num_blocks * tiling.block_bytes;
    caches_[0].SetGlobalBuffer(key_cache, cache_bytes);
    caches_[1].SetGlobalBuffer(value_cache, cache_bytes);
    pages_.SetGlobalBuffer(pages, 2 * tiling.num_ids * tiling.block_bytes);
    ids_.Init(pipe, block_ids, tiling.num_ids);
    mover_.Init(pipe, tiling.piece_bytes);
  }

  __aicore__ inline void Process() {
    const CoreShare share = ShareOfThisCore(2 * static_cast<uint64_t>(tiling_.num_ids) * tiling_.pieces_per_block);
    for (uint64_t piece = share.begin; piece < share.end; ++piece) ReadPiece(piece);
  }

 private:
  __aicore__ inline void ReadPiece(uint64_t piece) {
    const uint64_t page = piece / tiling_.pieces_per_block;
    const uint64_t offset = piece % tiling_.pieces_per_block * tiling_.piece_bytes;
    const uint32_t which = page < tiling_.num_ids ? 0 : 1;
    const int32_t id = ids_.Get(static_cast<uint32_t>(page) - which * tiling_.num_ids);
    if (id < 0 || static_cast<uint32_t>(id) >= tiling_.num_blocks) return;
    const uint64_t left = tiling_.block_bytes - offset;
    mover_.Move(pages_[page * tiling_.block_bytes + offset], caches_[which][id * tiling_.block_bytes + offset],
                static_cast<uint32_t>(left < tiling_.piece_bytes ? left : tiling_.piece_bytes));
  }

  ReadBlocksTiling tiling_;
  AscendC::GlobalTensor<uint8_t> caches_[2];
  AscendC::GlobalTensor<uint8_t> pages_;
  IndexWindow ids_;
  ByteMover mover_;
};

}  // namespace paged_ops

extern "C" __global__ __aicore__ void read_blocks_custom(GM_ADDR key_cache, GM_ADDR value_cache, GM_ADDR block_ids,
                                                         GM_ADDR pages, GM_ADDR workspace, GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  REGISTER_TILING_DEFAULT(ReadBlocksTiling);
  GET_TILING_DATA(tiling_data, tiling);
  AscendC::TPipe pipe;
  paged_ops::ReadBlocks op;
  op.Init(&pipe, key_cache, value_cache, block_ids, pages, tiling_data);
  op.Process();
}
