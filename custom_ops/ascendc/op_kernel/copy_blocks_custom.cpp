// copy_blocks: copy whole blocks of the paged cache, for copy-on-write and compaction.
//
//   key_cache, value_cache  [NB, BS, K, D] float16 or bfloat16, or int8 [NB, BS, K, D + 4], changed in place
//   pairs                   [P, 2] int32: source and destination block, done in order; -1, -1 = nothing
//   done                    [1] int32, always 0: something for later operators to depend on
//
// Pairs may build on each other (a to b, then b to c). So the cores do not share out the pairs: each does all of them,
// in order, for its own pieces of the block, and no core ever reads what another one wrote.
//
// The host checks the ids: the device could not report a bad one. A pair with an id outside [0, NB) is skipped here.

#include "byte_mover.h"
#include "copy_blocks_tiling.h"
#include "core_share.h"
#include "done_output.h"
#include "index_window.h"
#include "kernel_operator.h"
#include "pipe_order.h"

namespace paged_ops {

class CopyBlocks {
 public:
  __aicore__ inline void Init(AscendC::TPipe* pipe, GM_ADDR key_cache, GM_ADDR value_cache, GM_ADDR pairs,
                              const CopyBlocksTiling& tiling) {
    tiling_ = tiling;
    const uint64_t cache_bytes = tiling.num_blocks * tiling.block_bytes;
    caches_[0].SetGlobalBuffer(key_cache, cache_bytes);
    caches_[1].SetGlobalBuffer(value_cache, cache_bytes);
    ids_.Init(pipe, pairs, 2 * tiling.num_pairs);
    mover_.Init(pipe, tiling.piece_bytes);
    share_ = ShareOfThisCore(2 * static_cast<uint64_t>(tiling.pieces_per_block));
  }

  __aicore__ inline void Process() {
    for (uint32_t pair = 0; pair < tiling_.num_pairs; ++pair) {
      const int32_t source = ids_.Get(2 * pair);
      const int32_t destination = ids_.Get(2 * pair + 1);
      if (!IsBlock(source) || !IsBlock(destination) || source == destination) continue;
      if (num_unfinished_ == kMostUnfinished || IsUnfinished(source) || IsUnfinished(destination)) FinishWrites();
      CopyPieces(source, destination);
      unfinished_[num_unfinished_++] = destination;
    }
  }

 private:
  // So many pairs may be under way before the core waits for them, whether it has to or not.
  static constexpr uint32_t kMostUnfinished = 16;

  __aicore__ inline bool IsBlock(int32_t id) const {
    return id >= 0 && static_cast<uint32_t>(id) < tiling_.num_blocks;
  }

  __aicore__ inline bool IsUnfinished(int32_t block) const {
    for (uint32_t i = 0; i < num_unfinished_; ++i) {
      if (unfinished_[i] == block) return true;
    }
    return false;
  }

  // Loads from here on see all that was stored so far; and what they feed is stored after it.
  __aicore__ inline void FinishWrites() {
    OrderPipes<AscendC::HardEvent::MTE3_MTE2>();
    num_unfinished_ = 0;
  }

  // A destination that an earlier pair reads needs no wait: this pair's loads come after that pair's, and its stores
  // after its own loads.
  __aicore__ inline void CopyPieces(int32_t source, int32_t destination) {
    for (uint64_t piece = share_.begin; piece < share_.end; ++piece) {
      const uint32_t which = piece < tiling_.pieces_per_block ? 0 : 1;
      const uint64_t offset = (piece - which * tiling_.pieces_per_block) * tiling_.piece_bytes;
      const uint64_t left = tiling_.block_bytes - offset;
      mover_.Move(caches_[which][destination * tiling_.block_bytes + offset],
                  caches_[which][source * tiling_.block_bytes + offset],
                  static_cast<uint32_t>(left < tiling_.piece_bytes ? left : tiling_.piece_bytes));
    }
  }

  CopyBlocksTiling tiling_;
  CoreShare share_;
  AscendC::GlobalTensor<uint8_t> caches_[2];
  IndexWindow ids_;
  ByteMover mover_;
  int32_t unfinished_[kMostUnfinished];  // destinations whose stores may still be under way
  uint32_t num_unfinished_ = 0;
};

}  // namespace paged_ops

extern "C" __global__ __aicore__ void copy_blocks_custom(GM_ADDR key_cache, GM_ADDR value_cache, GM_ADDR pairs,
                                                         GM_ADDR done, GM_ADDR workspace, GM_ADDR tiling) {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  REGISTER_TILING_DEFAULT(CopyBlocksTiling);
  GET_TILING_DATA(tiling_data, tiling);
  AscendC::TPipe pipe;
  paged_ops::DoneOutput done_output;
  done_output.Write(&pipe, done);
  paged_ops::CopyBlocks op;
  op.Init(&pipe, key_cache, value_cache, pairs, tiling_data);
  op.Process();
}
