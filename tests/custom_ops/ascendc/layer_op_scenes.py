"""The operators between a layer's products: operands at random, and what NumPy makes of them in float64."""

from dataclasses import dataclass, field

import numpy as np

from tests.custom_ops.int8_pages import from_cache, pack, quantize, unpack
from tests.custom_ops.kernel_calls import BFLOAT16, INT8, assert_same_bits

FLOAT32, FLOAT16 = np.dtype(np.float32), np.dtype(np.float16)
TOKEN_DTYPES = (FLOAT32, FLOAT16, BFLOAT16)
CACHE_DTYPES = (FLOAT16, BFLOAT16, INT8)
HALF_A_UNIT = {FLOAT32: 2.0**-24, FLOAT16: 2.0**-11, BFLOAT16: 2.0**-8, INT8: 0.0}
"""Of the last place of a number, as a share of it."""
BLOCK_SIZE = 16


def assert_rounded_once(actual, expected, dtype=None, magnitude=1.0):
    """As near as one rounding to the type allows, beside float32's errors in sums of numbers of this magnitude."""
    allowed = HALF_A_UNIT[dtype or actual.dtype] * 1.01 * np.abs(expected) + 4e-6 * magnitude
    error = np.abs(actual.astype(np.float64) - expected)
    assert np.all(error <= allowed), f"off by {error.max()}"


def number(value):
    """An attribute as operators get it."""
    return np.array(value, np.int64 if isinstance(value, int) else np.float32)


@dataclass
class NormScene:
    """fused_add_rms_norm of [tokens, width]."""

    tokens: int
    width: int
    dtype: np.dtype
    adds: bool = True
    norms_added: bool = False
    residual_scale: float = 1.0
    epsilon: float = 1e-5
    seed: int = 0
    inputs: dict = field(init=False)

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        x, added = (rng.normal(size=(self.tokens, self.width)) * scale for scale in (2, 3))
        weights = rng.uniform(0.5, 2, (2, self.width))
        if not self.adds:
            added[...] = np.nan  # what is not wanted is not looked at
        if not (self.adds and self.norms_added):
            weights[0] = np.nan
        named = {"x": x, "added": added, "added_weight": weights[0], "weight": weights[1]}
        self.inputs = {name: array.astype(self.dtype) for name, array in named.items()}

    def run(self, ops):
        """x as it is afterwards, and the output."""
        arrays = {name: array.copy() for name, array in self.inputs.items()}
        output = np.full_like(arrays["x"], np.nan)
        options = number(self.adds + 2 * self.norms_added)
        ops.call(
            "FusedAddRmsNorm", *arrays.values(), *map(number, (self.epsilon, self.residual_scale)), options, output
        )
        for name in ("added", "added_weight", "weight"):
            assert_same_bits(arrays[name], self.inputs[name])
        return arrays["x"], output

    def expected(self):
        """The same in float64."""
        x, added, added_weight, weight = (array.astype(np.float64) for array in self.inputs.values())
        if self.norms_added:
            added = rms_norm(added, added_weight, self.epsilon)
        total = x + added * float(np.float32(self.residual_scale)) if self.adds else x
        return total, rms_norm(total, weight, self.epsilon)

    def check(self, ops):
        """Compare."""
        (x, output), (expected_x, expected) = self.run(ops), self.expected()
        if self.adds:
            assert_rounded_once(x, expected_x, magnitude=4)
        else:
            assert_same_bits(x, self.inputs["x"])
        assert_rounded_once(output, expected, magnitude=4)


