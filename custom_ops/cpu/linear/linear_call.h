// What the ops around linear layers share: their weights as arguments, checked, the norm, and working memory.
#pragma once

#include <cmath>
#include <vector>

#include "cpu/linear/linear.h"

namespace paged_ops {

// A weight as it comes: its kind is given by its type, or for bytes, and bfloat16 of two kinds, by the number that stands
// elsewhere in the call.
inline Tensor NextWeight(Arguments& arguments, const char* name) {
  return arguments.Next(name, 2, {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kUInt8});
}

inline float NextNumber(Arguments& arguments, const char* name) {
  return arguments.Next(name, 0, {DType::kFloat32}).as<float>()[0];
}

inline int64_t NextInteger(Arguments& arguments, const char* name) {
  return arguments.Next(name, 0, {DType::kInt64}).as<int64_t>()[0];
}

// The kinds of an op's weights in one number, eight bits each, the first lowest.
class Kinds {
 public:
  explicit Kinds(int64_t packed) : packed_(packed) {}

  int64_t operator[](int index) const { return packed_ >> (8 * index) & 0xff; }

 private:
  int64_t packed_;
};

inline void RequireColumns(const char* op, const char* name, int64_t num_columns) {
  if (num_columns <= 0) Refuse(op, name, " has ", num_columns, " columns, it must have at least 1");
}

inline Weights WeightsOf(const char* op, const Tensor& tensor, int64_t kind, int64_t num_columns) {
  RequireColumns(op, tensor.name, num_columns);
  const auto weights = [&](WeightKind of_kind, int64_t row_bytes) {
    return Weights{of_kind, tensor.as<char>(), tensor.shape[0], num_columns, row_bytes};
  };
  if (tensor.dtype == DType::kUInt8) {
    if (BlockSizeOf(kind).columns == 0) {
      Refuse(op, tensor.name, " has blocks of kind ", kind, ", allowed: ", NamesOf(BlockFormats()));
    }
    RequireWholeBlocks(op, tensor.name, kind, num_columns);
    const int64_t row_bytes = BytesOfRow(kind, num_columns);
    RequireShape(op, tensor, {tensor.shape[0], row_bytes});
    return weights(static_cast<WeightKind>(kind), row_bytes);
  }
  RequireShape(op, tensor, {tensor.shape[0], num_columns});
  const int64_t row_bytes = num_columns * ByteSize(tensor.dtype);
  if (tensor.dtype == DType::kFloat32) return weights(WeightKind::kFloat32, row_bytes);
  if (tensor.dtype == DType::kFloat16) return weights(WeightKind::kFloat16, row_bytes);
  const bool is_w16a16 = kind == static_cast<int64_t>(WeightKind::kW16A16);
  return weights(is_w16a16 ? WeightKind::kW16A16 : WeightKind::kBFloat16, row_bytes);
}

inline Tensor NextTokens(Arguments& arguments, const char* name) {
  return arguments.Next(name, 2, {DType::kFloat32});
}

// target = x / sqrt(mean(x^2) + epsilon) * weight, of one token; the target may be x.
inline void Normalize(const float* x, const float* weight, float epsilon, int64_t count, float* target) {
  constexpr int kChains = 4;
  Vec squares[kChains] = {};
  int64_t i = 0;
  for (int chain = 0; i + kLanes <= count; i += kLanes, chain = (chain + 1) % kChains) {
    const Vec part = Load(x + i);
    squares[chain] = MulAdd(part, part, squares[chain]);
  }
  if (i < count) {
    const Vec part = LoadPart(x + i, count - i);
    squares[0] = MulAdd(part, part, squares[0]);
  }
  float sums[kChains];
  SumLanes(squares, sums);
  const float mean = ((sums[0] + sums[1]) + (sums[2] + sums[3])) / static_cast<float>(count);
  const Vec scale = Broadcast(1.0f / std::sqrt(mean + epsilon));
  i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(target + i, Load(x + i) * scale * Load(weight + i));
  if (i < count) {
    StorePart(target + i, LoadPart(x + i, count - i) * scale * LoadPart(weight + i, count - i), count - i);
  }
}

// [number, count], each in place.
inline void NormalizeEach(float* x, const float* weight, float epsilon, int64_t count, int64_t number) {
  for (int64_t i = 0; i < number; ++i) Normalize(x + i * count, weight, epsilon, count, x + i * count);
}

// All tokens, shared among the threads.
inline void NormalizeTokens(const Tensor& x, const float* weight, float epsilon, float* target) {
  constexpr int64_t kTokens = 16;  // of a chunk
  const int64_t num_tokens = x.shape[0], columns = x.shape[1];
  const int64_t num_chunks = (num_tokens + kTokens - 1) / kTokens;
  Threads::Get().For(num_chunks, num_tokens * columns < kParallelProducts, [=](int64_t chunk, int) {
    for (int64_t t = chunk * kTokens; t < std::min(num_tokens, (chunk + 1) * kTokens); ++t) {
      Normalize(x.as<float>() + t * columns, weight, epsilon, columns, target + t * columns);
    }
  });
}

// All numbers times a factor, in place.
inline void ScaleNumbers(float* numbers, int64_t count, float factor) {
  constexpr int64_t kNumbers = 16 * 1024;  // of a chunk
  if (factor == 1.0f) return;
  Threads::Get().For((count + kNumbers - 1) / kNumbers, count < kParallelProducts, [=](int64_t chunk, int) {
    for (int64_t i = chunk * kNumbers; i < std::min(count, (chunk + 1) * kNumbers); ++i) numbers[i] *= factor;
  });
}

// What an op needs between its steps.
enum ScratchPart {
  kTokens,
  kWanted,
  kNormalized,
  kQueries,
  kKeys,
  kValues,
  kAttended,
  kHidden,
  kPutOut,
  kLowRank,
  kNumScratchParts
};

// Working memory of the calling thread, kept from call to call.
inline float* Scratch(ScratchPart part, size_t count) {
  thread_local std::vector<float> memory[kNumScratchParts];
  if (memory[part].size() < count) memory[part].resize(count);
  return memory[part].data();
}

// target = x W^T, of [num_tokens, rows]; plus `added`, which may be the target, unless it is null.
inline auto ProductInto(const Weights& weights, float* target, const float* added = nullptr) {
  const int64_t width = weights.num_rows;
  const auto store = [=](int64_t token, int64_t count, int64_t row, int64_t num_rows, float (*products)[kPanelRows]) {
    for (int64_t t = 0; t < count; ++t) {
      const int64_t place = (token + t) * width + row;
      if (num_rows == kPanelRows) {
        PAGED_OPS_UNROLL_TILE
        for (int n = 0; n < kPanelRows; n += kLanes) {
          const Vec product = Load(products[t] + n);
          Store(target + place + n, added ? Load(added + place + n) + product : product);
        }
      } else {
        for (int64_t n = 0; n < num_rows; ++n) {
          target[place + n] = added ? added[place + n] + products[t][n] : products[t][n];
        }
      }
    }
  };
  return Product{weights, store};
}

}  // namespace paged_ops
