// The output of the ops that write into the caches: int32 [1], for later operators to depend on.
#pragma once

#include "register/op_def_registry.h"

namespace paged_host {

inline ge::graphStatus InferDoneShape(gert::InferShapeContext* context) {
  gert::Shape* done = context->GetOutputShape(0);
  if (done == nullptr) return ge::GRAPH_FAILED;
  done->SetDimNum(1);
  done->SetDim(0, 1);
  return ge::GRAPH_SUCCESS;
}

inline ge::graphStatus InferDoneDataType(gert::InferDataTypeContext* context) {
  return context->SetOutputDataType(0, ge::DT_INT32);
}

}  // namespace paged_host
