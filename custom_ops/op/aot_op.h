// What every op shares: its arguments as MindSpore's AOT interface passes them, and how it refuses bad ones.
//
// An op is a function
//   int Name(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes, void* stream, void* extra)
// whose params are the inputs followed by the outputs. MindSpore catches a std::exception that leaves the function,
// and raises RuntimeError in Python with its what() in the text. That is how an op refuses its input.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>

#include "op/dtypes.h"

#define PAGED_OPS_EXPORT extern "C" __attribute__((visibility("default")))

namespace paged_ops {

template <typename... Parts>
[[noreturn]] void Refuse(const char* op, const Parts&... parts) {
  std::ostringstream message;
  message << op << ": ";
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

struct Tensor {
  const char* name;
  void* data;
  int rank;
  const int64_t* shape;
  const char* dtype_name;
  DType dtype;

  size_t Bytes() const {
    size_t bytes = ByteSize(dtype);
    for (int i = 0; i < rank; ++i) bytes *= shape[i];
    return bytes;
  }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

inline std::string ShapeText(const int64_t* shape, int rank) {
  std::string text = "[";
  for (int i = 0; i < rank; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

class Arguments {
 public:
  Arguments(const char* op, int expected, int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes)
      : op_(op), params_(params), ndims_(ndims), shapes_(shapes), dtypes_(dtypes) {
    if (nparam != expected) Refuse(op, "got ", nparam, " inputs and outputs, it takes ", expected);
  }

  // The next parameter, of rank `rank`, and of one of the types that `allowed` holds.
  Tensor Next(const char* name, int rank, std::initializer_list<DType> allowed) {
    const int i = next_++;
    if (ndims_[i] != rank) {
      Refuse(op_, name, " has shape ", ShapeText(shapes_[i], ndims_[i]), ", its rank must be ", rank);
    }
    const DType dtype = ParseDType(dtypes_[i]);
    std::string names;
    for (DType candidate : allowed) {
      if (candidate == dtype) return {name, params_[i], rank, shapes_[i], dtypes_[i], dtype};
      names += (names.empty() ? "" : ", ") + std::string(DTypeName(candidate));
    }
    Refuse(op_, name, " has dtype ", dtypes_[i], ", allowed: ", names);
  }

  Tensor NextFloat(const char* name, int rank) {
    return Next(name, rank, {DType::kFloat32, DType::kFloat16, DType::kBFloat16});
  }

  Tensor NextCache(const char* name, int rank) {
    return Next(name, rank, {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kInt8});
  }

  Tensor NextInt32(const char* name, int rank) { return Next(name, rank, {DType::kInt32}); }

  int RankOfNext() const { return ndims_[next_]; }

 private:
  const char* op_;
  void** params_;
  int* ndims_;
  int64_t** shapes_;
  const char** dtypes_;
  int next_ = 0;
};

// All parameters of a call, of an op that takes any number of some.
struct Parameters {
  int count;
  void** data;
  int* ndims;
  int64_t** shapes;
  const char** dtypes;

  // Some of them, refused in the name of `op`.
  Arguments Some(const char* op, int first, int number) const {
    return Arguments(op, number, number, data + first, ndims + first, shapes + first, dtypes + first);
  }
};

inline void RequireShape(const char* op, const Tensor& tensor, const int64_t* expected, int rank) {
  if (tensor.rank == rank && std::equal(expected, expected + rank, tensor.shape)) return;
  Refuse(op, tensor.name, " has shape ", ShapeText(tensor.shape, tensor.rank), ", it must be ",
         ShapeText(expected, rank));
}

inline void RequireShape(const char* op, const Tensor& tensor, std::initializer_list<int64_t> expected) {
  RequireShape(op, tensor, expected.begin(), static_cast<int>(expected.size()));
}

inline void RequireSameDType(const char* op, const Tensor& tensor, const Tensor& like) {
  if (tensor.dtype == like.dtype) return;
  Refuse(op, tensor.name, " has dtype ", tensor.dtype_name, ", it must be that of ", like.name, ", ", like.dtype_name);
}

// The float32 scale of a head of a token in an int8 cache, in elements of the cache.
constexpr int64_t kScaleElements = sizeof(float);

// The pages of one layer: key_cache and value_cache, each [num_blocks, block_size, num_kv_heads, head_dim].
//
// An int8 cache has head_dim + 4 in place of head_dim, so that a block has room for its scales. Within the block
// lie first all values [block_size, num_kv_heads, head_dim], then all scales [block_size, num_kv_heads]:
// what a head of a token has of a key or value is its int8 numbers times its scale.
struct Pages {
  Tensor keys;
  Tensor values;
  int64_t num_blocks;
  int64_t block_size;
  int64_t num_kv_heads;
  int64_t head_dim;

  int64_t token_stride() const { return num_kv_heads * head_dim; }
  int64_t block_stride() const { return block_size * num_kv_heads * keys.shape[3]; }

  // The scales [block_size, num_kv_heads] of a block of an int8 cache. Aligned: block_size is a multiple of 16.
  float* scales(int8_t* cache, int64_t block) const {
    return reinterpret_cast<float*>(cache + block * block_stride() + block_size * token_stride());
  }
};

// Kernels walk the cache in chunks of this many tokens: a chunk never crosses a block.
constexpr int64_t kChunkTokens = 16;

// The pages of one layer, or of several, each as large as the others.
struct PagesOfLayers {
  Pages first;
  bool of_several;  // the caches have a dimension for them
  int64_t num_layers;

  Pages operator[](int64_t layer) const {
    Pages pages = first;
    const size_t behind = layer * first.keys.Bytes();
    pages.keys.data = first.keys.as<char>() + behind;
    pages.values.data = first.values.as<char>() + behind;
    return pages;
  }
};

inline Pages PagesOf(const char* op, const Tensor& keys, const Tensor& values) {
  RequireShape(op, values, keys.shape, 4);
  RequireSameDType(op, values, keys);
  if (keys.shape[1] <= 0 || keys.shape[1] % kChunkTokens != 0) {
    Refuse(op, "block_size ", keys.shape[1], " is not a multiple of ", kChunkTokens);
  }
  const bool is_int8 = keys.dtype == DType::kInt8;
  if (is_int8 && keys.shape[3] <= kScaleElements) {
    Refuse(op, "key_cache has shape ", ShapeText(keys.shape, 4), ", the last dimension of int8 must be head_dim + ",
           kScaleElements);
  }
  const int64_t head_dim = keys.shape[3] - (is_int8 ? kScaleElements : 0);
  if (head_dim <= 0 || head_dim % 2 != 0) Refuse(op, "head_dim ", head_dim, " is not a multiple of 2");
  if (keys.shape[2] <= 0) Refuse(op, "key_cache has no KV heads: ", ShapeText(keys.shape, 4));
  return {keys, values, keys.shape[0], keys.shape[1], keys.shape[2], head_dim};
}

inline Pages NextPages(const char* op, Arguments& arguments) {
  const Tensor keys = arguments.NextCache("key_cache", 4), values = arguments.NextCache("value_cache", 4);
  return PagesOf(op, keys, values);
}

// Of caches [L, NB, BS, K, D].
inline PagesOfLayers NextPagesOfSeveral(const char* op, Arguments& arguments) {
  const Tensor keys = arguments.NextCache("key_cache", 5), values = arguments.NextCache("value_cache", 5);
  RequireShape(op, values, keys.shape, 5);
  const auto first = [](const Tensor& cache) {
    return Tensor{cache.name, cache.data, 4, cache.shape + 1, cache.dtype_name, cache.dtype};
  };
  return {PagesOf(op, first(keys), first(values)), true, keys.shape[0]};
}

// Of whichever it is.
inline PagesOfLayers NextPagesOfLayers(const char* op, Arguments& arguments) {
  if (arguments.RankOfNext() == 5) return NextPagesOfSeveral(op, arguments);
  return {NextPages(op, arguments), false, 1};
}

// The smallest piece of work, in bytes moved, that is worth waking the other threads for: tens of microseconds.
constexpr int64_t kParallelBytes = 512 * 1024;

}  // namespace paged_ops
