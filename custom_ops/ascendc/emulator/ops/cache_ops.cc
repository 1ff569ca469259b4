// The ops that move keys and values in and out of the pages, on the emulated chip.

#include "../../op_kernel/copy_blocks_tiling.h"
#include "../../op_kernel/read_blocks_tiling.h"
#include "../../op_kernel/reshape_and_cache_tiling.h"
#include "../../op_kernel/write_blocks_tiling.h"
#include "emulated_call.h"
#include "op/cache_calls.h"

#define RESHAPE_AND_CACHE_KERNEL(types)                                                             \
  void reshape_and_cache_custom_##types(uint8_t* key, uint8_t* value, uint8_t* key_cache, uint8_t* value_cache, \
                                        uint8_t* slot_mapping, uint8_t* done, uint8_t* workspace, uint8_t* tiling)
#define BLOCKS_KERNEL(name)                                                                        \
  void name(uint8_t* key_cache, uint8_t* value_cache, uint8_t* ids, uint8_t* output, uint8_t* workspace, uint8_t* tiling)
#define WRITE_BLOCKS_KERNEL(name)                                                                                  \
  void name(uint8_t* key_cache, uint8_t* value_cache, uint8_t* pages, uint8_t* block_ids, uint8_t* done,            \
            uint8_t* workspace, uint8_t* tiling)
extern "C" {
RESHAPE_AND_CACHE_KERNEL(float_half);
RESHAPE_AND_CACHE_KERNEL(float_bfloat16_t);
RESHAPE_AND_CACHE_KERNEL(float_int8_t);
RESHAPE_AND_CACHE_KERNEL(half_half);
RESHAPE_AND_CACHE_KERNEL(half_bfloat16_t);
RESHAPE_AND_CACHE_KERNEL(half_int8_t);
RESHAPE_AND_CACHE_KERNEL(bfloat16_t_half);
RESHAPE_AND_CACHE_KERNEL(bfloat16_t_bfloat16_t);
RESHAPE_AND_CACHE_KERNEL(bfloat16_t_int8_t);
BLOCKS_KERNEL(copy_blocks_custom_half);
BLOCKS_KERNEL(copy_blocks_custom_bfloat16_t);
BLOCKS_KERNEL(copy_blocks_custom_int8_t);
BLOCKS_KERNEL(read_blocks_custom_half);
BLOCKS_KERNEL(read_blocks_custom_bfloat16_t);
BLOCKS_KERNEL(read_blocks_custom_int8_t);
WRITE_BLOCKS_KERNEL(write_blocks_custom_half);
WRITE_BLOCKS_KERNEL(write_blocks_custom_bfloat16_t);
WRITE_BLOCKS_KERNEL(write_blocks_custom_int8_t);
}

namespace paged_ops {
namespace {

constexpr auto kVectorOnly = ascendc_emulator::KernelType::kAivOnly;

// Of three functions, the one for the caches' type.
template <typename Kernel>
Kernel OfCacheType(const Pages& pages, Kernel half, Kernel bfloat16, Kernel int8) {
  if (pages.keys.dtype == DType::kInt8) return int8;
  return pages.keys.dtype == DType::kFloat16 ? half : bfloat16;
}

auto KernelOf(const ReshapeAndCacheCall& call) {
  switch (call.key.dtype) {
    case DType::kFloat32:
      return OfCacheType(call.pages, reshape_and_cache_custom_float_half, reshape_and_cache_custom_float_bfloat16_t,
                         reshape_and_cache_custom_float_int8_t);
    case DType::kFloat16:
      return OfCacheType(call.pages, reshape_and_cache_custom_half_half, reshape_and_cache_custom_half_bfloat16_t,
                         reshape_and_cache_custom_half_int8_t);
    default:
      return OfCacheType(call.pages, reshape_and_cache_custom_bfloat16_t_half,
                         reshape_and_cache_custom_bfloat16_t_bfloat16_t, reshape_and_cache_custom_bfloat16_t_int8_t);
  }
}

// The chip's kernels take a layer at a time.
const Pages& OneLayer(const char* op, const PagesOfLayers& pages) {
  if (pages.of_several) Refuse(op, "key_cache has a dimension of layers, this backend takes one layer at a time");
  return pages.first;
}

ReshapeAndCacheShapes ShapesOf(const ReshapeAndCacheCall& call) {
  ReshapeAndCacheShapes shapes;
  shapes.num_tokens = static_cast<uint32_t>(call.num_tokens());
  shapes.num_kv_heads = static_cast<uint32_t>(call.pages.num_kv_heads);
  shapes.head_dim = static_cast<uint32_t>(call.pages.head_dim);
  shapes.num_blocks = static_cast<uint32_t>(call.pages.num_blocks);
  shapes.block_size = static_cast<uint32_t>(call.pages.block_size);
  shapes.cache_bytes = static_cast<uint32_t>(ByteSize(call.pages.keys.dtype));
  return shapes;
}

}  // namespace
}  // namespace paged_ops

