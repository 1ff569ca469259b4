// Whole numbers of tokens as 16 bits each, for CPUs that multiply those by pairs (number_pairs.h).
#pragma once

#include <vector>

#include "cpu/linear/round_block.h"

namespace paged_ops {

struct TokenNumbers {
  const int16_t* numbers;  // [num_tokens, num_columns]
  const float* scales;     // [num_tokens, num_columns / 32]: floats are about numbers * scale
  const float* sums;       // of the 32 that share a scale, as floats

  // The tokens from `first` on.
  TokenNumbers From(int64_t first, int64_t num_columns) const {
    const int64_t weights = first * num_columns, blocks = weights / kBlockWeights;
    return {numbers + weights, scales + blocks, sums + blocks};
  }
};

// Their memory.
class RoundedTokens {
 public:
  void Resize(int64_t num_tokens, int64_t num_columns) {
    numbers_.resize(std::max<size_t>(numbers_.size(), num_tokens * num_columns));
    scales_.resize(numbers_.size() / kBlockWeights);
    sums_.resize(scales_.size());
    num_blocks_ = num_columns / kBlockWeights;
  }

  void Set(int64_t token, int64_t block, const RoundedBlock& rounded) {
    typedef int16_t ShortNumbers __attribute__((vector_size(kLanes * 2)));
    const int64_t place = token * num_blocks_ + block;
    for (int v = 0; v < kBlockVecs; ++v) {
      const ShortNumbers shorts = __builtin_convertvector(rounded.numbers[v], ShortNumbers);
      std::memcpy(&numbers_[place * kBlockWeights + v * kLanes], &shorts, sizeof shorts);
    }
    scales_[place] = rounded.scale;
    sums_[place] = rounded.sum();
  }

  TokenNumbers Get() const { return {numbers_.data(), scales_.data(), sums_.data()}; }

 private:
  std::vector<int16_t> numbers_;
  std::vector<float> scales_, sums_;
  int64_t num_blocks_ = 0;
};

}  // namespace paged_ops
