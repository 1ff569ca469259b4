// Prints, as JSON, what the ops of op_host define, or what one of them answers to given inputs.
//
//   op_host_driver describe
//   op_host_driver run OP VECTOR_CORES CUBE_CORES ATTRIBUTES INPUT…   an input is dtype:d0,d1,…; attributes are numbers
//                                                                    with commas between them, or "none"
//
// What an op has to say against its inputs comes out on stderr.

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <sstream>

#include "register/op_def_registry.h"

namespace {

const std::map<std::string, ge::DataType> kDTypes = {
    {"float32", ge::DT_FLOAT}, {"float16", ge::DT_FLOAT16}, {"bfloat16", ge::DT_BF16},
    {"int8", ge::DT_INT8},     {"int32", ge::DT_INT32}};

std::string NameOf(ge::DataType dtype) {
  for (const auto& entry : kDTypes) {
    if (entry.second == dtype) return entry.first;
  }
  return "undefined";
}

std::string Quoted(const std::string& text) { return "\"" + text + "\""; }

template <typename List, typename Text>
std::string JsonList(const List& list, const Text& text) {
  std::string json;
  for (const auto& entry : list) json += (json.empty() ? "" : ", ") + text(entry);
  return "[" + json + "]";
}

std::string Describe(const std::vector<std::unique_ptr<ops::OpParamDef>>& params) {
  return JsonList(params, [](const std::unique_ptr<ops::OpParamDef>& param) {
    return "{\"name\": " + Quoted(param->name) + ", \"required\": " + std::to_string(param->option == ops::REQUIRED) +
           ", \"contiguous\": " + std::to_string(param->auto_contiguous) +
           ", \"dtypes\": " + JsonList(param->dtypes, [](ge::DataType dtype) { return Quoted(NameOf(dtype)); }) +
           ", \"formats\": " + JsonList(param->formats, [](ge::Format format) { return std::to_string(format); }) + "}";
  });
}

std::string Describe(const ops::OpDef& op) {
  return "{\"name\": " + Quoted(op.name) + ", \"inputs\": " + Describe(op.inputs) +
         ", \"outputs\": " + Describe(op.outputs) +
         ", \"attributes\": " + JsonList(op.attributes, [](const std::unique_ptr<ops::OpAttrDef>& attribute) {
           return "[" + Quoted(attribute->name) + ", " + Quoted(attribute->type) + "]";
         }) +
         ", \"chips\": " + JsonList(op.ai_core.chips, Quoted) + "}";
}

struct Input {
  ge::DataType dtype;
  std::vector<int64_t> shape;
};

Input Parse(const std::string& text) {
  const size_t colon = text.find(':');
  Input input = {kDTypes.at(text.substr(0, colon)), {}};
  std::istringstream dims(text.substr(colon + 1));
  for (std::string dim; std::getline(dims, dim, ',');) input.shape.push_back(std::atoll(dim.c_str()));
  return input;
}

std::string Hex(const std::vector<uint8_t>& bytes) {
  std::string text;
  char pair[3];
  for (uint8_t byte : bytes) {
    std::snprintf(pair, sizeof(pair), "%02x", byte);
    text += pair;
  }
  return text;
}

std::string Run(const ops::OpDef& op, const std::vector<Input>& inputs, gert::TilingContext* tiling) {
  gert::InferShapeContext shape;
  gert::InferDataTypeContext dtype;
  for (const Input& input : inputs) {
    tiling->shapes.push_back({gert::Shape(input.shape)});
    tiling->descs.push_back({input.dtype});
    shape.inputs.emplace_back(input.shape);
    dtype.inputs.push_back(input.dtype);
  }
  if (op.ai_core.tiling(tiling) != ge::GRAPH_SUCCESS) return "null";
  if (op.infer_shape(&shape) != ge::GRAPH_SUCCESS || op.infer_dtype(&dtype) != ge::GRAPH_SUCCESS) return "null";
  std::vector<int64_t> output;
  for (size_t i = 0; i < shape.output.GetDimNum(); ++i) output.push_back(shape.output.GetDim(i));
  return "{\"block_dim\": " + std::to_string(tiling->block_dim) + ", \"workspace\": " +
         std::to_string(tiling->workspace) + ", \"tiling_key\": " + std::to_string(tiling->tiling_key) +
         ", \"schedule_mode\": " + std::to_string(tiling->schedule_mode) + ", \"tiling\": " +
         Quoted(Hex(tiling->tiling)) + ", \"output_dtype\": " + Quoted(NameOf(dtype.output)) + ", \"output_shape\": " +
         JsonList(output, [](int64_t dim) { return std::to_string(dim); }) + "}";
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argv[1];
  if (command == "describe") {
    std::cout << JsonList(ops::AllOps(), [](const std::unique_ptr<ops::OpDef>& op) { return Describe(*op); }) << "\n";
    return 0;
  }
  gert::TilingContext tiling;
  tiling.platform = {static_cast<uint32_t>(std::atoi(argv[3])), static_cast<uint32_t>(std::atoi(argv[4]))};
  std::istringstream attributes(std::string(argv[5]) == "none" ? "" : argv[5]);
  for (std::string number; std::getline(attributes, number, ',');) {
    tiling.attributes.ints.push_back(std::atoll(number.c_str()));
    tiling.attributes.floats.push_back(static_cast<float>(std::atof(number.c_str())));
  }
  std::vector<Input> inputs;
  for (int i = 6; i < argc; ++i) inputs.push_back(Parse(argv[i]));
  for (const auto& op : ops::AllOps()) {
    if (op->name == argv[2]) std::cout << Run(*op, inputs, &tiling) << "\n";
  }
  return 0;
}
