// An output of the shape, or the type alone, of an op's first input.
#pragma once

#include "register/op_def_registry.h"

namespace paged_host {

inline ge::graphStatus InferLikeFirstShape(gert::InferShapeContext* context) {
  const gert::Shape* first = context->GetInputShape(0);
  gert::Shape* output = context->GetOutputShape(0);
  if (first == nullptr || output == nullptr) return ge::GRAPH_FAILED;
  *output = *first;
  return ge::GRAPH_SUCCESS;
}

inline ge::graphStatus InferLikeFirstDataType(gert::InferDataTypeContext* context) {
  return context->SetOutputDataType(0, context->GetInputDataType(0));
}

}  // namespace paged_host
