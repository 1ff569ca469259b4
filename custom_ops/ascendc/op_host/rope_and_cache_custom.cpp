// rope_and_cache as CANN sees it: types, shapes and tiling. The kernel is op_kernel/rope_and_cache_custom.cpp.

#include "../op_kernel/reshape_and_cache_tiling.h"
#include "../op_kernel/rope_and_cache_tiling.h"
#include "host_checks.h"
#include "host_launch.h"
#include "like_first_input.h"
#include "register/op_def_registry.h"

namespace optiling {

static ge::graphStatus RopeAndCacheTilingFunc(gert::TilingContext* context) {
  paged_host::Inputs inputs("rope_and_cache", context);
  const paged_host::Tensor qkv = inputs.NextFloat("qkv", 2);
  const paged_host::Tensor bias = inputs.NextFloat("bias", 1);
  const paged_host::Tensor head_norms = inputs.NextFloat("head_norms", 2);
  const paged_host::Tensor rotation = inputs.Next("rotation", 2);
  const paged_host::Pages pages = inputs.NextPages();
  const paged_host::Tensor slot_mapping = inputs.NextInt32("slot_mapping", 1);
  const float* epsilon = inputs.Attribute<float>(0, "epsilon");
  const int64_t* options = inputs.Attribute<int64_t>(1, "options");
  if (!inputs.ok()) return ge::GRAPH_FAILED;

  const int64_t num_tokens = slot_mapping.shape[0], width = qkv.shape[1];
  const int64_t num_heads = width / pages.head_dim - 2 * pages.num_kv_heads;
  inputs.Require(num_heads > 0 && num_heads % pages.num_kv_heads == 0 && width % pages.head_dim == 0, "qkv has ", width,
                 " columns, no queries beside keys and values of ", pages.num_kv_heads, " KV heads of ",
                 pages.head_dim);
  inputs.RequireShape(qkv, {num_tokens, width});
  inputs.RequireShape(bias, {width});
  inputs.RequireShape(head_norms, {2, pages.head_dim});
  inputs.RequireShape(rotation, {num_tokens, rotation.shape[1]});
  inputs.RequireSameDType(bias, qkv);
  inputs.RequireSameDType(head_norms, qkv);
  inputs.Require(rotation.dtype == ge::DT_FLOAT, "rotation has another dtype than float32");
  inputs.RequireInt8Heads(pages, kInt8HeadDimStep, kInt8MaxHeadDim);
  inputs.RequireMultiple("head_dim", pages.head_dim, kRopeHeadDimStep, kRopeMostHeadDim);
  inputs.RequireMultiple("the width of rotation", rotation.shape[1], kRopeRotatedStep, pages.head_dim);
  inputs.RequireChoice("options", options, 8);
  if (!inputs.ok()) return ge::GRAPH_FAILED;

  RopeAndCacheShapes shapes;
  shapes.num_tokens = static_cast<uint32_t>(num_tokens);
  shapes.num_heads = static_cast<uint32_t>(num_heads);
  shapes.num_kv_heads = static_cast<uint32_t>(pages.num_kv_heads);
  shapes.head_dim = static_cast<uint32_t>(pages.head_dim);
  shapes.rotated = static_cast<uint32_t>(rotation.shape[1]);
  shapes.num_blocks = static_cast<uint32_t>(pages.num_blocks);
  shapes.block_size = static_cast<uint32_t>(pages.block_size);
  shapes.options = static_cast<uint32_t>(*options);
  shapes.epsilon = *epsilon;
  return paged_host::SetVectorLaunch(context,
                                     MakeRopeAndCacheLaunch(shapes, paged_host::Platform(context).GetCoreNumAiv()));
}

}  // namespace optiling

namespace ge {

// head_norms tells head_dim: the caches, of int8, have it with room for a scale.
static graphStatus InferRopeAndCacheShape(gert::InferShapeContext* context) {
  const gert::Shape* qkv = context->GetInputShape(0);
  const gert::Shape* head_norms = context->GetInputShape(2);
  const gert::Shape* key_cache = context->GetInputShape(4);
  gert::Shape* query = context->GetOutputShape(0);
  if (qkv == nullptr || head_norms == nullptr || key_cache == nullptr || query == nullptr) return GRAPH_FAILED;
  if (qkv->GetDimNum() != 2 || head_norms->GetDimNum() != 2 || key_cache->GetDimNum() != 4) return GRAPH_FAILED;
  const int64_t head_dim = head_norms->GetDim(1);
  if (head_dim <= 0) return GRAPH_FAILED;
  query->SetDimNum(3);
  query->SetDim(0, qkv->GetDim(0));
  query->SetDim(1, qkv->GetDim(1) / head_dim - 2 * key_cache->GetDim(2));
  query->SetDim(2, head_dim);
  return GRAPH_SUCCESS;
}

}  // namespace ge

namespace ops {

class RopeAndCacheCustom : public OpDef {
 public:
  explicit RopeAndCacheCustom(const char* name) : OpDef(name) {
    // One column is one compiled kernel: the type of the tokens, that of the caches.
    const std::vector<ge::DataType> token = {ge::DT_FLOAT16, ge::DT_BF16,    ge::DT_FLOAT,
                                             ge::DT_FLOAT16, ge::DT_BF16,    ge::DT_FLOAT,
                                             ge::DT_FLOAT16, ge::DT_BF16,    ge::DT_FLOAT};
    const std::vector<ge::DataType> cache = {ge::DT_FLOAT16, ge::DT_FLOAT16, ge::DT_FLOAT16,
                                             ge::DT_BF16,    ge::DT_BF16,    ge::DT_BF16,
                                             ge::DT_INT8,    ge::DT_INT8,    ge::DT_INT8};
    const std::vector<ge::DataType> index(9, ge::DT_INT32);
    const std::vector<ge::DataType> angle(9, ge::DT_FLOAT);
    const std::vector<ge::Format> format(9, ge::FORMAT_ND);
    this->Input("qkv").ParamType(REQUIRED).DataType(token).Format(format);
    this->Input("bias").ParamType(REQUIRED).DataType(token).Format(format);
    this->Input("head_norms").ParamType(REQUIRED).DataType(token).Format(format);
    this->Input("rotation").ParamType(REQUIRED).DataType(angle).Format(format);
    this->Input("key_cache").ParamType(REQUIRED).DataType(cache).Format(format);
    this->Input("value_cache").ParamType(REQUIRED).DataType(cache).Format(format);
    this->Input("slot_mapping").ParamType(REQUIRED).DataType(index).Format(format);
    this->Output("query").ParamType(REQUIRED).DataType(token).Format(format);
    this->Attr("epsilon").AttrType(REQUIRED).Float();
    this->Attr("options").AttrType(REQUIRED).Int();
    this->SetInferShape(ge::InferRopeAndCacheShape).SetInferDataType(paged_host::InferLikeFirstDataType);
    this->AICore().SetTiling(optiling::RopeAndCacheTilingFunc).AddConfig("ascend910b").AddConfig("ascend910_93");
  }
};

OP_ADD(RopeAndCacheCustom);

}  // namespace ops
