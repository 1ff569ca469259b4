"""What the layer operators should give: plain NumPy in float64, and beside each number how far float32 may be from it.

The bound is worked out, not guessed: an operator adds in float32, which is off by half a unit in the last place for
each addition. Of blocks, it multiplies whole numbers that stand for a token's numbers, off by half a step; their sums
are exact.
"""

from dataclasses import dataclass, replace

import gguf
import numpy as np

from mindspore_paged.formats.weight_format import FORMATS, WeightFormat

UNIT = 2.0**-24  # float32's rounding, relative
UNIT_OF_BFLOAT16 = 2.0**-8
BLOCK = 32
STEPS = 32639  # a token's 32 neighbours become whole numbers up to this
HALF_STEP = 0.51  # beside the half, up to 32639 * 2 units for the rounded reciprocal and product: less than 0.004
NOTHING = 3.9e-34  # a block whose scale would be less than float32's smallest normal number becomes zeros


@dataclass(frozen=True)
class Weight:
    """A matrix as a file has it, and as numbers [N, K] in float64; its bias, float32 [N], or None.

    parts: what values are the sum of, each multiplied and added apart: a block's numbers, then its minimum.
    scale_columns: how many columns share a scale, and are added up as whole numbers.
    """

    form: WeightFormat
    stored: np.ndarray
    values: np.ndarray
    parts: tuple[np.ndarray, ...] = ()
    bias: np.ndarray | None = None
    scale_columns: int = BLOCK


