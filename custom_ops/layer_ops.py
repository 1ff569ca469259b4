"""The layers of a LLaMA as a few large operators of the `cpu` backend, with weights of any format.

Shapes: T tokens, K inputs, N outputs. Tokens are float32 [T, K]. A weight is [N, K] of float32, float16 or bfloat16, or
uint8 [N, bytes of a row]: blocks of 32 neighbours as a GGUF file has them, whose `kind` is GGML's number for them (2
Q4_0, 3 Q4_1, 8 Q8_0; not looked at for floats). Sums are float32.

A token's result is bitwise the same whatever else is in the batch and for any number of threads. Bad input is refused
as `ops` says; an unknown backend raises ConfigError.
"""

from collections.abc import Sequence
from pathlib import Path

import mindspore as ms
from mindspore import Tensor, nn

from mindspore_paged.custom_ops.targets import library_op, writes_caches


class Embedding(nn.Cell):
    """Rows of a table [N, K], as floats: ids [T] int32 -> [T, K].

    The table has the rows from first_row on of one with vocab_size rows; tokens of others are zeros. like [K] tells how
    long a row is.
    """

    def __init__(self, kind: int, first_row: int, vocab_size: int, backend: str | Path):
        super().__init__()
        self.kind, self.first_row, self.vocab_size = kind, first_row, vocab_size
        self.op = library_op("Embedding", backend)

    def construct(self, ids, table, like):
        """Look the rows up."""
        return self.op(ids, table, like, self.kind, self.first_row, self.vocab_size)


class NormLinear(nn.Cell):
    """The head of a model, norm(x) W^T: x [T, K], norm_weight [K] float32, weight [N, K] -> [T, N]."""

    def __init__(self, epsilon: float, kind: int, backend: str | Path):
        super().__init__()
        self.epsilon, self.kind = float(epsilon), kind
        self.op = library_op("NormLinear", backend)

    def construct(self, x, norm_weight, weight):
        """Normalize and multiply."""
        return self.op(x, norm_weight, weight, self.epsilon, self.kind)


class AttentionLayer(nn.Cell):
    """x + attention(norm(x)): projections, rotary embedding, cache write, paged attention, output projection.

    Inputs: x [T, C]; norm_weight [C] float32; query [H D, C], key and value [K D, C], out [C, H D], of four kinds;
    cos_table, sin_table [P, 1, D] float32; key_cache, value_cache, written in place, and block_table [R, M], as
    `ops.PagedAttention` takes them; positions [T] int32, a token's place in its sequence; rows [T] int32, that
    sequence's row, -1 for padding. Output: [T, C], without x unless adds_residual.

    A token attends to all of its row up to itself, which the same call may have stored. Source of the rotation, in
    rotate-half order: Su et al. 2021, "RoFormer".
    """

    def __init__(self, epsilon: float, scale: float, kinds: Sequence[int], adds_residual: bool, backend: str | Path):
        super().__init__()
        self.epsilon, self.scale, self.adds_residual = float(epsilon), float(scale), int(adds_residual)
        self.kinds = _packed(kinds)
        self.op = writes_caches(library_op("AttentionLayer", backend))

    def construct(
        self, x, norm_weight, query, key, value, out, cos_table, sin_table, key_cache, value_cache, block_table,
        positions, rows,
    ):  # fmt: skip
        """Store this call's keys and values, then attend."""
        return self.op(
            x, norm_weight, query, key, value, out, cos_table, sin_table, key_cache, value_cache, block_table,
            positions, rows, self.epsilon, self.scale, self.kinds, self.adds_residual,
        )  # fmt: skip


class FeedForwardLayer(nn.Cell):
    """x + (silu(norm(x) Wg^T) * (norm(x) Wu^T)) Wd^T, SwiGLU: x [T, C] -> [T, C], without x unless adds_residual.

    norm_weight [C] float32; gate, up [N, C] and down [C, N], of three kinds. Source: Shazeer 2020, "GLU Variants
    Improve Transformer".
    """

    def __init__(self, epsilon: float, kinds: Sequence[int], adds_residual: bool, backend: str | Path):
        super().__init__()
        self.epsilon, self.kinds, self.adds_residual = float(epsilon), _packed(kinds), int(adds_residual)
        self.op = library_op("FeedForwardLayer", backend)

    def construct(self, x, norm_weight, gate, up, down):
        """Compute the layer."""
        return self.op(x, norm_weight, gate, up, down, self.epsilon, self.kinds, self.adds_residual)


class DecoderLayers(nn.Cell):
    """The L decoder layers of a model in turn, each AttentionLayer and then FeedForwardLayer: x [T, C] -> [T, C].

    kinds: of each layer, those of query, key, value and out, and those of gate, up and down. The other inputs are as
    the two take them; layers: of each layer norm_weight, query, key, value, out, key_cache, value_cache, norm_weight,
    gate, up, down, all layers' in one tuple.
    """

    def __init__(
        self, epsilon: float, scale: float, kinds: Sequence[tuple[Sequence[int], Sequence[int]]], backend: str | Path
    ):
        super().__init__()
        self.epsilon, self.scale = float(epsilon), float(scale)
        self.kinds = Tensor([[_packed(part) for part in parts] for parts in kinds], ms.int64)
        self.op = writes_caches(library_op("DecoderLayers", backend))

    def construct(self, x, cos_table, sin_table, block_table, positions, rows, layers):
        """Run the layers."""
        places = (cos_table, sin_table, block_table, positions, rows)
        return self.op(x, *places, self.kinds, *layers, self.epsilon, self.scale)


def _packed(kinds: Sequence[int]) -> int:
    return sum(kind << 8 * place for place, kind in enumerate(kinds))
