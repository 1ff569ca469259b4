"""The pages themselves: key and value caches and block_table as Parameters of the graph."""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Zero

from mindspore_paged.cache.pool_size import ITEM_SIZES, SCALE_BYTES
from mindspore_paged.custom_ops.ops import CopyBlocks, ReadBlocks, WriteBlocks


class KVPagePool:
    """Device memory of the cache, made by `allocate` or by a loaded graph; graphs read and write it in place.

    key_caches, value_caches: one Parameter a layer, [num_blocks, block_size, num_kv_heads, head_dim] of `dtype`, or one
    for all layers together, with a dimension for them in front: MindSpore takes microseconds to tell an operator of an
    input. Of int8, head_dim + 4: a page's values come first and then their scales; whoever moves pages need not know.
    block_table: Parameter int32 [max_num_seqs, max_blocks_per_seq]; the null block where a row has no block.
    copier, reader, writer: Cells that copy pages within the pool, read them out and write them back.
    """

    def __init__(self, key_caches, value_caches, block_table, backend="cpu"):
        self.num_blocks, self.block_size = key_caches[0].shape[-4:-2]
        self.key_caches, self.value_caches = list(key_caches), list(value_caches)
        self.block_table = block_table
        self.dtype = str(key_caches[0].dtype).lower()
        self.copier = CopyPages(self.key_caches, self.value_caches, backend)
        self.reader = ReadPages(self.key_caches, self.value_caches, backend)
        self.writer = WritePages(self.key_caches, self.value_caches, backend)
        self.num_bytes = sum(cache.nbytes for cache in (*self.key_caches, *self.value_caches))

    @classmethod
    def allocate(
        cls, num_layers, num_blocks, block_size, num_kv_heads, head_dim, dtype, table_shape, backend="cpu",
        layers_together=False, block_table=None,
    ) -> "KVPagePool":  # fmt: skip
        """A pool of pages that are all zero; layers_together: a Parameter for all, for a step that is one operator.

        block_table: that of another model, whose blocks this pool has pages for, too; None: one of its own.
        """
        stored_dim = head_dim + SCALE_BYTES.get(dtype, 0) // ITEM_SIZES[dtype]
        shape = (num_blocks, block_size, num_kv_heads, stored_dim)
        shapes = [(num_layers, *shape)] if layers_together else [shape] * num_layers
        return cls(
            [_zeros(shape, dtype, f"{i}.key_cache") for i, shape in enumerate(shapes)],
            [_zeros(shape, dtype, f"{i}.value_cache") for i, shape in enumerate(shapes)],
            _zeros(table_shape, "int32", "block_table") if block_table is None else block_table,
            backend,
        )

    def clear(self) -> None:
        """Fill pages and block_table with zeros, one Parameter at a time."""
        for parameter in (*self.key_caches, *self.value_caches, self.block_table):
            parameter.set_data(Tensor(shape=parameter.shape, dtype=parameter.dtype, init=Zero()).init_data())


# Where all layers are together each of the graphs below is its operator alone: compiled in 30 ms, and with a sum over
# layers in 150, most of it for the source of MindSpore's own functions.


class CopyPages(nn.Cell):
    """copy_blocks on every layer's caches, as one graph: pairs int32 [P, 2] -> int32 [1], to wait for."""

    def __init__(self, key_caches, value_caches, backend):
        super().__init__()
        self.key_caches = ms.ParameterTuple(key_caches)
        self.value_caches = ms.ParameterTuple(value_caches)
        self.are_together = len(key_caches) == 1
        self.copy_blocks = CopyBlocks(backend)

    def construct(self, pairs):
        """Copy in every layer."""
        if self.are_together:
            return self.copy_blocks(self.key_caches[0], self.value_caches[0], pairs)
        done = ops.zeros((1,), ms.int32)
        for key_cache, value_cache in zip(self.key_caches, self.value_caches):  # noqa: B905, a graph knows no `strict`
            done = done + self.copy_blocks(key_cache, value_cache, pairs)
        return done


class ReadPages(nn.Cell):
    """Whole pages of every layer: block_ids int32 [P] -> [layers, 2, P, BS, K, D], keys and then values.

    bfloat16 pages come as float32, which holds them exactly: NumPy has no bfloat16 to receive them in.
    """

    def __init__(self, key_caches, value_caches, backend):
        super().__init__()
        self.key_caches = ms.ParameterTuple(key_caches)
        self.value_caches = ms.ParameterTuple(value_caches)
        self.widen = key_caches[0].dtype == ms.bfloat16
        self.read_blocks = ReadBlocks(backend)
        self.are_together = key_caches[0].ndim == 5
        self.stack = ops.Stack()

    def construct(self, block_ids):
        """Read in every layer."""
        if self.are_together and not self.widen:
            return self.read_blocks(self.key_caches[0], self.value_caches[0], block_ids)
        layers = ()
        for key_cache, value_cache in zip(self.key_caches, self.value_caches):  # noqa: B905, a graph knows no `strict`
            pages = self.read_blocks(key_cache, value_cache, block_ids)
            layers += (ops.cast(pages, ms.float32) if self.widen else pages,)
        return layers[0] if self.are_together else self.stack(layers)


class WritePages(nn.Cell):
    """Whole pages into every layer: block_ids int32 [P], -1 for none, pages [layers, 2, P, BS, K, D] -> int32 [1]."""

    def __init__(self, key_caches, value_caches, backend):
        super().__init__()
        self.key_caches = ms.ParameterTuple(key_caches)
        self.value_caches = ms.ParameterTuple(value_caches)
        self.are_together = len(key_caches) == 1
        self.write_blocks = WriteBlocks(backend)

    def construct(self, block_ids, pages):
        """Write in every layer."""
        if self.are_together:
            return self.write_blocks(self.key_caches[0], self.value_caches[0], pages, block_ids, 0)
        done = ops.zeros((1,), ms.int32)
        for layer in range(len(self.key_caches)):  # the first of all layers, where they are together
            done = done + self.write_blocks(self.key_caches[layer], self.value_caches[layer], pages, block_ids, layer)
        return done


def _zeros(shape, dtype, name) -> Parameter:
    return Parameter(Tensor(shape=shape, dtype=getattr(ms, dtype), init=Zero()), name=name, requires_grad=False)