def make_weight(rng, form_name: str, rows: int, columns: int, has_bias: bool = False) -> Weight:
    """Random numbers of about 1 / sqrt(columns), larger and off zero by turns, so that each block has its own scale."""
    floats = rng.normal(size=(rows, columns)) + rng.normal(size=(rows, 1)) * 0.3
    floats *= 2.0 ** rng.uniform(-1, 1, size=(rows, -(-columns // BLOCK))).repeat(BLOCK, axis=1)[:, :columns]
    weight = weight_of((floats / np.sqrt(columns)).astype(np.float32), form_name)
    return replace(weight, bias=rng.normal(size=rows).astype(np.float32)) if has_bias else weight


def weight_of(floats: np.ndarray, form_name: str) -> Weight:
    """`floats` rounded to a format by GGUF's own code."""
    form = FORMATS[form_name]
    if not form.block_bytes:
        stored = floats.astype(form.dtype)
        return Weight(form, stored, stored.astype(np.float64))
    kind = gguf.GGMLQuantizationType(form.kind)
    stored = gguf.quantize(floats, kind)
    values = gguf.dequantize(stored, kind).astype(np.float64)
    minimums = minimums_of(form, stored)
    return Weight(form, stored, values, (values,) if minimums is None else (values - minimums, minimums))


def minimums_of(form: WeightFormat, stored: np.ndarray) -> np.ndarray | None:
    """What each weight has beside its number times the scale, [N, K] in float64; None for what has no minimums."""
    blocks = stored.reshape(len(stored), -1, form.block_bytes)
    halves = blocks[..., :4].copy().view(np.float16).astype(np.float64)
    of_blocks = {"int8": None, "Q4_0": None, "Q4_1": halves[..., 1]}[form.name]
    return None if of_blocks is None else of_blocks.repeat(BLOCK, axis=1)


@dataclass(frozen=True)
class Bounded:
    """What is right, and how far from it an operator may be."""

    value: np.ndarray
    error: np.ndarray

    def reshape(self, *shape):
        """Of both."""
        return Bounded(self.value.reshape(*shape), self.error.reshape(*shape))

    def times(self, factor: float) -> "Bounded":
        """With a product's rounding."""
        factor = float(np.float32(factor))
        value = self.value * factor
        return Bounded(value, self.error * abs(factor) + UNIT * (np.abs(value) + self.error * abs(factor)))

    def plus(self, other: np.ndarray) -> "Bounded":
        """With a sum's rounding."""
        value = self.value + other
        return Bounded(value, self.error + UNIT * (np.abs(value) + self.error))


def assert_within(output: np.ndarray, expected: Bounded) -> None:
    """Every number is as near as it must be; a NaN is not."""
    assert output.dtype == np.float32
    excess = np.abs(output - expected.value) - expected.error
    wrong = ~(excess <= 0)
    assert not wrong.any(), (
        f"{wrong.sum()} of {wrong.size} are wrong, NaN: {np.isnan(output).sum()}; first at {np.argwhere(wrong)[0]}, "
        f"worst {np.nanmax(excess):.3g} beyond a bound of {np.median(expected.error):.3g}"
    )


def norm_linear(x, norm_weight, weight, epsilon) -> Bounded:
    """norm(x) W^T."""
    return product(normalized(x, norm_weight, epsilon), weight)


def feed_forward(x, norm_weight, weights, epsilon, activation="silu") -> Bounded:
    """SwiGLU, or GeGLU, without x."""
    gate, up, down = weights
    inputs = normalized(x, norm_weight, epsilon)
    return product(gated(product(inputs, gate), product(inputs, up), activation), down)


def normalized(x, norm_weight, epsilon) -> Bounded:
    """RMSNorm along the last axis of an array, or of what is Bounded.

    The mean has a sixteenth of its terms in a chain of additions. What x is off by changes its number, and the root of
    the mean: by its part of it, were all off the same way.
    """
    given = x if isinstance(x, Bounded) else Bounded(x.astype(np.float64), np.zeros(x.shape))
    squares = (given.value**2).mean(axis=-1, keepdims=True) + np.float32(epsilon)
    value = given.value / np.sqrt(squares) * norm_weight
    root_is_off = (np.abs(given.value) * given.error + given.error**2).mean(axis=-1, keepdims=True) / squares
    error = np.abs(norm_weight) * given.error / np.sqrt(squares) + np.abs(value) * root_is_off
    return Bounded(value, error * (1 + 2 * root_is_off) + np.abs(value) * (value.shape[-1] / 16 + 16) * UNIT)


def product(x: Bounded, weight: Weight) -> Bounded:
    """x W^T, plus the bias; blocks mean the numbers that GGUF's own code makes of them.

    Of floats, the products of all columns are added one after the other. w16a16 may round x to bfloat16.
    """
    if weight.bias is not None:
        return product(x, replace(weight, bias=None)).plus(weight.bias)
    if weight.parts:
        return product_with_blocks(x, weight)
    if weight.form.name == "w16a16":
        x = Bounded(x.value, x.error + UNIT_OF_BFLOAT16 * (np.abs(x.value) + x.error))
    sizes = np.abs(weight.values)
    additions = weight.values.shape[1] + 16
    error = x.error @ sizes.T + (np.abs(x.value) + x.error) @ sizes.T * additions * UNIT
    return Bounded(x.value @ weight.values.T, error)


def product_with_blocks(x: Bounded, weight: Weight) -> Bounded:
    """The same, where a token's rounding meets the weight, but that of the additions each part of it.

    A block adds one number a part, and is rounded as a whole number, by its scale and by the product: 4 with what these
    lose in each other. GGUF rounds the sum of a number and a minimum too, which the operator never makes. A scale times
    another may be below float32's normal numbers, which loses less of a part than NOTHING.
    """
    off = x.error + rounding(x)
    error = (off + UNIT * np.abs(x.value)) @ np.abs(weight.values).T
    additions = len(weight.parts) * weight.values.shape[1] / weight.scale_columns + 4
    for part in weight.parts:
        sizes = np.abs(part)
        length = weight.scale_columns
        of_blocks = np.abs(by_blocks(x.value, length) @ by_blocks(part, length).swapaxes(1, 2)).sum(axis=0)
        error += (of_blocks + off @ sizes.T) * additions * UNIT + NOTHING * sizes.sum(axis=1)
    return Bounded(x.value @ weight.values.T, error)


def by_blocks(matrix: np.ndarray, length: int) -> np.ndarray:
    """[rows, K] as [K / length, rows, length]."""
    return matrix.reshape(len(matrix), -1, length).swapaxes(0, 1)


def rounding(x: Bounded) -> np.ndarray:
    """How far a token's numbers [T, K] are from the whole numbers that stand for them."""
    largest = (np.abs(x.value) + x.error).reshape(len(x.value), -1, BLOCK).max(axis=2)
    return (largest * HALF_STEP / STEPS + np.minimum(largest, NOTHING)).repeat(BLOCK, axis=1)


def gated(gate: Bounded, up: Bounded, activation: str) -> Bounded:
    """activation(gate) * up."""
    active = silu(gate) if activation == "silu" else gelu_tanh(gate)
    value = active.value * up.value
    error = active.error * (np.abs(up.value) + up.error) + np.abs(active.value) * up.error + UNIT * np.abs(value)
    return Bounded(value, error)


def silu(gate: Bounded) -> Bounded:
    """a / (1 + e^-a), nowhere steeper than 1.1."""
    with np.errstate(over="ignore"):
        value = gate.value / (1 + np.exp(-gate.value))
    return Bounded(value, 1.1 * gate.error + 16 * UNIT * np.abs(value) + 1e-35)


def gelu_tanh(gate: Bounded) -> Bounded:
    """GELU by tanh, nowhere steeper than 1.13; an exponential is as far off as its argument, which is rounded."""
    argument = np.sqrt(2 / np.pi) * (gate.value + 0.044715 * gate.value**3)
    # 1 + tanh(b), by the exponential: as tanh is written, nothing is left of it far below zero.
    twice = np.abs(2 * argument)
    small = np.exp(-twice)
    value = gate.value * np.where(argument > 0, 1.0, small) / (1 + small)
    by_tanh = 0.5 * gate.value * (1 + np.tanh(argument))
    assert np.allclose(value, by_tanh, rtol=1e-9, atol=1e-12)
    units = 16 + 8 * twice * np.where(argument > 0, small, 1.0)
    return Bounded(value, 1.13 * gate.error + units * UNIT * np.abs(value) + 1e-35)


def rotated(heads: Bounded, cos, sin) -> Bounded:
    """Rotary embedding of [T, heads, D] in rotate-half order, for each token's cos and sin [T, 1, rotary_dim].

    What is behind the first rotary_dim numbers of a head stays.
    """
    rotary_dim = cos.shape[-1]
    half = rotary_dim // 2
    turning, turning_error = heads.value[..., :rotary_dim], heads.error[..., :rotary_dim]
    turned = np.concatenate([-turning[..., half:], turning[..., :half]], axis=-1)
    turned_error = np.concatenate([turning_error[..., half:], turning_error[..., :half]], axis=-1)
    size = np.abs(turning * cos) + np.abs(turned * sin)
    value, error = heads.value.copy(), heads.error.copy()
    value[..., :rotary_dim] = turning * cos + turned * sin
    error[..., :rotary_dim] = turning_error * np.abs(cos) + turned_error * np.abs(sin) + 2 * UNIT * size
    return Bounded(value, error)


def attended(query: Bounded, key_cache, value_cache, block_table, rows, positions, scale, window=0) -> Bounded:
    """Softmax attention of [T, H, D] over each row of the pages up to the token itself; zeros for padding (row -1).

    window: over that many tokens at most, the token itself the last; 0: over all.
    A score that is off by e changes its weight by e^2e at most, its own and the sum's. The rest is float32's.
    """
    block_size, group = key_cache.shape[1], query.value.shape[1] // key_cache.shape[2]
    value, error = np.zeros(query.value.shape), np.zeros(query.value.shape)
    for token, (row, position) in enumerate(zip(rows, positions, strict=True)):
        if row < 0:
            continue
        places = np.arange(max(0, position + 1 - window) if window else 0, position + 1)
        slots = block_table[row, places // block_size], places % block_size
        keys, values = (cache[slots].astype(np.float64).repeat(group, axis=1) for cache in (key_cache, value_cache))
        scores = np.einsum("phd,hd->hp", keys, query.value[token]) * scale
        score_error = (np.einsum("phd,hd->hp", np.abs(keys), query.error[token]) * scale).max(axis=1)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        value[token] = np.einsum("hp,phd->hd", weights, values)
        sizes = np.einsum("hp,phd->hd", weights, np.abs(values))
        error[token] = (np.expm1(2 * score_error)[:, None] + 5e-6) * sizes
    return Bounded(value, error)
