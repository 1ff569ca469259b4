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
import numpy as np
from mindspore import Tensor, nn

from mindspore_paged.custom_ops.targets import library_op, writes_caches

LAYER_WEIGHTS = (
    "input_layernorm.weight",
    "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.o_proj.weight",
    "self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias", "self_attn.o_proj.bias",
    "post_attention_layernorm.weight",
    "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight",
    "mlp.gate_proj.bias", "mlp.up_proj.bias", "mlp.down_proj.bias",
)  # fmt: skip
"""All that a decoder layer may have, in the order of LlamaStep, by Hugging Face's names; a layer may lack any bias."""

ABSENT = (-1, 0, 0, 0, 0)
"""What LlamaStep's layout says of a bias that a layer lacks."""


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
    has_bias: whether each of the four has a bias; construct takes those that there are, float32 [rows], in that order.
    """

    def __init__(
        self, epsilon: float, scale: float, kinds: Sequence[int], has_bias: Sequence[bool], adds_residual: bool,
        backend: str | Path,
    ):  # fmt: skip
        super().__init__()
        self.epsilon, self.scale, self.adds_residual = float(epsilon), float(scale), int(adds_residual)
        self.kinds, self.has_bias = _packed(kinds), _bits(has_bias)
        self.op = writes_caches(library_op("AttentionLayer", backend))

    def construct(
        self, x, norm_weight, query, key, value, out, cos_table, sin_table, key_cache, value_cache, block_table,
        positions, rows, biases=(),
    ):  # fmt: skip
        """Store this call's keys and values, then attend."""
        return self.op(
            x, norm_weight, query, key, value, out, cos_table, sin_table, key_cache, value_cache, block_table,
            positions, rows, *biases, self.epsilon, self.scale, self.kinds, self.adds_residual, self.has_bias,
        )  # fmt: skip


class FeedForwardLayer(nn.Cell):
    """x + (silu(norm(x) Wg^T) * (norm(x) Wu^T)) Wd^T, SwiGLU: x [T, C] -> [T, C], without x unless adds_residual.

    norm_weight [C] float32; gate, up [N, C] and down [C, N], of three kinds. Source: Shazeer 2020, "GLU Variants
    Improve Transformer". has_bias: as that of AttentionLayer.
    """

    def __init__(
        self, epsilon: float, kinds: Sequence[int], has_bias: Sequence[bool], adds_residual: bool, backend: str | Path
    ):
        super().__init__()
        self.epsilon, self.kinds, self.adds_residual = float(epsilon), _packed(kinds), int(adds_residual)
        self.has_bias = _bits(has_bias)
        self.op = library_op("FeedForwardLayer", backend)

    def construct(self, x, norm_weight, gate, up, down, biases=()):
        """Compute the layer."""
        return self.op(
            x, norm_weight, gate, up, down, *biases, self.epsilon, self.kinds, self.adds_residual, self.has_bias
        )


class LlamaStep(nn.Cell):
    """A whole step of a model of L layers, each AttentionLayer and then FeedForwardLayer: logits float32 [N, V].

    layout: int64 [L, 16, 5]: of each weight of a layer in the order of LAYER_WEIGHTS the pack that it is in, its first
    byte there, kind, rows and columns, or ABSENT; kinds of floats are 0 float32, 1 float16, 30 bfloat16. table_kind,
    head_kind: of what `table` and `head` are.
    Inputs: input_ids, positions, rows [T] int32; logit_indices [N] int32, tokens whose logits are wanted, -1 for none;
    table_indices [E, 2] and table_values [E] int32, written into block_table first; table and head [V, C]; norm_weight
    [C], of the last norm; key_cache and value_cache [L, NB, BS, K, D]; packs: uint8 [bytes] each, of any number.
    The other inputs are as the two layers take them. Logits of none are zeros.
    """

    def __init__(
        self, epsilon: float, scale: float, layout: np.ndarray, table_kind: int, head_kind: int, backend: str | Path
    ):
        super().__init__()
        self.epsilon, self.scale = float(epsilon), float(scale)
        self.layout = Tensor(layout, ms.int64)
        self.table_kind, self.head_kind = table_kind, head_kind
        self.op = writes_caches(library_op("LlamaStep", backend))

    def construct(
        self, input_ids, positions, rows, cos_table, sin_table, logit_indices, table_indices, table_values, block_table,
        table, norm_weight, head, key_cache, value_cache, packs,
    ):  # fmt: skip
        """Write the entries, then compute the tokens."""
        return self.op(
            input_ids, positions, rows, cos_table, sin_table, logit_indices, table_indices, table_values, block_table,
            self.layout, table, norm_weight, head, key_cache, value_cache, *packs,
            self.epsilon, self.scale, self.table_kind, self.head_kind,
        )  # fmt: skip


def _bits(has_bias: Sequence[bool]) -> int:
    return sum(bool(there) << place for place, there in enumerate(has_bias))


def _packed(kinds: Sequence[int]) -> int:
    return sum(kind << 8 * place for place, kind in enumerate(kinds))
