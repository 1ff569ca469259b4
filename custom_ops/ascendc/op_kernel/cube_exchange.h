// What a cube core and its two vector cores hand each other: places in the workspace, and the flags that tell of them.
#pragma once

#include "kernel_operator.h"
#include "paged_attention_tiling.h"

namespace paged_attention {

// Flags between the cube core and its vector cores; 11 to 14 belong to SyncAll.
constexpr uint16_t kScoresReady = 0;
constexpr uint16_t kWeightsReady = 1;
constexpr uint16_t kValuesReady = 2;
constexpr uint16_t kWideKeysReady = 3;
constexpr uint16_t kWideValuesReady = 4;
constexpr uint8_t kWithinBlock = 2;  // CrossCoreSetFlag's mode: a cube core and its vector cores

// One block's places in the workspace. Element is what the cube core multiplies, Cache what the pages hold.
template <typename Element, typename Cache>
class Exchange {
 public:
  static constexpr bool kWidens = !AscendC::IsSameType<Element, Cache>::value;

  __aicore__ inline void Init(GM_ADDR base, uint32_t block, uint32_t head_dim) {
    constexpr uint64_t kScores = static_cast<uint64_t>(kCubeQueries) * kCubeTileTokens;
    const uint64_t wide = static_cast<uint64_t>(kCubeTileTokens) * head_dim * sizeof(Element);
    for (uint32_t place = 0; place < 2; ++place) {
      GM_ADDR start = base + (2 * static_cast<uint64_t>(block) + place) * CubeExchangeBytes(head_dim, kWidens);
      scores_[place].SetGlobalBuffer(reinterpret_cast<__gm__ float*>(start));
      start += kScores * sizeof(float);
      weights_[place].SetGlobalBuffer(reinterpret_cast<__gm__ Element*>(start));
      start += kScores * sizeof(Element);
      values_[place].SetGlobalBuffer(reinterpret_cast<__gm__ float*>(start));
      start += static_cast<uint64_t>(kCubeQueries) * head_dim * sizeof(float);
      wide_keys_[place].SetGlobalBuffer(reinterpret_cast<__gm__ Element*>(start));
      wide_values_[place].SetGlobalBuffer(reinterpret_cast<__gm__ Element*>(start + wide));
    }
  }

  __aicore__ inline AscendC::GlobalTensor<float> Scores(uint64_t tile) const { return scores_[tile % 2]; }
  __aicore__ inline AscendC::GlobalTensor<Element> Weights(uint64_t tile) const { return weights_[tile % 2]; }
  __aicore__ inline AscendC::GlobalTensor<float> Values(uint64_t tile) const { return values_[tile % 2]; }
  // Where pages are of another type than what is multiplied:
  __aicore__ inline AscendC::GlobalTensor<Element> WideKeys(uint64_t tile) const { return wide_keys_[tile % 2]; }
  __aicore__ inline AscendC::GlobalTensor<Element> WideValues(uint64_t tile) const { return wide_values_[tile % 2]; }

 private:
  AscendC::GlobalTensor<float> scores_[2];         // [queries, kCubeTileTokens]
  AscendC::GlobalTensor<Element> weights_[2];      // [queries, kCubeTileTokens]
  AscendC::GlobalTensor<float> values_[2];         // [queries, head_dim]
  AscendC::GlobalTensor<Element> wide_keys_[2];    // [kCubeTileTokens, head_dim]
  AscendC::GlobalTensor<Element> wide_values_[2];  // [kCubeTileTokens, head_dim]
};

}  // namespace paged_attention
