"""The layers of a decoder as a few large operators of the `cpu` backend, with weights of any format.

Shapes: T tokens, K inputs, N outputs. Tokens are float32 [T, K]. A weight is [N, K] of float32, float16 or bfloat16, or
uint8 [N, bytes of a row]: blocks of 32 neighbours as a GGUF file has them, whose `kind` is GGML's number for them (2
Q4_0, 3 Q4_1, 8 Q8_0; not looked at for floats). Sums are float32.

A token's result is bitwise the same whatever else is in the batch and for any number of threads. Bad input is refused
as `ops` says; an unknown backend raises ConfigError.
"""

from collections.abc import Sequence
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindspore_paged.custom_ops.layer_roles import ABSENT, ACTIVATIONS, LAYER_ROLES, NO_HEAD, OPTIONAL_ROLES
from mindspore_paged.custom_ops.targets import CACHES, library_op, writes_caches

__all__ = [
    "ABSENT", "ACTIVATIONS", "LAYER_ROLES", "NO_HEAD", "OPTIONAL_ROLES",
    "AttentionLayer", "DecoderStep", "Embedding", "FeedForwardLayer", "NormLinear",
]  # fmt: skip


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

    Inputs: x [T, C]; attention_norm [C] float32; q [H D, C], k and v [K D, C], o [C, H D], of four kinds; cos_tables,
    sin_tables [S, P, 1, rotary_dim] float32; key_cache, value_cache, written in place, and block_table [R, M], as
    `ops.PagedAttention` takes them; positions [T] int32, a token's position in its sequence; rows [T] int32, that
    sequence's row, -1 for padding. Output: [T, C], without x unless adds_residual.

    A token attends to all of its row up to itself, which the same call may have stored, or to the last `window` tokens
    of that. Of each head the first rotary_dim numbers are rotated, as pairs (i, i + rotary_dim / 2); source: Su et al.
    2021, "RoFormer".
    epsilon: of the norm, and of the heads' norms; scale: of scores; window: 0 = none; rope_table: which of the S tables
    rotates, -1 = none.
    has_optional: whether it has each of q_bias, k_bias, v_bias, o_bias, q_norm, k_norm; construct takes those that
    there are in that order, float32 [rows] of a bias, [D] of a norm of each head before its rotation.
    """

    def __init__(
        self, epsilon: float, scale: float, kinds: Sequence[int], has_optional: Sequence[bool], adds_residual: bool,
        backend: str | Path, *, window: int = 0, rope_table: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.epsilon, self.scale, self.adds_residual = float(epsilon), float(scale), int(adds_residual)
        self.kinds, self.has_optional = _joined(kinds), _bits(has_optional)
        self.window, self.rope_table = window, rope_table
        before = ("x", "attention_norm", "q", "k", "v", "o", "cos_tables", "sin_tables")
        self.op = writes_caches(library_op("AttentionLayer", backend), *before, *CACHES, "*")

    def construct(
        self, x, attention_norm, q, k, v, o, cos_tables, sin_tables, key_cache, value_cache, block_table, positions,
        rows, optional=(),
    ):  # fmt: skip
        """Store this call's keys and values, then attend."""
        return self.op(
            x, attention_norm, q, k, v, o, cos_tables, sin_tables, key_cache, value_cache, block_table, positions, rows,
            *optional, self.epsilon, self.scale, self.window, self.rope_table, self.kinds, self.adds_residual,
            self.has_optional,
        )  # fmt: skip


