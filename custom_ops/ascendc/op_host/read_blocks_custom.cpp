// read_blocks as CANN sees it: types, shapes and tiling. The kernel is op_kernel/read_blocks_custom.cpp.

#include "../op_kernel/read_blocks_tiling.h"
#include "host_checks.h"
#include "host_launch.h"
#include "register/op_def_registry.h"

namespace optiling {

static ge::graphStatus ReadBlocksTilingFunc(gert::TilingContext* context) {
  paged_host::Inputs inputs("read_blocks", context);
  const paged_host::Pages pages = inputs.NextPages();
  const paged_host::Tensor block_ids = inputs.NextInt32("block_ids", 1);
  if (!inputs.ok()) return ge::GRAPH_FAILED;

  ReadBlocksShapes shapes;
  shapes.num_blocks = static_cast<uint32_t>(pages.num_blocks);
  shapes.block_bytes = static_cast<uint64_t>(pages.block_bytes());
  shapes.num_ids = static_cast<uint32_t>(block_ids.shape[0]);
  return paged_host::SetVectorLaunch(context,
                                     MakeReadBlocksLaunch(shapes, paged_host::Platform(context).GetCoreNumAiv()));
}

}  // namespace optiling

namespace ge {

// [2, P, BS, K, D] of the caches' type.
static graphStatus InferReadBlocksShape(gert::InferShapeContext* context) {
  const gert::Shape* cache = context->GetInputShape(0);
  const gert::Shape* block_ids = context->GetInputShape(2);
  gert::Shape* pages = context->GetOutputShape(0);
  if (cache == nullptr || block_ids == nullptr || pages == nullptr) return GRAPH_FAILED;
  pages->SetDimNum(0);
  pages->AppendDim(2);
  pages->AppendDim(block_ids->GetDim(0));
  for (size_t i = 1; i < cache->GetDimNum(); ++i) pages->AppendDim(cache->GetDim(i));
  return GRAPH_SUCCESS;
}

static graphStatus InferReadBlocksDataType(gert::InferDataTypeContext* context) {
  return context->SetOutputDataType(0, context->GetInputDataType(0));
}

}  // namespace ge

namespace ops {

class ReadBlocksCustom : public OpDef {
 public:
  explicit ReadBlocksCustom(const char* name) : OpDef(name) {
    const std::vector<ge::DataType> cache = {ge::DT_FLOAT16, ge::DT_BF16, ge::DT_INT8};
    const std::vector<ge::DataType> index(3, ge::DT_INT32);
    const std::vector<ge::Format> format(3, ge::FORMAT_ND);
    this->Input("key_cache").ParamType(REQUIRED).DataType(cache).Format(format);
    this->Input("value_cache").ParamType(REQUIRED).DataType(cache).Format(format);
    this->Input("block_ids").ParamType(REQUIRED).DataType(index).Format(format).AutoContiguous();
    this->Output("pages").ParamType(REQUIRED).DataType(cache).Format(format);
    this->SetInferShape(ge::InferReadBlocksShape).SetInferDataType(ge::InferReadBlocksDataType);
    this->AICore().SetTiling(optiling::ReadBlocksTilingFunc).AddConfig("ascend910b").AddConfig("ascend910_93");
  }
};

OP_ADD(ReadBlocksCustom);

}  // namespace ops
