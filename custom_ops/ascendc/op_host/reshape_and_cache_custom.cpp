// reshape_and_cache as CANN sees it: types, shapes and tiling. The kernel is op_kernel/reshape_and_cache_custom.cpp.

#include "../op_kernel/reshape_and_cache_tiling.h"
#include "done_shape.h"
#include "host_checks.h"
#include "host_launch.h"
#include "register/op_def_registry.h"

namespace optiling {

static ge::graphStatus ReshapeAndCacheTilingFunc(gert::TilingContext* context) {
  paged_host::Inputs inputs("reshape_and_cache", context);
  const paged_host::Tensor key = inputs.NextFloat("key", 3);
  const paged_host::Tensor value = inputs.NextFloat("value", 3);
  const paged_host::Pages pages = inputs.NextPages();
  const paged_host::Tensor slot_mapping = inputs.NextInt32("slot_mapping", 1);
  const int64_t num_tokens = slot_mapping.shape[0];
  inputs.RequireShape(key, {num_tokens, pages.num_kv_heads, pages.head_dim});
  inputs.RequireShape(value, key.shape);
  inputs.RequireSameDType(value, key);
  inputs.RequireInt8Heads(pages, kInt8HeadDimStep, kInt8MaxHeadDim);
  if (!inputs.ok()) return ge::GRAPH_FAILED;

  ReshapeAndCacheShapes shapes;
  shapes.num_tokens = static_cast<uint32_t>(num_tokens);
  shapes.num_kv_heads = static_cast<uint32_t>(pages.num_kv_heads);
  shapes.head_dim = static_cast<uint32_t>(pages.head_dim);
  shapes.num_blocks = static_cast<uint32_t>(pages.num_blocks);
  shapes.block_size = static_cast<uint32_t>(pages.block_size);
  shapes.cache_bytes = pages.element_bytes();
  return paged_host::SetVectorLaunch(
      context, MakeReshapeAndCacheLaunch(shapes, paged_host::Platform(context).GetCoreNumAiv()));
}

}  // namespace optiling

namespace ops {

class ReshapeAndCacheCustom : public OpDef {
 public:
  explicit ReshapeAndCacheCustom(const char* name) : OpDef(name) {
    // One column is one compiled kernel: the type of the tokens, that of the caches.
    const std::vector<ge::DataType> token = {ge::DT_FLOAT16, ge::DT_BF16,    ge::DT_FLOAT,
                                             ge::DT_FLOAT16, ge::DT_BF16,    ge::DT_FLOAT,
                                             ge::DT_FLOAT16, ge::DT_BF16,    ge::DT_FLOAT};
    const std::vector<ge::DataType> cache = {ge::DT_FLOAT16, ge::DT_FLOAT16, ge::DT_FLOAT16,
                                             ge::DT_BF16,    ge::DT_BF16,    ge::DT_BF16,
                                             ge::DT_INT8,    ge::DT_INT8,    ge::DT_INT8};
    const std::vector<ge::DataType> index(9, ge::DT_INT32);
    const std::vector<ge::Format> format(9, ge::FORMAT_ND);
    this->Input("key").ParamType(REQUIRED).DataType(token).Format(format).AutoContiguous();
    this->Input("value").ParamType(REQUIRED).DataType(token).Format(format).AutoContiguous();
    this->Input("key_cache").ParamType(REQUIRED).DataType(cache).Format(format);
    this->Input("value_cache").ParamType(REQUIRED).DataType(cache).Format(format);
    this->Input("slot_mapping").ParamType(REQUIRED).DataType(index).Format(format).AutoContiguous();
    this->Output("done").ParamType(REQUIRED).DataType(index).Format(format);
    this->SetInferShape(paged_host::InferDoneShape).SetInferDataType(paged_host::InferDoneDataType);
    this->AICore()
        .SetTiling(optiling::ReshapeAndCacheTilingFunc)
        .AddConfig("ascend910b")
        .AddConfig("ascend910_93");
  }
};

OP_ADD(ReshapeAndCacheCustom);

}  // namespace ops