class FeedForwardLayer(nn.Cell):
    """x + (act(norm(x) Wg^T) * (norm(x) Wu^T)) Wd^T: x [T, C] -> [T, C], without x unless adds_residual.

    mlp_norm [C] float32; gate, up [N, C] and down [C, N], of three kinds. activation: of ACTIVATIONS, by its index.
    Source: Shazeer 2020, "GLU Variants Improve Transformer": SwiGLU and GeGLU.
    has_optional: whether it has each of gate_bias, up_bias, down_bias; as that of AttentionLayer.
    """

    def __init__(
        self, epsilon: float, kinds: Sequence[int], has_optional: Sequence[bool], adds_residual: bool,
        backend: str | Path, *, activation: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.epsilon, self.kinds, self.adds_residual = float(epsilon), _joined(kinds), int(adds_residual)
        self.has_optional, self.activation = _bits(has_optional), activation
        self.op = library_op("FeedForwardLayer", backend)

    def construct(self, x, mlp_norm, gate, up, down, optional=()):
        """Compute the layer."""
        return self.op(
            x, mlp_norm, gate, up, down, *optional, self.epsilon, self.kinds, self.activation, self.adds_residual,
            self.has_optional,
        )  # fmt: skip


class DecoderStep(nn.Cell):
    """A whole step of a model of L layers, each AttentionLayer and then FeedForwardLayer: logits float32 [N, V].

    With NO_HEAD for head_kind, and norm_weight again for `head`, it gives the tokens wanted behind the last norm,
    float32 [N, C], and no logits.

    layout: int64 [L, 20, 5]: of each of a layer's LAYER_ROLES the pack that its weight is in, its first byte there,
    kind, rows and columns, or ABSENT; kinds of floats are 0 float32, 1 float16, 30 bfloat16. A norm or a bias is
    float32 [1, columns]; an output norm [C] is that of what half a layer puts out, before x is added.
    options: int64 [L, 2], each layer's window and rope_table. table_kind, head_kind: of what `table` and `head` are.
    embedding_scale, residual_scale, logit_scale: embeddings times; what half a layer puts out times, behind its output
    norm, before x is added; logits times. activation: as that of FeedForwardLayer.
    adapter_rank: a multiple of layer_roles.RANK_STEP, the rank of what adapters add to products; 0: there are none.
    Inputs: input_ids, positions, rows [T] int32; logit_indices [N] int32, tokens whose logits are wanted, -1 for none;
    table_indices [E, 2] and table_values [E] int32, written into block_table first; table and head [V, C]; norm_weight
    [C], of the last norm; key_cache and value_cache [L, NB, BS, K, D]; packs: uint8 [bytes] each, of any number.
    The other inputs are as the two layers take them. Logits of none are zeros. of_adapters: nothing, or, with an
    adapter_rank, int32 [T], each token's adapter, -1 for none, and float32 [S, numbers], what each of S adapters has:
    layer by layer that of layer_roles.ADAPTED_ROLES, of each A [rank, columns] and then B [panels, rank, 16 rows], both
    filled up to a line of 16 numbers. They add B (A x) to a weight's product with x (Hu et al. 2021, "LoRA").
    """

    def __init__(
        self, epsilon: float, scale: float, layout: np.ndarray, options: np.ndarray, table_kind: int, head_kind: int,
        backend: str | Path, *, embedding_scale: float = 1.0, residual_scale: float = 1.0, logit_scale: float = 1.0,
        activation: int = 0, adapter_rank: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.epsilon, self.scale = float(epsilon), float(scale)
        self.adapter_rank = adapter_rank
        self.embedding_scale, self.residual_scale = float(embedding_scale), float(residual_scale)
        self.logit_scale, self.activation = float(logit_scale), activation
        self.layout, self.options = Tensor(layout, ms.int64), Tensor(options, ms.int64)
        self.table_kind, self.head_kind = table_kind, head_kind
        before = (
            "input_ids", "positions", "rows", "cos_tables", "sin_tables", "logit_indices", "table_indices",
            "table_values", "block_table", "layout", "options", "table", "norm_weight", "head",
        )  # fmt: skip
        self.op = writes_caches(library_op("DecoderStep", backend), *before, *CACHES, "*")

    def construct(
        self, input_ids, positions, rows, cos_tables, sin_tables, logit_indices, table_indices, table_values,
        block_table, table, norm_weight, head, key_cache, value_cache, packs, of_adapters=(),
    ):  # fmt: skip
        """Write the entries, then compute the tokens."""
        return self.op(
            input_ids, positions, rows, cos_tables, sin_tables, logit_indices, table_indices, table_values, block_table,
            self.layout, self.options, table, norm_weight, head, key_cache, value_cache, *of_adapters,
            *packs, self.epsilon, self.scale, self.embedding_scale, self.residual_scale, self.logit_scale,
            self.activation, self.adapter_rank, self.table_kind, self.head_kind,
        )  # fmt: skip


def _bits(there: Sequence[bool]) -> int:
    return sum(bool(each) << index for index, each in enumerate(there))


def _joined(kinds: Sequence[int]) -> int:
    return sum(kind << 8 * index for index, kind in enumerate(kinds))
