// Brings int8 tiles to where the cube core loads them from, as 16-bit floats: vector core. Whole numbers up to 127 are
// exact in both types; the scales go another way (cube_scales.h).
#pragma once

#include "kernel_operator.h"
#include "paged_attention_io.h"
#include "paged_attention_plan.h"

namespace paged_attention {

template <typename Element, typename Cache>
class TileWidener {
 public:
  __aicore__ inline void Init(AscendC::TPipe& pipe, uint32_t head_dim) {
    head_dim_ = head_dim;
    pipe.InitBuffer(narrow_queue_, kAhead, kChunkTokens * head_dim * sizeof(Cache));
    pipe.InitBuffer(wide_queue_, 2, kChunkTokens * head_dim * sizeof(Element));
  }

  // Widens this core's half of the `tokens` keys or values of a row, from position `first` on, to [tokens, head_dim].
  // `scratch` has kScratchFloats floats.
  __aicore__ inline void Widen(const AscendC::GlobalTensor<Element>& target, const Pages<Cache>& pages,
                               const AscendC::GlobalTensor<Cache>& cache, const Tile& tile, uint32_t first,
                               uint32_t tokens, const AscendC::LocalTensor<float>& scratch) {
    const uint32_t half = ((tokens + 1) / 2 + kChunkTokens - 1) / kChunkTokens * kChunkTokens;
    const bool second = AscendC::GetSubBlockIdx() == 1;
    const uint32_t begin = second ? Least(half, tokens) : 0, end = second ? tokens : Least(half, tokens);
    uint32_t loaded = begin;
    for (uint32_t done = begin; done < end; done += kChunkTokens) {
      for (; loaded < end && loaded < done + kAhead * kChunkTokens; loaded += kChunkTokens) {
        AscendC::LocalTensor<Cache> narrow = narrow_queue_.template AllocTensor<Cache>();
        pages.Load(narrow, cache, tile, first + loaded, Least(end - loaded, kChunkTokens));
        narrow_queue_.EnQue(narrow);
      }
      Store(target[done * head_dim_], Least(end - done, kChunkTokens) * head_dim_, scratch);
    }
  }

  static constexpr uint32_t kScratchFloats = 2048;

 private:
  static constexpr uint32_t kChunkTokens = 64;
  static constexpr uint32_t kAhead = 3;  // chunks that are loading or loaded

  __aicore__ inline void Store(const AscendC::GlobalTensor<Element>& target, uint32_t count,
                               const AscendC::LocalTensor<float>& scratch) {
    AscendC::LocalTensor<Cache> narrow = narrow_queue_.template DeQue<Cache>();
    AscendC::LocalTensor<Element> wide = wide_queue_.template AllocTensor<Element>();
    const AscendC::LocalTensor<half> halves = wide.template ReinterpretCast<half>();
    AscendC::Cast(halves, narrow, AscendC::RoundMode::CAST_NONE, static_cast<int32_t>(count));
    narrow_queue_.FreeTensor(narrow);
    if constexpr (!AscendC::IsSameType<Element, half>::value) {
      for (uint32_t done = 0; done < count; done += kScratchFloats) {
        const int32_t some = static_cast<int32_t>(Least(count - done, kScratchFloats));
        VectorBarrier();
        AscendC::Cast(scratch, halves[done], AscendC::RoundMode::CAST_NONE, some);
        VectorBarrier();
        AscendC::Cast(wide[done], scratch, AscendC::RoundMode::CAST_RINT, some);
      }
    }
    wide_queue_.EnQue(wide);
    wide = wide_queue_.template DeQue<Element>();
    AscendC::DataCopy(target, wide, count);
    wide_queue_.FreeTensor(wide);
  }

  uint32_t head_dim_ = 0;
  AscendC::TQue<AscendC::TPosition::VECIN, kAhead> narrow_queue_;
  AscendC::TQue<AscendC::TPosition::VECOUT, 2> wide_queue_;
};

}  // namespace paged_attention
