// paged_attention for three and more queries that see the same KV: the products on the cube core, the softmax on its two
// vector cores, which share the queries. A tile is 512 KV tokens or fewer; the cores hand it to and fro through the
// workspace:
//
//   cube core      scores(i)  . . . . . . values(i-1)  scores(i+1)  . . . . . values(i)
//                      \        weights(i-1) /    \         \       weights(i) /
//   vector cores   . . . softmax(i) . . . . . . . . add values(i-1), softmax(i+1) . . .
//
// Each of the three matrices has two places, used in turn. A flag for each tells that it is written; what was in a place
// two tiles ago has been read by then, because its reader's next flag has been awaited since.
#pragma once

#include "cube_exchange.h"
#include "cube_products.h"
#include "cube_weights.h"
#include "kernel_operator.h"
#include "paged_attention_plan.h"

namespace paged_attention {

template <typename Element, typename Cache>
class CubeAttention {
 public:
  __aicore__ inline void Init(AscendC::TPipe& pipe, const PagedAttentionTiling& tiling, const Arguments& arguments) {
    const uint32_t num_blocks = AscendC::GetBlockNum();
    uint32_t block = AscendC::GetBlockIdx();
    if ASCEND_IS_AIV {
      block /= kCubeVectorCores;
      vectors_.Init(pipe, tiling, arguments);
    }
    if ASCEND_IS_AIC {
      cube_.Init(pipe, tiling, arguments);
    }
    plan_.Init(tiling, tiling.cut, arguments.rows, arguments.context_lens, block, num_blocks);
    const uint64_t slots = num_blocks * SoftmaxStateFloats(tiling.cut.max_queries, tiling.head_dim) * sizeof(float);
    exchange_.Init(arguments.workspace + slots, block, tiling.head_dim);
  }

  __aicore__ inline void Process() {
    const bool busy = plan_.begin() < plan_.end();
    if ASCEND_IS_AIC {
      if (busy) cube_.Attend(plan_, exchange_);
    }
    if ASCEND_IS_AIV {
      vectors_.WritePadding(plan_);
      if (busy) vectors_.Attend(plan_, exchange_);
    }
    if (!plan_.has_cut_tasks()) return;
    AscendC::SyncAll<false>();
    if ASCEND_IS_AIV {
      vectors_.Collect(plan_);
    }
  }

 private:
  Plan plan_;
  Exchange<Element, Cache> exchange_;
  CubeSide<Element, Cache> cube_;
  VectorSide<Element, Cache> vectors_;
};

}  // namespace paged_attention
