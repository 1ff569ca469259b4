// The scales of an int8 tile beside the cube core: those of keys multiply the columns of scores, those of values the
// columns of weights. So the cube multiplies whole numbers.
#pragma once

#include "kernel_operator.h"
#include "online_softmax.h"
#include "paged_attention_io.h"
#include "paged_attention_plan.h"
#include "paged_attention_tiling.h"

namespace paged_attention {

// Weights are of 16 bits: times scales they come near the least half, so they are taken by so much larger, and the sums
// of values back. The largest scale that values of half have, 516, stays within half's range.
constexpr float kScaleGain = 64.0f;

class CubeScales {
 public:
  __aicore__ inline void Init(AscendC::TPipe& pipe) {
    pipe.InitBuffer(buffer_, 2 * kCubeTileTokens * sizeof(float));
    key_scales_ = buffer_.Get<float>();
    value_scales_ = key_scales_[kCubeTileTokens];
  }

  // Takes in the scales of a tile's `tokens` tokens from position `first` on. `queue` has room for 8 floats a token.
  template <typename Cache, typename Queue>
  __aicore__ inline void Load(Queue& queue, const Pages<Cache>& pages, const Tile& tile, uint32_t first,
                              uint32_t tokens) {
    LoadInto(key_scales_, queue, pages, pages.key_scales(), tile, first, tokens);
    LoadInto(value_scales_, queue, pages, pages.value_scales(), tile, first, tokens);
    VectorBarrier();
    AscendC::Muls(value_scales_, value_scales_, kScaleGain, static_cast<int32_t>(tokens));  // needed after the softmax
    tokens_ = tokens;
  }

  // Rows of `width` floats, of which the tile's tokens are multiplied.
  __aicore__ inline void OfKeys(const AscendC::LocalTensor<float>& scores, uint32_t width, uint32_t rows) const {
    Multiply(scores, key_scales_, width, rows);
  }
  __aicore__ inline void OfValues(const AscendC::LocalTensor<float>& weights, uint32_t width, uint32_t rows) const {
    Multiply(weights, value_scales_, width, rows);
  }

 private:
  template <typename Cache, typename Queue>
  __aicore__ inline void LoadInto(const AscendC::LocalTensor<float>& target, Queue& queue, const Pages<Cache>& pages,
                                  const AscendC::GlobalTensor<float>& scales, const Tile& tile, uint32_t first,
                                  uint32_t tokens) const {
    constexpr uint32_t kRepeats = 248;  // at most 255, and a multiple of 8
    AscendC::LocalTensor<float> rows = queue.template AllocTensor<float>();
    pages.LoadScales(rows, scales, tile, first, tokens);
    queue.EnQue(rows);
    rows = queue.template DeQue<float>();
    for (uint32_t done = 0; done < tokens; done += kRepeats) {
      AscendC::WholeReduceSum<float>(target[done], rows[done * kBlockLanes], static_cast<int32_t>(kBlockLanes),
                                     static_cast<int32_t>(Least(tokens - done, kRepeats)), 1, 1, 1);
    }
    queue.FreeTensor(rows);
  }

  __aicore__ inline void Multiply(const AscendC::LocalTensor<float>& matrix, const AscendC::LocalTensor<float>& scales,
                                  uint32_t width, uint32_t rows) const {
    const uint8_t stride = static_cast<uint8_t>(width / kBlockLanes);
    for (uint32_t column = 0; column < tokens_; column += kLanes) {
      AscendC::Mul(matrix[column], matrix[column], scales[column], LanesLeft(tokens_, column),
                   static_cast<uint8_t>(rows), {1, 1, 1, stride, stride, 0});
    }
    VectorBarrier();
  }

  AscendC::TBuf<AscendC::TPosition::VECCALC> buffer_;
  AscendC::LocalTensor<float> key_scales_;
  AscendC::LocalTensor<float> value_scales_;
  uint32_t tokens_ = 0;
};

}  // namespace paged_attention
