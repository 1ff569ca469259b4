// fused_add_rms_norm as CANN sees it: types, shapes and tiling. The kernel is op_kernel/fused_add_rms_norm_custom.cpp.

#include "../op_kernel/fused_add_rms_norm_tiling.h"
#include "host_checks.h"
#include "host_launch.h"
#include "like_first_input.h"
#include "register/op_def_registry.h"

namespace optiling {

static ge::graphStatus FusedAddRmsNormTilingFunc(gert::TilingContext* context) {
  paged_host::Inputs inputs("fused_add_rms_norm", context);
  const paged_host::Tensor x = inputs.NextFloat("x", 2);
  const paged_host::Tensor added = inputs.NextFloat("added", 2);
  const paged_host::Tensor added_weight = inputs.NextFloat("added_weight", 1);
  const paged_host::Tensor weight = inputs.NextFloat("weight", 1);
  const float* epsilon = inputs.Attribute<float>(0, "epsilon");
  const float* residual_scale = inputs.Attribute<float>(1, "residual_scale");
  const int64_t* options = inputs.Attribute<int64_t>(2, "options");
  const int64_t width = x.shape[1];
  inputs.RequireShape(added, x.shape);
  inputs.RequireShape(added_weight, {width});
  inputs.RequireShape(weight, {width});
  inputs.RequireSameDType(added, x);
  inputs.RequireSameDType(added_weight, x);
  inputs.RequireSameDType(weight, x);
  inputs.RequireMultiple("the width of x", width, kNormWidthStep, kNormMostWidth);
  inputs.RequireChoice("options", options, 4);
  if (!inputs.ok()) return ge::GRAPH_FAILED;

  FusedAddRmsNormTiling tiling;
  tiling.num_tokens = static_cast<uint32_t>(x.shape[0]);
  tiling.width = static_cast<uint32_t>(width);
  tiling.options = static_cast<uint32_t>(*options);
  tiling.epsilon = *epsilon;
  tiling.residual_scale = *residual_scale;
  return paged_host::SetVectorLaunch(
      context, MakeFusedAddRmsNormLaunch(tiling, paged_host::Platform(context).GetCoreNumAiv()));
}

}  // namespace optiling

namespace ops {

class FusedAddRmsNormCustom : public OpDef {
 public:
  explicit FusedAddRmsNormCustom(const char* name) : OpDef(name) {
    // One column is one compiled kernel.
    const std::vector<ge::DataType> type = {ge::DT_FLOAT16, ge::DT_BF16, ge::DT_FLOAT};
    const std::vector<ge::Format> format(3, ge::FORMAT_ND);
    this->Input("x").ParamType(REQUIRED).DataType(type).Format(format);
    this->Input("added").ParamType(REQUIRED).DataType(type).Format(format);
    this->Input("added_weight").ParamType(REQUIRED).DataType(type).Format(format);
    this->Input("weight").ParamType(REQUIRED).DataType(type).Format(format);
    this->Output("normed").ParamType(REQUIRED).DataType(type).Format(format);
    this->Attr("epsilon").AttrType(REQUIRED).Float();
    this->Attr("residual_scale").AttrType(REQUIRED).Float();
    this->Attr("options").AttrType(REQUIRED).Int();
    this->SetInferShape(paged_host::InferLikeFirstShape).SetInferDataType(paged_host::InferLikeFirstDataType);
    this->AICore().SetTiling(optiling::FusedAddRmsNormTilingFunc).AddConfig("ascend910b").AddConfig("ascend910_93");
  }
};

OP_ADD(FusedAddRmsNormCustom);

}  // namespace ops
