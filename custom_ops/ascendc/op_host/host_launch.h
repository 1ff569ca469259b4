// How the tiling function of an op tells CANN what to launch. C++11, see host_checks.h.
#pragma once

#include <cstdint>

#include "register/op_def_registry.h"
#include "tiling/platform/platform_ascendc.h"

namespace paged_host {

inline platform_ascendc::PlatformAscendC Platform(gert::TilingContext* context) {
  return platform_ascendc::PlatformAscendC(context->GetPlatformInfo());
}

// CANN 9 calls the number of blocks SetSimdNumBlocks and means to take SetBlockDim away, which CANN 8 knows alone: the
// first of these that can be compiled is called, the last argument being a better match for the earlier ones.
template <typename Context>
auto SetNumBlocks(Context* context, uint32_t number, int) -> decltype(context->SetSimdNumBlocks(number)) {
  return context->SetSimdNumBlocks(number);
}
template <typename Context>
auto SetNumBlocks(Context* context, uint32_t number, long) -> decltype(context->SetBlockDim(number)) {
  return context->SetBlockDim(number);
}

// `workspace_bytes` are all that the launch has.
template <typename Tiling>
ge::graphStatus SetLaunch(gert::TilingContext* context, const Tiling& tiling, uint32_t num_blocks,
                          uint64_t workspace_bytes, uint64_t tiling_key) {
  Tiling* target = context->GetTilingData<Tiling>();
  size_t* workspace = context->GetWorkspaceSizes(1);
  if (target == nullptr || workspace == nullptr) return ge::GRAPH_FAILED;
  *target = tiling;
  workspace[0] = workspace_bytes;
  if (SetNumBlocks(context, num_blocks, 0) != ge::GRAPH_SUCCESS) return ge::GRAPH_FAILED;
  return context->SetTilingKey(tiling_key);
}

// For a kernel that asks for its workspace by GetUserWorkspace: that lies behind what Ascend C keeps for itself.
template <typename Launch>
ge::graphStatus SetLaunchWithWorkspace(gert::TilingContext* context, const Launch& launch) {
  const uint64_t of_ascend_c = Platform(context).GetLibApiWorkSpaceSize();
  return SetLaunch(context, launch.tiling, launch.block_dim, of_ascend_c + launch.workspace_bytes, launch.tiling_key);
}

// For an op with one kernel on the vector cores, which has no workspace and calls nothing of Ascend C that needs one.
template <typename Launch>
ge::graphStatus SetVectorLaunch(gert::TilingContext* context, const Launch& launch) {
  return SetLaunch(context, launch.tiling, launch.block_dim, 0, 0);
}

}  // namespace paged_host
