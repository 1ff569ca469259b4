"""What stands between the products of a decoder layer, as operators of the `ascend` and `ascend_emulator` backends.

Shapes: T tokens, C hidden_size, N intermediate_size, H query heads, K KV heads, D head_dim, R numbers of a head that
are rotated. Tokens and weights are float32, float16 or bfloat16, all of one type; what is computed is float32, rounded
once. C, N, D and R are multiples of 16, C at most 32768, D at most 128. Caches are as `ops` has them. Bad input is
refused as `ops` says; an unknown backend raises ConfigError.
"""

from pathlib import Path

from mindspore import nn

from mindspore_paged.custom_ops.layer_roles import ACTIVATIONS
from mindspore_paged.custom_ops.targets import custom_op, writes_caches

WIDTH_STEP, MOST_WIDTH = 16, 32768
"""Rows that FusedAddRmsNorm and ActAndMul take: multiples of it; and of the former's the longest."""

ADDS, NORM_OF_ADDED = 1, 2
"""Bits of FusedAddRmsNorm's options, as fused_add_rms_norm_tiling.h has them."""

HAS_BIAS, NORMS_HEADS, ROTATES = 1, 2, 4
"""Bits of RopeAndCache's options, as rope_and_cache_tiling.h has them."""


class FusedAddRmsNorm(nn.Cell):
    """x += added * residual_scale, in place; then norm(x) * weight. vLLM's fused_add_rms_norm, with two options more.

    Inputs: x, added [T, C]; added_weight, weight [C]. Output: x / sqrt(mean(x^2) + epsilon) * weight, [T, C].

    epsilon: of the norm; adds: else x stays as it is, and added is not read; norms_added: what is added is
    norm(added) * added_weight (Gemma), else added_weight is not read; residual_scale: what is added is multiplied by
    it. Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
    """

    def __init__(
        self, epsilon: float, backend: str | Path, *, adds: bool = True, norms_added: bool = False,
        residual_scale: float = 1.0,
    ):  # fmt: skip
        super().__init__()
        self.epsilon, self.residual_scale = float(epsilon), float(residual_scale)
        self.options = ADDS * adds + NORM_OF_ADDED * norms_added
        op = custom_op("FusedAddRmsNorm", backend, out_shape=lambda x, *_: x, out_dtype=lambda x, *_: x)
        self.op = writes_caches(op)

    def construct(self, x, added, added_weight, weight):
        """Add and normalize."""
        return self.op(x, added, added_weight, weight, self.epsilon, self.residual_scale, self.options)


class RopeAndCache(nn.Cell):
    """Make queries of a product with q, k and v, and store its keys and values in their slots of the paged cache.

    Inputs: qkv [T, (H + 2 K) D]: queries, keys, values; bias [(H + 2 K) D]; head_norms [2, D], of queries and of keys;
    rotation [T, R] float32: the cosines of each token's R / 2 angles, then their sines; key_cache, value_cache, written
    in place; slot_mapping [T] int32, block * BS + position in the block, or -1 for a token that is not stored. Output:
    queries [T, H, D].

    epsilon: of the norms; has_bias: bias is added before anything else; norms_heads: each head of queries and keys goes
    through an RMSNorm before it is rotated; rotates: of each head of these the pairs (i, i + R / 2) are. What an option
    leaves out is not read. Source of the rotation: Su et al. 2021, "RoFormer".
    """

    def __init__(self, epsilon: float, has_bias: bool, norms_heads: bool, rotates: bool, backend: str | Path):
        super().__init__()
        self.epsilon = float(epsilon)
        self.options = HAS_BIAS * has_bias + NORMS_HEADS * norms_heads + ROTATES * rotates
        op = custom_op("RopeAndCache", backend, out_shape=_queries_shape, out_dtype=lambda qkv, *_: qkv)
        self.op = writes_caches(op)

    def construct(self, qkv, bias, head_norms, rotation, key_cache, value_cache, slot_mapping):
        """Rotate and store."""
        return self.op(
            qkv, bias, head_norms, rotation, key_cache, value_cache, slot_mapping, self.epsilon, self.options
        )


class ActAndMul(nn.Cell):
    """act(gate) * up of a product with gate and up. vLLM's silu_and_mul and gelu_tanh_and_mul.

    Inputs: gate_up [T, 2 N], gate first; bias [2 N]. Output: [T, N].

    activation: of ACTIVATIONS; has_bias: bias is added before anything else, else it is not read. Source: Shazeer 2020,
    "GLU Variants Improve Transformer".
    """

    def __init__(self, activation: str, has_bias: bool, backend: str | Path):
        super().__init__()
        self.activation, self.has_bias = ACTIVATIONS.index(activation), int(has_bias)
        self.op = custom_op("ActAndMul", backend, out_shape=_gated_shape, out_dtype=lambda gate_up, *_: gate_up)

    def construct(self, gate_up, bias):
        """Activate and multiply."""
        return self.op(gate_up, bias, self.activation, self.has_bias)


def _queries_shape(qkv, _bias, head_norms, _rotation, key_cache, *_):
    return [qkv[0], qkv[1] // head_norms[1] - 2 * key_cache[2], head_norms[1]]


def _gated_shape(gate_up, *_):
    return [gate_up[0], gate_up[1] // 2]
