"""What the layer operators should give: plain NumPy in float64, and beside each number how far float32 may be from it.

The bound is worked out, not guessed: an operator adds in float32, which is off by half a unit in the last place for
each addition.
"""

from dataclasses import dataclass

import gguf
import numpy as np

from mindspore_paged.formats.weight_format import FORMATS, WeightFormat

UNIT = 2.0**-24  # float32's rounding, relative
BLOCK = 32
CHAINS = 8  # partial sums that a product is made of; in vectors of four (portable) errors still cancel to less


@dataclass(frozen=True)
class Weight:
    """A matrix as an operator takes it, and as numbers [N, K] in float64."""

    form: WeightFormat
    stored: np.ndarray
    values: np.ndarray


def make_weight(rng, form_name: str, rows: int, columns: int) -> Weight:
    """Random numbers of about 1 / sqrt(columns), larger and off zero by turns, so that each block has its own scale."""
    floats = rng.normal(size=(rows, columns)) + rng.normal(size=(rows, 1)) * 0.3
    floats *= 2.0 ** rng.uniform(-1, 1, size=(rows, -(-columns // BLOCK))).repeat(BLOCK, axis=1)[:, :columns]
    return weight_of((floats / np.sqrt(columns)).astype(np.float32), form_name)


def weight_of(floats: np.ndarray, form_name: str) -> Weight:
    """`floats` rounded to a format by GGUF's own code."""
    form = FORMATS[form_name]
    if not form.block_bytes:
        stored = floats.astype(form.dtype)
        return Weight(form, stored, stored.astype(np.float64))
    kind = gguf.GGMLQuantizationType(form.kind)
    stored = gguf.quantize(floats, kind)
    return Weight(form, stored, gguf.dequantize(stored, kind).astype(np.float64))


@dataclass(frozen=True)
class Bounded:
    """What is right, and how far from it an operator may be."""

    value: np.ndarray
    error: np.ndarray

    def reshape(self, *shape):
        """Of both."""
        return Bounded(self.value.reshape(*shape), self.error.reshape(*shape))

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


def feed_forward(x, norm_weight, weights, epsilon) -> Bounded:
    """SwiGLU, without x."""
    gate, up, down = weights
    inputs = normalized(x, norm_weight, epsilon)
    return product(swiglu(product(inputs, gate), product(inputs, up)), down)


def normalized(x, norm_weight, epsilon) -> Bounded:
    """RMSNorm; the mean has a sixteenth of its terms in a chain of additions."""
    wide = x.astype(np.float64)
    value = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + np.float32(epsilon)) * norm_weight
    return Bounded(value, np.abs(value) * (x.shape[1] / 16 + 16) * UNIT)


def product(x: Bounded, weight: Weight) -> Bounded:
    """x W^T; blocks mean the numbers that GGUF's own code makes of them."""
    sizes = np.abs(weight.values)
    additions = weight.values.shape[1] / CHAINS + 16
    error = x.error @ sizes.T + (np.abs(x.value) + x.error) @ sizes.T * additions * UNIT
    return Bounded(x.value @ weight.values.T, error)


def swiglu(gate: Bounded, up: Bounded) -> Bounded:
    """silu(gate) * up; silu is nowhere steeper than 1.1."""
    with np.errstate(over="ignore"):
        silu = gate.value / (1 + np.exp(-gate.value))
    silu_error = 1.1 * gate.error + 16 * UNIT * np.abs(silu) + 1e-35
    value = silu * up.value
    error = silu_error * (np.abs(up.value) + up.error) + np.abs(silu) * up.error + UNIT * np.abs(value)
    return Bounded(value, error)


def rotated(heads: Bounded, cos, sin) -> Bounded:
    """Rotary embedding of [T, heads, D] in rotate-half order, for each token's cos and sin [T, 1, D]."""
    half = heads.value.shape[-1] // 2
    turned = np.concatenate([-heads.value[..., half:], heads.value[..., :half]], axis=-1)
    turned_error = np.concatenate([heads.error[..., half:], heads.error[..., :half]], axis=-1)
    size = np.abs(heads.value * cos) + np.abs(turned * sin)
    error = heads.error * np.abs(cos) + turned_error * np.abs(sin) + 2 * UNIT * size
    return Bounded(heads.value * cos + turned * sin, error)


def attended(query: Bounded, key_cache, value_cache, block_table, rows, positions, scale) -> Bounded:
    """Softmax attention of [T, H, D] over each row of the pages up to the token itself; zeros for padding (row -1).

    A score that is off by e changes its weight by e^2e at most, its own and the sum's. The rest is float32's.
    """
    block_size, group = key_cache.shape[1], query.value.shape[1] // key_cache.shape[2]
    value, error = np.zeros(query.value.shape), np.zeros(query.value.shape)
    for token, (row, position) in enumerate(zip(rows, positions, strict=True)):
        if row < 0:
            continue
        places = np.arange(position + 1)
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
