// Stands in for CANN's header of this name, as far as op_host uses it: what an op defines and sets is kept for a test.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace ge {
using graphStatus = uint32_t;
constexpr graphStatus GRAPH_SUCCESS = 0;
constexpr graphStatus GRAPH_FAILED = 0xFFFFFFFF;
enum DataType { DT_FLOAT = 0, DT_FLOAT16 = 1, DT_INT8 = 2, DT_INT32 = 3, DT_BF16 = 27, DT_UNDEFINED = 28 };
enum Format { FORMAT_ND = 2 };
}  // namespace ge

namespace fe {
struct PlatFormInfos {
  uint32_t vector_cores;
  uint32_t cube_cores;
};
}  // namespace fe

namespace gert {

class Shape {
 public:
  Shape() = default;
  explicit Shape(const std::vector<int64_t>& dims) : dims_(dims) {}
  size_t GetDimNum() const { return dims_.size(); }
  int64_t GetDim(size_t i) const { return dims_.at(i); }
  void SetDimNum(size_t count) { dims_.resize(count); }
  void SetDim(size_t i, int64_t size) { dims_.at(i) = size; }
  void AppendDim(int64_t size) { dims_.push_back(size); }

 private:
  std::vector<int64_t> dims_;
};

struct StorageShape {
  Shape shape;
  const Shape& GetStorageShape() const { return shape; }
};

struct CompileTimeTensorDesc {
  ge::DataType dtype;
  ge::DataType GetDataType() const { return dtype; }
};

// Attributes, each stored as both of the types that the ops have.
struct RuntimeAttrs {
  std::vector<int64_t> ints;
  std::vector<float> floats;
  template <typename T>
  const T* GetAttrPointer(size_t i) const;
};

template <>
inline const int64_t* RuntimeAttrs::GetAttrPointer<int64_t>(size_t i) const {
  return i < ints.size() ? &ints[i] : nullptr;
}

template <>
inline const float* RuntimeAttrs::GetAttrPointer<float>(size_t i) const {
  return i < floats.size() ? &floats[i] : nullptr;
}

struct TilingContext {
  std::vector<StorageShape> shapes;
  std::vector<CompileTimeTensorDesc> descs;
  RuntimeAttrs attributes;
  fe::PlatFormInfos platform;
  std::vector<uint8_t> tiling;
  size_t workspace = 0;
  uint32_t block_dim = 0;
  uint32_t schedule_mode = 0;
  uint64_t tiling_key = 0;

  const StorageShape* GetInputShape(size_t i) const { return i < shapes.size() ? &shapes[i] : nullptr; }
  const CompileTimeTensorDesc* GetInputDesc(size_t i) const { return i < descs.size() ? &descs[i] : nullptr; }
  const RuntimeAttrs* GetAttrs() const { return &attributes; }
  fe::PlatFormInfos* GetPlatformInfo() { return &platform; }
  size_t* GetWorkspaceSizes(size_t) { return &workspace; }

  template <typename T>
  T* GetTilingData() {
    tiling.assign(sizeof(T), 0);
    return reinterpret_cast<T*>(tiling.data());
  }
#ifdef CANN_WITHOUT_SET_BLOCK_DIM
  ge::graphStatus SetSimdNumBlocks(uint32_t value) { return block_dim = value, ge::GRAPH_SUCCESS; }
#else
  ge::graphStatus SetBlockDim(uint32_t value) { return block_dim = value, ge::GRAPH_SUCCESS; }
#endif
  ge::graphStatus SetTilingKey(uint64_t value) { return tiling_key = value, ge::GRAPH_SUCCESS; }
  ge::graphStatus SetScheduleMode(uint32_t value) { return schedule_mode = value, ge::GRAPH_SUCCESS; }
};

struct InferShapeContext {
  std::vector<Shape> inputs;
  Shape output;
  const Shape* GetInputShape(size_t i) const { return i < inputs.size() ? &inputs[i] : nullptr; }
  Shape* GetOutputShape(size_t) { return &output; }
};

struct InferDataTypeContext {
  std::vector<ge::DataType> inputs;
  ge::DataType output = ge::DT_UNDEFINED;
  ge::DataType GetInputDataType(size_t i) const { return inputs.at(i); }
  ge::graphStatus SetOutputDataType(size_t, ge::DataType dtype) { return output = dtype, ge::GRAPH_SUCCESS; }
};

}  // namespace gert

namespace ops {

enum Option { OPTIONAL = 1, REQUIRED = 2 };

struct OpParamDef {
  std::string name;
  Option option = OPTIONAL;
  std::vector<ge::DataType> dtypes;
  std::vector<ge::Format> formats;
  bool auto_contiguous = false;
  OpParamDef& AutoContiguous() { return auto_contiguous = true, *this; }
  OpParamDef& ParamType(Option value) { return option = value, *this; }
  OpParamDef& DataType(std::vector<ge::DataType> values) { return dtypes = values, *this; }
  OpParamDef& Format(std::vector<ge::Format> values) { return formats = values, *this; }
};

struct OpAttrDef {
  std::string name;
  Option option = OPTIONAL;
  std::string type;
  OpAttrDef& AttrType(Option value) { return option = value, *this; }
  OpAttrDef& Float() { return type = "float", *this; }
  OpAttrDef& Int() { return type = "int", *this; }
};

struct OpAICoreDef {
  ge::graphStatus (*tiling)(gert::TilingContext*) = nullptr;
  std::vector<std::string> chips;
  OpAICoreDef& SetTiling(ge::graphStatus (*value)(gert::TilingContext*)) { return tiling = value, *this; }
  OpAICoreDef& AddConfig(const char* chip) { return chips.push_back(chip), *this; }
};

struct OpDef {
  explicit OpDef(const char* op_name) : name(op_name) {}
  std::string name;
  std::vector<std::unique_ptr<OpParamDef>> inputs, outputs;
  std::vector<std::unique_ptr<OpAttrDef>> attributes;
  ge::graphStatus (*infer_shape)(gert::InferShapeContext*) = nullptr;
  ge::graphStatus (*infer_dtype)(gert::InferDataTypeContext*) = nullptr;
  OpAICoreDef ai_core;

  OpParamDef& Input(const char* value) { return Added(&inputs, value); }
  OpParamDef& Output(const char* value) { return Added(&outputs, value); }
  OpAttrDef& Attr(const char* value) { return Added(&attributes, value); }
  OpDef& SetInferShape(ge::graphStatus (*value)(gert::InferShapeContext*)) { return infer_shape = value, *this; }
  OpDef& SetInferDataType(ge::graphStatus (*value)(gert::InferDataTypeContext*)) { return infer_dtype = value, *this; }
  OpAICoreDef& AICore() { return ai_core; }

 private:
  template <typename T>
  static T& Added(std::vector<std::unique_ptr<T>>* list, const char* value) {
    list->emplace_back(new T());
    list->back()->name = value;
    return *list->back();
  }
};

inline std::vector<std::unique_ptr<OpDef>>& AllOps() {
  static std::vector<std::unique_ptr<OpDef>> ops;
  return ops;
}

}  // namespace ops

#define OP_ADD(Op) static const bool added_##Op = (AllOps().emplace_back(new Op(#Op)), true)