PAGED_OPS_EXPORT int ReshapeAndCache(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                     void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  const ReshapeAndCacheCall call =
      ParseReshapeAndCache(Arguments(kReshapeAndCache, 6, nparam, params, ndims, shapes, dtypes));
  RequireNarrowCache(kReshapeAndCache, call.pages);
  RequireInt8Heads(kReshapeAndCache, call.pages);
  const ReshapeAndCacheLaunch launch = MakeReshapeAndCacheLaunch(ShapesOf(call), Chip().vector_cores);
  const GmBuffer key = Input(call.key), value = Input(call.value), keys = InOut(call.pages.keys),
                 values = InOut(call.pages.values), slots = Input(call.slot_mapping), done = Output(call.output);
  RunKernel(kReshapeAndCache, kVectorOnly, launch.block_dim, 0, 0, launch.tiling,
            {key, value, keys, values, slots, done}, [&](uint8_t* workspace, uint8_t* tiling) {
              KernelOf(call)(Address(key), Address(value), Address(keys), Address(values), Address(slots),
                             Address(done), workspace, tiling);
            });
  return 0;
}

PAGED_OPS_EXPORT int CopyBlocks(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  const CopyBlocksCall call = ParseCopyBlocks(Arguments(kCopyBlocks, 4, nparam, params, ndims, shapes, dtypes));
  const Pages& caches = OneLayer(kCopyBlocks, call.pages);
  RequireNarrowCache(kCopyBlocks, caches);
  const CopyBlocksLaunch launch = MakeCopyBlocksLaunch(
      {static_cast<uint32_t>(caches.num_blocks), static_cast<uint64_t>(BlockBytes(caches)),
       static_cast<uint32_t>(call.num_pairs())},
      Chip().vector_cores);
  const auto kernel = OfCacheType(caches, copy_blocks_custom_half, copy_blocks_custom_bfloat16_t,
                                  copy_blocks_custom_int8_t);
  const GmBuffer keys = InOut(caches.keys), values = InOut(caches.values), pairs = Input(call.pairs),
                 done = Output(call.output);
  RunKernel(kCopyBlocks, kVectorOnly, launch.block_dim, 0, 0, launch.tiling, {keys, values, pairs, done},
            [&](uint8_t* workspace, uint8_t* tiling) {
              kernel(Address(keys), Address(values), Address(pairs), Address(done), workspace, tiling);
            });
  return 0;
}

PAGED_OPS_EXPORT int ReadBlocks(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  const ReadBlocksCall call = ParseReadBlocks(Arguments(kReadBlocks, 4, nparam, params, ndims, shapes, dtypes));
  const Pages& caches = OneLayer(kReadBlocks, call.pages);
  RequireNarrowCache(kReadBlocks, caches);
  const ReadBlocksLaunch launch = MakeReadBlocksLaunch(
      {static_cast<uint32_t>(caches.num_blocks), static_cast<uint64_t>(BlockBytes(caches)),
       static_cast<uint32_t>(call.num_ids())},
      Chip().vector_cores);
  const auto kernel = OfCacheType(caches, read_blocks_custom_half, read_blocks_custom_bfloat16_t,
                                  read_blocks_custom_int8_t);
  const GmBuffer keys = Input(caches.keys), values = Input(caches.values), ids = Input(call.block_ids),
                 pages = Output(call.output);
  RunKernel(kReadBlocks, kVectorOnly, launch.block_dim, 0, 0, launch.tiling, {keys, values, ids, pages},
            [&](uint8_t* workspace, uint8_t* tiling) {
              kernel(Address(keys), Address(values), Address(ids), Address(pages), workspace, tiling);
            });
  return 0;
}

PAGED_OPS_EXPORT int WriteBlocks(int nparam, void** params, int* ndims, int64_t** shapes, const char** dtypes,
                                 void* /*stream*/, void* /*extra*/) {
  using namespace paged_ops;
  const WriteBlocksCall call = ParseWriteBlocks(Arguments(kWriteBlocks, 6, nparam, params, ndims, shapes, dtypes));
  const Pages& caches = OneLayer(kWriteBlocks, call.caches);
  RequireNarrowCache(kWriteBlocks, caches);
  const WriteBlocksLaunch launch = MakeWriteBlocksLaunch(
      {static_cast<uint32_t>(caches.num_blocks), static_cast<uint64_t>(BlockBytes(caches)),
       static_cast<uint32_t>(call.num_ids()), static_cast<uint32_t>(call.layer)},
      Chip().vector_cores);
  const auto kernel = OfCacheType(caches, write_blocks_custom_half, write_blocks_custom_bfloat16_t,
                                  write_blocks_custom_int8_t);
  const GmBuffer keys = InOut(caches.keys), values = InOut(caches.values), pages = Input(call.pages),
                 ids = Input(call.block_ids), done = Output(call.output);
  RunKernel(kWriteBlocks, kVectorOnly, launch.block_dim, 0, 0, launch.tiling, {keys, values, pages, ids, done},
            [&](uint8_t* workspace, uint8_t* tiling) {
              kernel(Address(keys), Address(values), Address(pages), Address(ids), Address(done), workspace, tiling);
            });
  return 0;
}
