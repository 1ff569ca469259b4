// Adapters of low rank beside the weights of all layers, and which tokens have one.
#pragma once

#include "cpu/step/attention_layer.h"
#include "cpu/step/feed_forward_layer.h"

namespace paged_ops {

// Hands out what the adapters have for each projection, in the order in which it lies in their memory: layer by layer
// that of q, k, v, o, gate, up and down, of each A [rank, columns] and then B [panels, rank, 16 rows], each filled up to
// a whole line. Source: Hu et al. 2021, "LoRA".
class Adapters {
 public:
  Adapters() = default;  // none

  // numbers: [T] int32, each token's adapter, -1 = none. weights: [S, floats] float32. All of `numbers` is checked.
  Adapters(const char* op, const Tensor& numbers, const Tensor& weights, int64_t rank, int64_t num_tokens)
      : weights_(weights.as<float>()), num_tokens_(num_tokens), stride_(weights.shape[1]), rank_(rank) {
    if (rank < 0 || rank % kRanksTogether != 0) {
      Refuse(op, "adapter_rank is ", rank, ", it must be a multiple of ", kRanksTogether, ", or 0, which is no adapters");
    }
    bool any = false;
    for (int64_t t = 0; t < numbers.shape[0]; ++t) {
      const int64_t number = numbers.as<int32_t>()[t];
      if (number < -1 || number >= weights.shape[0]) {
        Refuse(op, "token ", t, ": adapter ", number, " is outside [-1, ", weights.shape[0], ")");
      }
      any = any || number >= 0;
    }
    if (any) numbers_ = numbers.as<int32_t>();
    inner_ = Scratch(kLowRank, kMostTogether * num_tokens * rank);
  }

  // What they have for the next layer. Refuses in the name of `op` where their memory ends.
  void TakeLayer(const char* op, AttentionLayerCall& attention, FeedForwardCall& feed_forward) {
    if (rank_ == 0) return;
    TakeTogether({&attention.query, &attention.key, &attention.value});
    TakeTogether({&attention.out});
    TakeTogether({&feed_forward.gate, &feed_forward.up});
    TakeTogether({&feed_forward.down});
    if (taken_ > stride_) RefuseSize(op);
  }

  // Nothing is left.
  void RequireAllTaken(const char* op) const {
    if (taken_ != stride_) RefuseSize(op);
  }

 private:
  static constexpr int64_t kMostTogether = 3;
  static constexpr int64_t kFloatsOfLine = kLineBytes / sizeof(float);

  // Those of weights that are multiplied with the same x.
  void TakeTogether(std::initializer_list<Weights*> together) {
    int64_t place = 0;
    for (Weights* weights : together) {
      LowRank& low = weights->low_rank;
      low.adapters = numbers_;
      low.down = Take(rank_ * weights->num_columns);
      low.up = Take(weights->num_panels() * rank_ * kPanelRows);
      low.stride = stride_;
      low.rank = rank_;
      low.inner = inner_ + place++ * num_tokens_ * rank_;
    }
  }

  const float* Take(int64_t count) {
    const float* taken = weights_ + taken_;
    taken_ += (count + kFloatsOfLine - 1) / kFloatsOfLine * kFloatsOfLine;
    return taken;
  }

  [[noreturn]] void RefuseSize(const char* op) const {
    Refuse(op, "adapter_weights has ", stride_, " numbers an adapter, which the layers' shapes do not make up");
  }

  const int32_t* numbers_ = nullptr;
  const float* weights_ = nullptr;
  int64_t num_tokens_ = 0, stride_ = 0, rank_ = 0, taken_ = 0;
  float* inner_ = nullptr;
};

}  // namespace paged_ops
