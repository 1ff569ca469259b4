// write_blocks: put whole blocks, that read_blocks once gave, back into one layer's paged cache.
//
//   key_cache, value_cache  [NB, BS, K, D] float16 or bfloat16, or int8 [NB, BS, K, D + 4], changed in place
//   pages                   [L, 2, P, BS, K, D] of the caches' type: for every layer keys, then values
//   block_ids               [P] int32, no block twice; -1 = the page is not written
//   layer                   attribute: which of the L layers these caches belong to
//   done                    [1] int32, always 0: something for later operators to depend on
//
// The host checks the ids: the device could not report a bad one. An id outside [0, NB) is skipped here like -1.

#include "byte_mover.h"
#include "core_share.h"
#include "done_output.h"
#include "index_window.h"
#include "kernel_operator.h"
#include "write_blocks_tiling.h"

namespace paged_ops {

class WriteBlocks {
 public:
  __aicore__ inline void Init(AscendC::TPipe* pipe, GM_ADDR key_cache, GM_ADDR value_cache, GM_ADDR pages,
                              GM_ADDR block_ids, const WriteBlocksTiling& tiling) {
    tiling_ = tiling;
    const uint64_t cache_bytes = tiling.num_blocks * tiling.block_bytes;
    const uint64_t layer_bytes = 2 * tiling.num_ids * tiling.block_bytes;
    caches_[0].SetGlobalBuffer(key_cache, cache_bytes);
    caches_[1].SetGlobalBuffer(value_cache, cache_bytes);
    pages_.SetGlobalBuffer(pages + tiling.layer * layer_bytes, layer_bytes);
    ids_.Init(pipe, block_ids, tiling.num_ids);
    mover_.Init(pipe, tiling.piece_bytes);
  }

  __aicore__ inline void Process() {
    const CoreShare share = ShareOfThisCore(2 * static_cast<uint64_t>(tiling_.num_ids) * tiling_.pieces_per_block);
    for (uint64_t piece = share.begin; piece < share.end; ++piece) WritePiece(piece);
  }

 private:
  __aicore__ inline void WritePiece(uint64_t piece) {
    const uint64_t page = piece / tiling_.pieces_per_block;
    const uint64_t offset = piece % tiling_.pieces_per_block * tiling_.piece_bytes;
    const uint32_t which = page < tiling_.num_ids ? 0 : 1;
    const int32_t id = ids_.Get(static_cast<uint32_t>(page) - which * tiling_.num_ids);
    if (id < 0 || static_cast<uint32_t>(id) >= tiling_.num_blocks) return;
    const uint64_t left = tiling_.block_bytes - offset;
    mover_.Move(caches_[which][id * tiling_.block_bytes + offset], pages_[page * tiling_.block_bytes + offset],
                static_cast<uint32_t>(left < tiling_.piece_bytes ? left : tiling_.piece_bytes));
  }

  WriteBlocksTiling tiling_;
  AscendC::GlobalTensor<uint8_t> caches_[2];
  AscendC::GlobalTensor<uint8_t> pages_;
  IndexWindow ids_;
  ByteMover mover_;
};

}  // namespace paged_ops

extern "C" __global__ __aicore__ void write_blocks_custom(GM_ADDR key_cache, GM_ADDR value_cache, GM_ADDR pages,
                                                          GM_ADDR block_ids, GM_ADDR done, GM_ADDR workspace,
                                                          GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  REGISTER_TILING_DEFAULT(WriteBlocksTiling);
  GET_TILING_DATA(tiling_data, tiling);
  AscendC::TPipe pipe;
  paged_ops::DoneOutput done_output;
  done_output.Write(&pipe, done);
  paged_ops::WriteBlocks op;
  op.Init(&pipe, key_cache, value_cache, pages, block_ids, tiling_data);
  op.Process();
}
