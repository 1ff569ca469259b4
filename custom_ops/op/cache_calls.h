// The arguments of the ops that move keys and values in and out of the pages, checked.
#pragma once

#include "op/aot_op.h"

namespace paged_ops {

constexpr char kReshapeAndCache[] = "reshape_and_cache";
constexpr char kCopyBlocks[] = "copy_blocks";
constexpr char kReadBlocks[] = "read_blocks";
constexpr char kWriteBlocks[] = "write_blocks";

struct ReshapeAndCacheCall {
  Tensor key;
  Tensor value;
  Pages pages;
  Tensor slot_mapping;
  Tensor output;

  int64_t num_tokens() const { return slot_mapping.shape[0]; }
};

struct CopyBlocksCall {
  PagesOfLayers pages;
  Tensor pairs;
  Tensor output;

  int64_t num_pairs() const { return pairs.shape[0]; }
};

struct ReadBlocksCall {
  PagesOfLayers pages;
  Tensor block_ids;
  Tensor output;

  int64_t num_ids() const { return block_ids.shape[0]; }
};

struct WriteBlocksCall {
  PagesOfLayers caches;
  Tensor pages;
  Tensor block_ids;
  int64_t layer;  // whose pages the first of the caches is given
  Tensor output;

  int64_t num_ids() const { return block_ids.shape[0]; }
};

inline int64_t BlockBytes(const Pages& pages) {
  return pages.block_stride() * ByteSize(pages.keys.dtype);
}

inline void RequireSlots(const char* op, const Tensor& slot_mapping, int64_t num_slots) {
  const int32_t* slots = slot_mapping.as<int32_t>();
  for (int64_t t = 0; t < slot_mapping.shape[0]; ++t) {
    if (slots[t] < -1 || slots[t] >= num_slots) {
      Refuse(op, "token ", t, ": slot ", slots[t], " is outside [-1, ", num_slots, ")");
    }
  }
}

inline void RequirePairs(const Tensor& pairs, int64_t num_blocks) {
  const int32_t* ids = pairs.as<int32_t>();
  for (int64_t p = 0; p < pairs.shape[0]; ++p) {
    if (ids[2 * p] == -1 && ids[2 * p + 1] == -1) continue;
    for (int side = 0; side < 2; ++side) {
      const int32_t id = ids[2 * p + side];
      if (id < 0 || id >= num_blocks) {
        Refuse(kCopyBlocks, "pair ", p, ": ", side ? "destination" : "source", " block ", id, " is outside [0, ",
               num_blocks, ")");
      }
    }
  }
}

// Each of the ids is in [lowest, num_blocks).
inline void RequireBlockIds(const char* op, const Tensor& block_ids, int32_t lowest, int64_t num_blocks) {
  for (int64_t p = 0; p < block_ids.shape[0]; ++p) {
    const int32_t id = block_ids.as<int32_t>()[p];
    if (id < lowest || id >= num_blocks) {
      Refuse(op, "place ", p, ": block ", id, " is outside [", lowest, ", ", num_blocks, ")");
    }
  }
}

inline ReshapeAndCacheCall ParseReshapeAndCache(Arguments arguments) {
  const Tensor key = arguments.NextFloat("key", 3);
  const Tensor value = arguments.NextFloat("value", 3);
  const Pages pages = NextPages(kReshapeAndCache, arguments);
  const Tensor slot_mapping = arguments.NextInt32("slot_mapping", 1);
  const Tensor output = arguments.NextInt32("output", 1);

  const int64_t num_tokens = slot_mapping.shape[0];
  RequireShape(kReshapeAndCache, key, {num_tokens, pages.num_kv_heads, pages.head_dim});
  RequireShape(kReshapeAndCache, value, {num_tokens, pages.num_kv_heads, pages.head_dim});
  RequireSameDType(kReshapeAndCache, value, key);
  RequireShape(kReshapeAndCache, output, {1});
  RequireSlots(kReshapeAndCache, slot_mapping, pages.num_blocks * pages.block_size);
  return {key, value, pages, slot_mapping, output};
}

inline CopyBlocksCall ParseCopyBlocks(Arguments arguments) {
  const PagesOfLayers pages = NextPagesOfLayers(kCopyBlocks, arguments);
  const Tensor pairs = arguments.NextInt32("pairs", 2);
  const Tensor output = arguments.NextInt32("output", 1);
  RequireShape(kCopyBlocks, pairs, {pairs.shape[0], 2});
  RequireShape(kCopyBlocks, output, {1});
  RequirePairs(pairs, pages.first.num_blocks);
  return {pages, pairs, output};
}

inline ReadBlocksCall ParseReadBlocks(Arguments arguments) {
  const PagesOfLayers pages = NextPagesOfLayers(kReadBlocks, arguments);
  const Tensor block_ids = arguments.NextInt32("block_ids", 1);
  const int rank = pages.of_several ? 6 : 5;
  const Tensor output = arguments.NextCache("output", rank);
  const Pages& first = pages.first;
  const int64_t shape[] = {pages.num_layers, 2, block_ids.shape[0], first.block_size, first.num_kv_heads,
                           first.keys.shape[3]};
  RequireShape(kReadBlocks, output, pages.of_several ? shape : shape + 1, rank);
  RequireSameDType(kReadBlocks, output, first.keys);
  RequireBlockIds(kReadBlocks, block_ids, 0, first.num_blocks);
  return {pages, block_ids, output};
}

inline WriteBlocksCall ParseWriteBlocks(Arguments arguments) {
  const PagesOfLayers caches = NextPagesOfLayers(kWriteBlocks, arguments);
  const Pages& first = caches.first;
  const Tensor pages = arguments.NextCache("pages", 6);
  const Tensor block_ids = arguments.NextInt32("block_ids", 1);
  const int64_t layer = arguments.Next("layer", 0, {DType::kInt64}).as<int64_t>()[0];
  const Tensor output = arguments.NextInt32("output", 1);
  const int64_t num_layers = pages.shape[0];
  RequireShape(kWriteBlocks, pages,
               {num_layers, 2, block_ids.shape[0], first.block_size, first.num_kv_heads, first.keys.shape[3]});
  RequireShape(kWriteBlocks, output, {1});
  RequireSameDType(kWriteBlocks, pages, first.keys);
  const int64_t end = num_layers - caches.num_layers + 1;
  if (layer < 0 || layer >= end) Refuse(kWriteBlocks, "layer ", layer, " is outside [0, ", end, ")");
  RequireBlockIds(kWriteBlocks, block_ids, -1, first.num_blocks);
  return {caches, pages, block_ids, layer, output};
}

}  // namespace paged_ops
