// copy_blocks as CANN sees it: types, shapes and tiling. The kernel is op_kernel/copy_blocks_custom.cpp.

#include "../op_kernel/copy_blocks_tiling.h"
#include "done_shape.h"
#include "host_checks.h"
#include "host_launch.h"
#include "register/op_def_registry.h"

namespace optiling {

static ge::graphStatus CopyBlocksTilingFunc(gert::TilingContext* context) {
  paged_host::Inputs inputs("copy_blocks", context);
  const paged_host::Pages pages = inputs.NextPages();
  const paged_host::Tensor pairs = inputs.NextInt32("pairs", 2);
  inputs.RequireShape(pairs, {pairs.shape[0], 2});
  inputs.Require(pairs.shape[0] <= paged_host::kMostInt32 / 2, "pairs has shape ", paged_host::ShapeText(pairs.shape),
                 ", at most ", paged_host::kMostInt32 / 2, " pairs are allowed");
  if (!inputs.ok()) return ge::GRAPH_FAILED;

  CopyBlocksShapes shapes;
  shapes.num_blocks = static_cast<uint32_t>(pages.num_blocks);
  shapes.block_bytes = static_cast<uint64_t>(pages.block_bytes());
  shapes.num_pairs = static_cast<uint32_t>(pairs.shape[0]);
  return paged_host::SetVectorLaunch(context,
                                     MakeCopyBlocksLaunch(shapes, paged_host::Platform(context).GetCoreNumAiv()));
}

}  // namespace optiling

namespace ops {

class CopyBlocksCustom : public OpDef {
 public:
  explicit CopyBlocksCustom(const char* name) : OpDef(name) {
    const std::vector<ge::DataType> cache = {ge::DT_FLOAT16, ge::DT_BF16, ge::DT_INT8};
    const std::vector<ge::DataType> index(3, ge::DT_INT32);
    const std::vector<ge::Format> format(3, ge::FORMAT_ND);
    this->Input("key_cache").ParamType(REQUIRED).DataType(cache).Format(format);
    this->Input("value_cache").ParamType(REQUIRED).DataType(cache).Format(format);
    this->Input("pairs").ParamType(REQUIRED).DataType(index).Format(format).AutoContiguous();
    this->Output("done").ParamType(REQUIRED).DataType(index).Format(format);
    this->SetInferShape(paged_host::InferDoneShape).SetInferDataType(paged_host::InferDoneDataType);
    this->AICore().SetTiling(optiling::CopyBlocksTilingFunc).AddConfig("ascend910b").AddConfig("ascend910_93");
  }
};

OP_ADD(CopyBlocksCustom);

}  // namespace ops
