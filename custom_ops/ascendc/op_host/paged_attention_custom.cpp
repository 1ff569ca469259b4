// paged_attention as CANN sees it: types, shapes and tiling. The kernel is op_kernel/paged_attention_custom.cpp.

#include "../op_kernel/paged_attention_tiling.h"
#include "../op_kernel/reshape_and_cache_tiling.h"
#include "host_checks.h"
#include "host_launch.h"
#include "register/op_def_registry.h"

namespace optiling {

static void RequireWidth(paged_host::Inputs& inputs, const char* name, int64_t num_heads, int64_t head_dim) {
  inputs.Require(num_heads * head_dim <= kPagedAttentionMaxWidth, name, " has ", num_heads, " heads of ", head_dim,
                 " numbers, together more than ", kPagedAttentionMaxWidth, ", which is as far as a copy can stride");
}

static void RequireHeads(paged_host::Inputs& inputs, int64_t num_heads, const paged_host::Pages& pages) {
  const int64_t num_kv_heads = pages.num_kv_heads > 0 ? pages.num_kv_heads : 1;
  inputs.Require(num_heads % num_kv_heads == 0, "query has ", num_heads, " heads, not a multiple of the ", num_kv_heads,
                 " KV heads of key_cache");
  inputs.Require(pages.head_dim % 16 == 0 && pages.head_dim <= kPagedAttentionMaxHeadDim, "head_dim ", pages.head_dim,
                 " is not supported: it must be a multiple of 16, at most ", kPagedAttentionMaxHeadDim);
  RequireWidth(inputs, "query", num_heads, pages.head_dim);
  RequireWidth(inputs, "key_cache", pages.num_kv_heads, pages.head_dim);
}

static ge::graphStatus PagedAttentionTilingFunc(gert::TilingContext* context) {
  paged_host::Inputs inputs("paged_attention", context);
  const paged_host::Tensor query = inputs.NextFloat("query", 3);
  const paged_host::Pages pages = inputs.NextPages();
  const paged_host::Tensor block_table = inputs.NextInt32("block_table", 2);
  const paged_host::Tensor rows = inputs.NextInt32("rows", 1);
  const paged_host::Tensor context_lens = inputs.NextInt32("context_lens", 1);
  const float* scale = inputs.Attribute<float>(0, "scale");
  const int64_t* window = inputs.Attribute<int64_t>(1, "window");
  const int64_t num_tokens = query.shape[0], num_heads = query.shape[1];
  inputs.RequireShape(query, {num_tokens, num_heads, pages.head_dim});
  inputs.RequireShape(rows, {num_tokens});
  inputs.RequireShape(context_lens, {num_tokens});
  inputs.Require(query.dtype == ge::DT_FLOAT || pages.is_int8() || query.dtype == pages.keys.dtype,
                 "query has another dtype than float32 and that of key_cache");
  RequireHeads(inputs, num_heads, pages);
  inputs.Require(window == nullptr || *window >= 0, "window ", window == nullptr ? 0 : *window,
                 " is negative, it must be the tokens seen, or 0 for all");
  inputs.RequireInt8Heads(pages, kInt8HeadDimStep, kInt8MaxHeadDim);
  if (!inputs.ok()) return ge::GRAPH_FAILED;

  PagedAttentionShapes shapes;
  shapes.num_tokens = static_cast<uint32_t>(num_tokens);
  shapes.num_heads = static_cast<uint32_t>(num_heads);
  shapes.num_kv_heads = static_cast<uint32_t>(pages.num_kv_heads);
  shapes.head_dim = static_cast<uint32_t>(pages.head_dim);
  shapes.num_blocks = static_cast<uint32_t>(pages.num_blocks);
  shapes.block_size = static_cast<uint32_t>(pages.block_size);
  shapes.num_rows = static_cast<uint32_t>(block_table.shape[0]);
  shapes.blocks_per_row = static_cast<uint32_t>(block_table.shape[1]);
  shapes.query_bytes = query.dtype == ge::DT_FLOAT ? 4 : 2;
  shapes.cache_bytes = pages.element_bytes();
  shapes.window = *window;
  shapes.scale = *scale;

  PagedAttentionCores cores;
  cores.vector_cores = paged_host::Platform(context).GetCoreNumAiv();
  cores.cube_cores = paged_host::Platform(context).GetCoreNumAic();
  const PagedAttentionLaunch launch = MakePagedAttentionLaunch(shapes, cores);
  const uint32_t group = launch.tiling.group;
  inputs.Require(group <= MaxGroup(launch.tiling.cut), "query has ", group, " heads for each KV head, at most ",
                 MaxGroup(launch.tiling.cut), " are supported");
  if (!inputs.ok()) return ge::GRAPH_FAILED;
  // The kernel waits for all its cores (SyncAll), so either all of them are started at once or none is.
  if (context->SetScheduleMode(1) != ge::GRAPH_SUCCESS) return ge::GRAPH_FAILED;
  return paged_host::SetLaunchWithWorkspace(context, launch);
}

}  // namespace optiling

namespace ge {

static graphStatus InferPagedAttentionShape(gert::InferShapeContext* context) {
  const gert::Shape* query = context->GetInputShape(0);
  gert::Shape* attention = context->GetOutputShape(0);
  if (query == nullptr || attention == nullptr) return GRAPH_FAILED;
  *attention = *query;
  return GRAPH_SUCCESS;
}

static graphStatus InferPagedAttentionDataType(gert::InferDataTypeContext* context) {
  return context->SetOutputDataType(0, context->GetInputDataType(0));
}

}  // namespace ge

namespace ops {

class PagedAttentionCustom : public OpDef {
 public:
  explicit PagedAttentionCustom(const char* name) : OpDef(name) {
    // One column is one compiled kernel: the type of the query and the output, that of the caches.
    const std::vector<ge::DataType> query = {ge::DT_FLOAT16, ge::DT_BF16, ge::DT_FLOAT, ge::DT_FLOAT,
                                             ge::DT_FLOAT16, ge::DT_BF16, ge::DT_FLOAT};
    const std::vector<ge::DataType> cache = {ge::DT_FLOAT16, ge::DT_BF16, ge::DT_FLOAT16, ge::DT_BF16,
                                             ge::DT_INT8,    ge::DT_INT8, ge::DT_INT8};
    const std::vector<ge::DataType> index(7, ge::DT_INT32);
    const std::vector<ge::Format> format(7, ge::FORMAT_ND);
    this->Input("query").ParamType(REQUIRED).DataType(query).Format(format).AutoContiguous();
    this->Input("key_cache").ParamType(REQUIRED).DataType(cache).Format(format);
    this->Input("value_cache").ParamType(REQUIRED).DataType(cache).Format(format);
    this->Input("block_table").ParamType(REQUIRED).DataType(index).Format(format).AutoContiguous();
    this->Input("rows").ParamType(REQUIRED).DataType(index).Format(format).AutoContiguous();
    this->Input("context_lens").ParamType(REQUIRED).DataType(index).Format(format).AutoContiguous();
    this->Output("attention").ParamType(REQUIRED).DataType(query).Format(format);
    this->Attr("scale").AttrType(REQUIRED).Float();
    this->Attr("window").AttrType(REQUIRED).Int();
    this->SetInferShape(ge::InferPagedAttentionShape).SetInferDataType(ge::InferPagedAttentionDataType);
    this->AICore().SetTiling(optiling::PagedAttentionTilingFunc).AddConfig("ascend910b").AddConfig("ascend910_93");
  }
};

OP_ADD(PagedAttentionCustom);

}  // namespace ops
