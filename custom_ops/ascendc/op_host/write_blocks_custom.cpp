// write_blocks as CANN sees it: types, shapes and tiling. The kernel is op_kernel/write_blocks_custom.cpp.

#include "../op_kernel/write_blocks_tiling.h"
#include "done_shape.h"
#include "host_checks.h"
#include "host_launch.h"
#include "register/op_def_registry.h"

namespace optiling {

static ge::graphStatus WriteBlocksTilingFunc(gert::TilingContext* context) {
  paged_host::Inputs inputs("write_blocks", context);
  const paged_host::Pages caches = inputs.NextPages();
  const paged_host::Tensor pages = inputs.Next("pages", 6);
  const paged_host::Tensor block_ids = inputs.NextInt32("block_ids", 1);
  const int64_t* layer = inputs.Attribute<int64_t>(0, "layer");
  const int64_t num_layers = pages.shape[0];
  inputs.RequireSameDType(pages, caches.keys);
  inputs.RequireShape(
      pages, {num_layers, 2, block_ids.shape[0], caches.block_size, caches.num_kv_heads, caches.keys.shape[3]});
  if (!inputs.ok()) return ge::GRAPH_FAILED;
  inputs.Require(*layer >= 0 && *layer < num_layers, "layer ", *layer, " is outside [0, ", num_layers, ")");
  if (!inputs.ok()) return ge::GRAPH_FAILED;

  WriteBlocksShapes shapes;
  shapes.num_blocks = static_cast<uint32_t>(caches.num_blocks);
  shapes.block_bytes = static_cast<uint64_t>(caches.block_bytes());
  shapes.num_ids = static_cast<uint32_t>(block_ids.shape[0]);
  shapes.layer = static_cast<uint32_t>(*layer);
  return paged_host::SetVectorLaunch(context,
                                     MakeWriteBlocksLaunch(shapes, paged_host::Platform(context).GetCoreNumAiv()));
}

}  // namespace optiling

namespace ops {

class WriteBlocksCustom : public OpDef {
 public:
  explicit WriteBlocksCustom(const char* name) : OpDef(name) {
    const std::vector<ge::DataType> cache = {ge::DT_FLOAT16, ge::DT_BF16, ge::DT_INT8};
    const std::vector<ge::DataType> index(3, ge::DT_INT32);
    const std::vector<ge::Format> format(3, ge::FORMAT_ND);
    this->Input("key_cache").ParamType(REQUIRED).DataType(cache).Format(format);
    this->Input("value_cache").ParamType(REQUIRED).DataType(cache).Format(format);
    this->Input("pages").ParamType(REQUIRED).DataType(cache).Format(format).AutoContiguous();
    this->Input("block_ids").ParamType(REQUIRED).DataType(index).Format(format).AutoContiguous();
    this->Output("done").ParamType(REQUIRED).DataType(index).Format(format);
    this->Attr("layer").AttrType(REQUIRED).Int();
    this->SetInferShape(paged_host::InferDoneShape).SetInferDataType(paged_host::InferDoneDataType);
    this->AICore().SetTiling(optiling::WriteBlocksTilingFunc).AddConfig("ascend910b").AddConfig("ascend910_93");
  }
};

OP_ADD(WriteBlocksCustom);

}  // namespace ops
