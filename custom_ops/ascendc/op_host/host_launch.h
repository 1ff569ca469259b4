// How the tiling function of an op tells CANN what to launch. C++11, see host_checks.h.
#pragma once

#include <cstdint>

#include "register/op_def_registry.h"
#include "tiling/platform/platform_ascendc.h"

namespace paged_host {

inline platform_ascendc::PlatformAscendC Platform(gert::TilingContext* context) {
  return platform_ascendc::PlatformAscendC(context->GetPlatformInfo());
}

// `workspace_bytes` are the kernel's own; what Ascend C itself needs is added.
template <typename Tiling>
ge::graphStatus SetLaunch(gert::TilingContext* context, const Tiling& tiling, uint32_t block_dim,
                          uint64_t workspace_bytes, uint64_t tiling_key) {
  Tiling* target = context->GetTilingData<Tiling>();
  size_t* workspace = context->GetWorkspaceSizes(1);
  if (target == nullptr || workspace == nullptr) return ge::GRAPH_FAILED;
  *target = tiling;
  workspace[0] = Platform(context).GetLibApiWorkSpaceSize() + workspace_bytes;
  if (context->SetBlockDim(block_dim) != ge::GRAPH_SUCCESS) return ge::GRAPH_FAILED;
  return context->SetTilingKey(tiling_key);
}

// For an op with one kernel on the vector cores, which needs no workspace.
template <typename Launch>
ge::graphStatus SetVectorLaunch(gert::TilingContext* context, const Launch& launch) {
  return SetLaunch(context, launch.tiling, launch.block_dim, 0, 0);
}

}  // namespace paged_host
