// What the host side of every op shares: its inputs as the tiling function gets them, and how it refuses bad ones.
//
// The first thing that is wrong is told in one line (refusal_line.h), and the tiling function fails; what is read after
// it is zeros. C++11: CANN's project for custom operators compiles op_host with it.
#pragma once

#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "refusal_line.h"
#include "register/op_def_registry.h"
#include "tiling/platform/platform_ascendc.h"

namespace paged_host {

constexpr int64_t kMostInt32 = 2147483647;

struct Tensor {
  const char* name;
  std::vector<int64_t> shape;
  ge::DataType dtype;
};

// The pages of one layer: key_cache and value_cache, each [num_blocks, block_size, num_kv_heads, head_dim]. Of int8,
// head_dim + 4: a page has the values first, then the float32 scale of each token and KV head.
struct Pages {
  int64_t num_blocks;
  int64_t block_size;
  int64_t num_kv_heads;
  int64_t head_dim;
  Tensor keys;

  bool is_int8() const { return keys.dtype == ge::DT_INT8; }
  uint32_t element_bytes() const { return is_int8() ? 1 : 2; }
  int64_t block_bytes() const { return block_size * num_kv_heads * keys.shape[3] * element_bytes(); }
};

inline std::string ShapeText(const std::vector<int64_t>& shape) {
  std::ostringstream text;
  for (size_t i = 0; i < shape.size(); ++i) text << (i == 0 ? "[" : ", ") << shape[i];
  text << "]";
  return text.str();
}

class Inputs {
 public:
  Inputs(const char* op, const gert::TilingContext* context) : op_(op), context_(context) {}

  bool ok() const { return ok_; }

  template <typename... Parts>
  void Require(bool good, const Parts&... parts) {
    if (good || !ok_) return;
    ok_ = false;
    std::ostringstream line;
    line << op_ << ": ";
    const int in_order[] = {(line << parts, 0)...};
    (void)in_order;
    TellRefusal(line.str());
  }

  // The next input, of rank `rank` and without a dimension of 0.
  Tensor Next(const char* name, size_t rank) {
    Tensor tensor = {name, std::vector<int64_t>(rank, 0), ge::DT_UNDEFINED};
    const size_t i = next_++;
    const gert::StorageShape* shape = context_->GetInputShape(i);
    const gert::CompileTimeTensorDesc* desc = context_->GetInputDesc(i);
    Require(shape != nullptr && desc != nullptr, name, " is missing");
    if (!ok_) return tensor;
    const gert::Shape& dims = shape->GetStorageShape();
    std::vector<int64_t> sizes;
    for (size_t d = 0; d < dims.GetDimNum(); ++d) sizes.push_back(dims.GetDim(d));
    Require(sizes.size() == rank, name, " has shape ", ShapeText(sizes), ", its rank must be ", rank);
    for (int64_t size : sizes) {
      Require(size > 0 && size <= kMostInt32, name, " has shape ", ShapeText(sizes),
              ", its dimensions must be in [1, ", kMostInt32, "]");
    }
    if (!ok_) return tensor;
    tensor.shape = sizes;
    tensor.dtype = desc->GetDataType();
    return tensor;
  }

  Tensor NextFloat(const char* name, size_t rank) {
    const Tensor tensor = Next(name, rank);
    Require(tensor.dtype == ge::DT_FLOAT || Is16Bit(tensor.dtype), name,
            " has another dtype than float32, float16 and bfloat16");
    return tensor;
  }

  Tensor NextInt32(const char* name, size_t rank) {
    const Tensor tensor = Next(name, rank);
    Require(tensor.dtype == ge::DT_INT32, name, " has another dtype than int32");
    return tensor;
  }

  // key_cache and value_cache.
  Pages NextPages() {
    const Tensor keys = Next("key_cache", 4);
    const Tensor values = Next("value_cache", 4);
    Require(Is16Bit(keys.dtype) || keys.dtype == ge::DT_INT8,
            "key_cache has another dtype than float16, bfloat16 and int8");
    RequireSameDType(values, keys);
    RequireShape(values, keys.shape);
    const int64_t scale_bytes = keys.dtype == ge::DT_INT8 ? 4 : 0;
    Require(keys.shape[3] > scale_bytes || !ok_, "key_cache has shape ", ShapeText(keys.shape),
            ", the last dimension of int8 must be head_dim + 4");
    const Pages pages = {keys.shape[0], keys.shape[1], keys.shape[2], keys.shape[3] - scale_bytes, keys};
    Require(pages.block_size % 16 == 0, "block_size ", pages.block_size, " is not a multiple of 16");
    Require(pages.num_blocks <= kMostInt32 / (ok_ ? pages.block_size : 1), "key_cache has shape ",
            ShapeText(keys.shape), ": more slots than an int32 can number");
    Require(pages.num_kv_heads * pages.head_dim % 16 == 0, "KV heads * head_dim is ", pages.num_kv_heads, " * ",
            pages.head_dim, ", it must be a multiple of 16");
    return pages;
  }

  // The kernels that look into int8 pages move the values of a head in blocks of 32 bytes.
  void RequireInt8Heads(const Pages& pages, int64_t step, int64_t most) {
    Require(!pages.is_int8() || (pages.head_dim % step == 0 && pages.head_dim <= most), "head_dim ", pages.head_dim,
            " is not supported for int8: it must be a multiple of ", step, ", at most ", most);
  }

  void RequireMultiple(const char* name, int64_t value, int64_t step, int64_t most) {
    Require(value % step == 0 && value <= most, name, " ", value, " is not supported: it must be a multiple of ", step,
            ", at most ", most);
  }

  // An attribute in [0, end); one that is missing has been refused.
  void RequireChoice(const char* name, const int64_t* value, int64_t end) {
    Require(value == nullptr || (*value >= 0 && *value < end), name, " ", value == nullptr ? 0 : *value,
            " is outside [0, ", end, ")");
  }

  void RequireShape(const Tensor& tensor, const std::vector<int64_t>& expected) {
    Require(tensor.shape == expected, tensor.name, " has shape ", ShapeText(tensor.shape), ", it must be ",
            ShapeText(expected));
  }

  void RequireSameDType(const Tensor& tensor, const Tensor& like) {
    Require(tensor.dtype == like.dtype, tensor.name, " has another dtype than ", like.name);
  }

  // The attribute of this index, or null, which is refused like any bad input.
  template <typename T>
  const T* Attribute(size_t index, const char* name) {
    const gert::RuntimeAttrs* attributes = context_->GetAttrs();
    const T* value = attributes == nullptr ? nullptr : attributes->GetAttrPointer<T>(index);
    Require(value != nullptr, "attribute ", name, " is missing");
    return ok_ ? value : nullptr;
  }

 private:
  static bool Is16Bit(ge::DataType dtype) { return dtype == ge::DT_FLOAT16 || dtype == ge::DT_BF16; }

  const char* op_;
  const gert::TilingContext* context_;
  size_t next_ = 0;
  bool ok_ = true;
};

}  // namespace paged_host
