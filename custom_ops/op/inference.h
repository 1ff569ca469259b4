// The shape and the type of each op's output, for graphs that know no Python: those loaded from a MindIR.
//
// MindSpore looks for <Op>InferShape and <Op>InferType beside <Op>. A dimension that is not known yet is -1. Types are
// MindSpore's TypeId, an enum over int, passed on as they come; the tensors stand in the order of the op's own, scalars are left out.
#pragma once

#include <cstdint>
#include <vector>

#define PAGED_OPS_INFERENCE(op, shape_of_output, input_of_output_type)                                         \
  extern "C" __attribute__((visibility("default"))) std::vector<int64_t> op##InferShape(int* ndims,            \
                                                                                        int64_t** shapes, void*) { \
    return shape_of_output(ndims, shapes);                                                                     \
  }                                                                                                            \
  extern "C" __attribute__((visibility("default"))) int op##InferType(std::vector<int> types, void*) {         \
    return types.at(input_of_output_type);                                                                     \
  }

namespace paged_ops {

using Shape = std::vector<int64_t>;

// What a writer returns is there to be depended on.
inline Shape ShapeOfDone(int*, int64_t**) { return {1}; }

inline Shape ShapeOfQuery(int* ndims, int64_t** shapes) { return Shape(shapes[0], shapes[0] + ndims[0]); }

// key_cache [NB, BS, K, D], value_cache, block_ids [P] -> [2, P, BS, K, D]; of several layers [L, NB, …] -> [L, 2, P, …].
// The op itself refuses other shapes.
inline Shape ShapeOfPages(int* ndims, int64_t** shapes) {
  const int64_t* cache = shapes[0];
  const int of_layers = ndims[0] == 5 ? 1 : 0;
  Shape pages(cache, cache + of_layers);
  pages.insert(pages.end(), {2, ndims[2] > 0 ? shapes[2][0] : 1});
  for (int axis = of_layers + 1; axis < ndims[0]; ++axis) pages.push_back(cache[axis]);
  return pages;
}

}  // namespace paged_ops

PAGED_OPS_INFERENCE(ReshapeAndCache, paged_ops::ShapeOfDone, 4)   // of slot_mapping
PAGED_OPS_INFERENCE(PagedAttention, paged_ops::ShapeOfQuery, 0)   // of query
PAGED_OPS_INFERENCE(CopyBlocks, paged_ops::ShapeOfDone, 2)        // of pairs
PAGED_OPS_INFERENCE(ReadBlocks, paged_ops::ShapeOfPages, 0)       // of key_cache
PAGED_OPS_INFERENCE(WriteBlocks, paged_ops::ShapeOfDone, 3)       // of block_ids
