"""Pages so far behind a cache's begin that 32 bits do not count their bytes, nor their numbers."""

import mmap
from collections.abc import Iterator
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore.common.initializer import Zero

from mindspore_paged.ascend_check import reference
from mindspore_paged.ascend_check.cases import AttentionCase, numpy_dtype
from mindspore_paged.ascend_check.operators import array, bitwise, of_attention, repeated, tensor
from mindspore_paged.ascend_check.report import Finding
from mindspore_paged.custom_ops.ops import CopyBlocks, PagedAttention, ReadBlocks, ReshapeAndCache

MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python knows it from 3.13 on
NUMBERS_BEFORE = 2**32
"""Of each cache before its last blocks: 8 GiB of float16."""


class FarPages(nn.Cell):
    """Two caches of over 8 GiB, all zero, over which each operator is a graph: on a CPU only touched pages are memory.

    Raises RuntimeError or OSError if there is no room for them.
    """

    def __init__(self, case: AttentionCase, backend: str | Path, num_blocks: int, on_device: bool):
        super().__init__()
        shape, dtype = case.heads.pages(num_blocks), case.heads.cache_dtype
        self.key_cache = _zeros(shape, dtype, "key_cache", on_device)
        self.value_cache = _zeros(shape, dtype, "value_cache", on_device)
        self.store, self.read, self.copy = ReshapeAndCache(backend), ReadBlocks(backend), CopyBlocks(backend)
        self.attend = PagedAttention(case.heads.head_dim**-0.5, backend)

    def construct(self, key, value, slots, pairs, block_ids, query, block_table, rows, context_lens):
        """Store, copy, read and attend, in this order."""
        stored = self.store(key, value, self.key_cache, self.value_cache, slots)
        copied = self.copy(self.key_cache, self.value_cache, ms.ops.depend(pairs, stored))
        block_ids, query = ms.ops.depend(block_ids, copied), ms.ops.depend(query, copied)
        read = self.read(self.key_cache, self.value_cache, block_ids)
        return read, self.attend(query, self.key_cache, self.value_cache, block_table, rows, context_lens)


def _zeros(shape: tuple[int, ...], dtype: str, name: str, on_device: bool) -> Parameter:
    if on_device:
        return Parameter(ms.ops.zeros(shape, getattr(ms, dtype)), name=name, requires_grad=False)
    parameter = Parameter(Tensor(shape=shape, dtype=getattr(ms, dtype), init=Zero()), name=name, requires_grad=False)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    memory = mmap.mmap(-1, int(np.prod(shape)) * numpy_dtype(dtype).itemsize, flags=flags)
    parameter.set_data(ms.from_numpy(np.frombuffer(memory, numpy_dtype(dtype)).reshape(shape)))  # without a copy
    return parameter


def check_far_pages(case: AttentionCase, backend: str | Path, repeats: int, on_device: bool) -> Iterator[Finding]:
    """Store a case's tokens in the last blocks, copy one away, read them back and attend to them.

    Blocks where an offset without its high bits would lie are read, too: nobody has written to them.
    """
    query, keys, values, near_table, rows, context_lens = case.operands(np.random.default_rng(6))
    heads = case.heads
    first = NUMBERS_BEFORE // (heads.block_bytes // keys.itemsize)
    num_blocks = first + len(keys)
    copied_to = first // 2 + 1  # 2^32 bytes of float16 before the second of the last
    used = np.arange(first, num_blocks, dtype=np.int32)
    near = used - first
    ids = np.concatenate([used, near, near + first // 2]).astype(np.int32)
    slots = (used[:, None] * heads.block_size + np.arange(heads.block_size)).reshape(-1).astype(np.int32)
    keys, values = np.nan_to_num(keys), np.nan_to_num(values)
    pairs = np.array([(first, copied_to)], np.int32)
    tokens = (tensor(cache.reshape(len(slots), *cache.shape[2:])) for cache in (keys, values))
    # Entries behind a context name no block; what is behind them must stay so.
    table = np.where(near_table < len(keys), near_table + first, near_table).astype(np.int32)
    cell = FarPages(case, backend, num_blocks, on_device)
    operands = (*tokens, *map(tensor, (slots, pairs, ids, query, table, rows, context_lens)))
    runs = repeated(lambda: tuple(map(array, cell(*operands))), repeats)

    expected_pages = np.zeros((2, len(ids), *keys.shape[1:]), keys.dtype)
    expected_pages[:, : len(used)] = keys, values
    expected_pages[:, ids == copied_to] = expected_pages[:, :1]
    read, attention = (type(runs)((output,), runs.repeats, runs.unequal) for output in runs.outputs)
    shape = f"{heads}, blocks {first} to {num_blocks - 1}"
    yield bitwise("reshape_and_cache, copy_blocks, read_blocks", shape, heads.cache_dtype, read, (expected_pages,))
    scale = heads.head_dim**-0.5
    yield of_attention(case, attention, reference.attention(query, keys, values, near_table, rows, context_lens, scale))
