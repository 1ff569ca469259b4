"""Embedding and head cut over the ranks that share a model, and what the ranks exchange; with one rank nothing.

Shapes: T tokens. "Its part" is what `mindspore_paged.tensor_parallel.Cuts` gives the rank. Collectives stand in the
graph, in the order in which it runs, the same on every rank.

Source: Shoeybi et al. 2019, "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism".
"""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Zero

from mindspore_paged.tensor_parallel import Cut


def weight_parameter(*shape, dtype) -> Parameter:
    """A weight that takes no memory until it is set or the graph is compiled."""
    return Parameter(Tensor(shape=shape, dtype=dtype, init=Zero()), requires_grad=False)


class VocabParallelEmbedding(nn.Cell):
    """Token ids [T] -> rows of the table [T, hidden_size]; a rank has the rows that `vocab` names as `weight`."""

    def __init__(self, weight: Parameter, vocab: Cut, vocab_size, ranks):
        super().__init__()
        self.weight = weight
        self.is_whole = vocab.stop - vocab.start == vocab_size
        self.start, self.stop = vocab.start, vocab.stop
        self.dtype = weight.dtype
        self.gather = ops.Gather()
        self.sum_over_ranks = ranks.sum()

    def construct(self, input_ids):
        if self.is_whole:
            return self.gather(self.weight, input_ids, 0)
        inside = ops.logical_and(input_ids >= self.start, input_ids < self.stop)
        rows = ops.select(inside, input_ids - self.start, ops.zeros_like(input_ids))
        found = self.gather(self.weight, rows, 0) * ops.cast(inside, self.dtype).reshape(-1, 1)
        return self.sum_over_ranks(found)


class VocabParallelLogits(nn.Cell):
    """hidden [N, hidden_size] -> logits float32 [N, vocab_size]; rows: what makes those of this rank's vocabulary."""

    def __init__(self, rows: nn.Cell, vocab_size, ranks):
        super().__init__()
        self.vocab_size = vocab_size
        self.rows = rows
        self.gather_columns = ranks.concat_columns()

    def construct(self, hidden):
        logits = self.gather_columns(ops.cast(self.rows(hidden), ms.float32))
        # The last ranks' rows beyond the vocabulary, if it does not divide.
        return logits if logits.shape[1] == self.vocab_size else logits[:, : self.vocab_size]


class OneRank:
    """The collectives of a model that one rank has whole: nothing is exchanged."""

    def sum(self) -> nn.Cell:
        """x -> x."""
        return nn.Identity()

    def concat_columns(self) -> nn.Cell:
        """x -> x."""
        return nn.Identity()


ONE_RANK = OneRank()


class RankGroup:
    """The collectives of the ranks of `group`, MindSpore's name for them, `size` in number; this one is `rank`.

    is_world: whether the group has all of the job's processes. in_order: sums are added up in the order of ranks, so
    that a token's do not depend on where it stands in x. MindSpore's AllReduce for CPU goes round a ring, from another
    rank on for each piece of x; with two ranks that makes no difference.
    """

    def __init__(self, group: str, rank: int, size: int, is_world: bool, in_order: bool = False):
        self.group, self.rank, self.size, self.is_world, self.in_order = group, rank, size, is_world, in_order

    def sum(self) -> nn.Cell:
        """x -> the sum of every rank's x, on every rank."""
        if self.in_order and self.size > 2:
            return SumInOrder(self.size, self._gather())
        return ops.AllReduce(ops.ReduceOp.SUM, self.group)

    def concat_columns(self) -> nn.Cell:
        """x [N, columns] -> [N, ranks * columns], on every rank."""
        return ConcatColumns(self.size, self._gather())

    def _gather(self) -> nn.Cell:
        if self.is_world:
            return ops.AllGather(self.group)
        # MindSpore's AllGather for CPU knows no group but the whole world.
        return GatherBySum(self.group, self.rank, self.size)


class ConcatColumns(nn.Cell):
    """The columns of every rank side by side, in the order of ranks; gather: x [N, columns] -> [ranks * N, columns]."""

    def __init__(self, size: int, gather: nn.Cell):
        super().__init__()
        self.size = size
        self.gather = gather

    def construct(self, x):
        rows, columns = x.shape
        parts = self.gather(x).reshape(self.size, rows, columns)
        return parts.transpose(1, 0, 2).reshape(rows, self.size * columns)


class SumInOrder(nn.Cell):
    """x [N, columns] -> the sum of all ranks' x, the first rank's first; gather: as of ConcatColumns."""

    def __init__(self, size: int, gather: nn.Cell):
        super().__init__()
        self.size = size
        self.gather = gather

    def construct(self, x):
        parts = self.gather(x).reshape(self.size, *x.shape)
        total = parts[0]
        for rank in range(1, self.size):
            total = total + parts[rank]
        return total


class GatherBySum(nn.Cell):
    """x [N, columns] -> [ranks, N, columns], exactly: each rank adds its own x, and zeros for the others."""

    def __init__(self, group: str, rank: int, size: int):
        super().__init__()
        self.size = size
        self.is_own = Tensor(np.arange(size)[:, None, None] == rank)
        self.sum_over_ranks = ops.AllReduce(ops.ReduceOp.SUM, group)

    def construct(self, x):
        shape = (self.size, *x.shape)
        own = ops.select(ops.broadcast_to(self.is_own, shape), ops.broadcast_to(x, shape), ops.zeros(shape, x.dtype))
        return self.sum_over_ranks(own)