@dataclass
class RopeScene:
    """rope_and_cache of `tokens` tokens into pages of `num_blocks` blocks."""

    tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: np.dtype
    cache_dtype: np.dtype
    rotated: int | None = None
    has_bias: bool = True
    norms_heads: bool = True
    rotates: bool = True
    epsilon: float = 1e-6
    num_blocks: int = 3
    seed: int = 0
    slots: np.ndarray | None = None
    inputs: dict = field(init=False)

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        width, rotated = (self.heads + 2 * self.kv_heads) * self.head_dim, self.rotated or self.head_dim
        qkv, bias = rng.normal(size=(self.tokens, width)), rng.normal(size=width)
        norms, angles = rng.uniform(0.5, 2, (2, self.head_dim)), rng.uniform(-4, 4, (self.tokens, rotated // 2))
        rotation = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
        for wanted, array in ((self.has_bias, bias), (self.norms_heads, norms), (self.rotates, rotation)):
            if not wanted:
                array[...] = np.nan
        if self.slots is None:
            self.slots = rng.permutation(self.num_blocks * BLOCK_SIZE)[: self.tokens].astype(np.int32)
            self.slots[2::3] = -1
        shape = (self.num_blocks, BLOCK_SIZE, self.kv_heads, self.head_dim)
        self.inputs = {
            "qkv": qkv.astype(self.dtype), "bias": bias.astype(self.dtype), "head_norms": norms.astype(self.dtype),
            "rotation": rotation.astype(np.float32), "key_cache": empty_pages(shape, self.cache_dtype),
            "value_cache": empty_pages(shape, self.cache_dtype), "slot_mapping": self.slots,
        }  # fmt: skip

    def run(self, ops):
        """Both caches as they are afterwards, and the queries."""
        arrays = {name: array.copy() for name, array in self.inputs.items()}
        query = np.full((self.tokens, self.heads, self.head_dim), np.nan, self.dtype)
        options = number(self.has_bias + 2 * self.norms_heads + 4 * self.rotates)
        ops.call("RopeAndCache", *arrays.values(), number(self.epsilon), options, query)
        return arrays["key_cache"], arrays["value_cache"], query

    def expected(self):
        """Queries, keys and values of all tokens, float64 [T, heads, D]."""
        wide = {name: self.inputs[name].astype(np.float64) for name in ("qkv", "bias", "head_norms", "rotation")}
        qkv = wide["qkv"] + wide["bias"] if self.has_bias else wide["qkv"]
        ends = np.cumsum([self.heads, self.kv_heads]) * self.head_dim
        query, key, value = (part.reshape(self.tokens, -1, self.head_dim) for part in np.split(qkv, ends, axis=1))
        if self.norms_heads:
            query, key = (rms_norm(*pair, self.epsilon) for pair in zip((query, key), wide["head_norms"]))
        if self.rotates:
            query, key = (rotate(heads, wide["rotation"]) for heads in (query, key))
        return query, key, value

    def check(self, ops):
        """Compare: what no slot names keeps its bits."""
        (*caches, query), (expected_query, *expected) = self.run(ops), self.expected()
        assert_rounded_once(query, expected_query, magnitude=8)
        stored = self.slots >= 0
        places = np.unravel_index(self.slots[stored], (self.num_blocks, BLOCK_SIZE))
        others = np.ones((self.num_blocks, BLOCK_SIZE), bool)
        others[places] = False
        for cache, heads, before in zip(caches, expected, (self.inputs["key_cache"], self.inputs["value_cache"])):
            if self.cache_dtype == INT8:
                self._check_int8(cache, heads[stored], places, others, before)
                continue
            assert_rounded_once(cache[places], heads[stored], magnitude=8)
            assert_same_bits(cache[others], before[others])

    def _check_int8(self, cache, heads, places, others, before):
        """Within half a step of each head's own scale."""
        scales = unpack(cache)[1][places].astype(np.float64)
        np.testing.assert_allclose(scales, quantize(heads)[1], rtol=1e-5)
        error = np.abs(from_cache(cache)[places] - heads)
        assert np.all(error <= scales[..., None] * 0.5 + 4e-5)
        for part, part_before in zip(unpack(cache), unpack(before)):
            assert_same_bits(part[others], part_before[others])


@dataclass
class ActScene:
    """act_and_mul of [tokens, 2 * width]."""

    tokens: int
    width: int
    dtype: np.dtype
    activation: int = 0
    has_bias: bool = True
    seed: int = 0
    inputs: dict = field(init=False)

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        gate_up, bias = rng.normal(size=(self.tokens, 2 * self.width)) * 3, rng.normal(size=2 * self.width)
        if not self.has_bias:
            bias[...] = np.nan
        self.inputs = {"gate_up": gate_up.astype(self.dtype), "bias": bias.astype(self.dtype)}

    def run(self, ops):
        """The output."""
        output = np.full((self.tokens, self.width), np.nan, self.dtype)
        ops.call("ActAndMul", *self.inputs.values(), number(self.activation), number(int(self.has_bias)), output)
        return output

    def expected(self):
        """The same in float64, from the activations' definitions."""
        gate_up = self.inputs["gate_up"].astype(np.float64)
        if self.has_bias:
            gate_up = gate_up + self.inputs["bias"].astype(np.float64)
        gate, up = np.split(gate_up, 2, axis=1)
        if self.activation == 0:
            return gate / (1 + np.exp(-gate)) * up
        return 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3))) * up

    def check(self, ops):
        """Compare."""
        assert_rounded_once(self.run(ops), self.expected(), magnitude=16)


def rms_norm(x, weight, epsilon):
    """Over the last axis, float64."""
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + float(np.float32(epsilon))) * weight


def rotate(heads, rotation):
    """[T, heads, D], the pairs (i, i + R / 2) of the first R numbers turned as complex numbers."""
    half = rotation.shape[1] // 2
    turned = heads.copy()
    pairs = heads[..., :half] + 1j * heads[..., half : 2 * half]
    pairs = pairs * (rotation[:, None, :half] + 1j * rotation[:, None, half:])
    turned[..., :half], turned[..., half : 2 * half] = pairs.real, pairs.imag
    return turned


def empty_pages(shape, dtype):
    """NaN, or 7 times 7.5 in pages of int8."""
    if dtype == INT8:
        return pack(np.full(shape, 7, np.int8), np.full(shape[:-1], 7.5, np.float32))
    return np.full(shape, np.nan, dtype)
