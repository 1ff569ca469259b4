// act_and_mul as CANN sees it: types, shapes and tiling. The kernel is op_kernel/act_and_mul_custom.cpp.

#include "../op_kernel/act_and_mul_tiling.h"
#include "host_checks.h"
#include "host_launch.h"
#include "like_first_input.h"
#include "register/op_def_registry.h"

namespace optiling {

static ge::graphStatus ActAndMulTilingFunc(gert::TilingContext* context) {
  paged_host::Inputs inputs("act_and_mul", context);
  const paged_host::Tensor gate_up = inputs.NextFloat("gate_up", 2);
  const paged_host::Tensor bias = inputs.NextFloat("bias", 1);
  const int64_t* activation = inputs.Attribute<int64_t>(0, "activation");
  const int64_t* has_bias = inputs.Attribute<int64_t>(1, "has_bias");
  const int64_t width = gate_up.shape[1] / 2;
  inputs.RequireShape(bias, {gate_up.shape[1]});
  inputs.RequireSameDType(bias, gate_up);
  inputs.Require(gate_up.shape[1] % 2 == 0, "gate_up has ", gate_up.shape[1], " columns, they must be even");
  inputs.RequireMultiple("half the width of gate_up", width, kActWidthStep, paged_host::kMostInt32);
  inputs.RequireChoice("activation", activation, 2);
  inputs.RequireChoice("has_bias", has_bias, 2);
  if (!inputs.ok()) return ge::GRAPH_FAILED;
  return paged_host::SetVectorLaunch(
      context, MakeActAndMulLaunch(static_cast<uint32_t>(gate_up.shape[0]), static_cast<uint32_t>(width),
                                   static_cast<uint32_t>(*activation), static_cast<uint32_t>(*has_bias),
                                   paged_host::Platform(context).GetCoreNumAiv()));
}

}  // namespace optiling

namespace ge {

static graphStatus InferActAndMulShape(gert::InferShapeContext* context) {
  const gert::Shape* gate_up = context->GetInputShape(0);
  gert::Shape* gated = context->GetOutputShape(0);
  if (gate_up == nullptr || gated == nullptr || gate_up->GetDimNum() != 2) return GRAPH_FAILED;
  gated->SetDimNum(2);
  gated->SetDim(0, gate_up->GetDim(0));
  gated->SetDim(1, gate_up->GetDim(1) / 2);
  return GRAPH_SUCCESS;
}

}  // namespace ge

namespace ops {

class ActAndMulCustom : public OpDef {
 public:
  explicit ActAndMulCustom(const char* name) : OpDef(name) {
    // One column is one compiled kernel.
    const std::vector<ge::DataType> type = {ge::DT_FLOAT16, ge::DT_BF16, ge::DT_FLOAT};
    const std::vector<ge::Format> format(3, ge::FORMAT_ND);
    this->Input("gate_up").ParamType(REQUIRED).DataType(type).Format(format);
    this->Input("bias").ParamType(REQUIRED).DataType(type).Format(format);
    this->Output("gated").ParamType(REQUIRED).DataType(type).Format(format);
    this->Attr("activation").AttrType(REQUIRED).Int();
    this->Attr("has_bias").AttrType(REQUIRED).Int();
    this->SetInferShape(ge::InferActAndMulShape).SetInferDataType(paged_host::InferLikeFirstDataType);
    this->AICore().SetTiling(optiling::ActAndMulTilingFunc).AddConfig("ascend910b").AddConfig("ascend910_93");
  }
};

OP_ADD(ActAndMulCustom);

}  // namespace ops
