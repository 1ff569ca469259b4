"""Weights of every format of blocks, of random bytes: what they mean is said by gguf-py, or by NumPy here."""

from dataclasses import dataclass

import gguf
import numpy as np

from mindspore_paged.formats.weight_format import BLOCK_FORMATS, WeightFormat
from tests.custom_ops.layer_reference import Weight
from tests.weights.block_values import values_of

FORMS = {form.name: form for form in BLOCK_FORMATS.values()}
OF_GGUF = [name for name, form in FORMS.items() if form.kind < 100]


@dataclass(frozen=True)
class Layout:
    """Where a block has its numbers: float16 scales (and minimums), bytes that are a power of two, and the numbers.

    scale_columns: how many share a scale. minimum: whether products are added to one.
    """

    halves: tuple[int, ...] = ()
    exponent: int | None = None
    numbers: slice | None = None
    scale_columns: int = 32
    minimum: bool = False


LAYOUTS = {
    "int8": Layout((0,), numbers=slice(2, None)),
    "Q4_0": Layout((0,), numbers=slice(2, None)),
    "Q4_1": Layout((0, 2), numbers=slice(4, None), minimum=True),
    "Q5_0": Layout((0,), numbers=slice(2, None)),
    "Q5_1": Layout((0, 2), numbers=slice(4, None), minimum=True),
    "Q2_K": Layout((80, 82), numbers=slice(16, 80), scale_columns=16, minimum=True),
    "Q3_K": Layout((108,), scale_columns=16),
    "Q4_K": Layout((0, 2), numbers=slice(16, None), minimum=True),
    "Q5_K": Layout((0, 2), numbers=slice(16, None), minimum=True),
    "Q6_K": Layout((208,), scale_columns=16),
    "IQ4_NL": Layout((0,)),
    "IQ4_XS": Layout((0,)),
    "MXFP4": Layout(exponent=0),
}


def random_blocks(rng: np.random.Generator, form: WeightFormat, rows: int, columns: int) -> Weight:
    """Any bytes but for scales, which are small numbers of both signs."""
    count = rows * columns // form.group
    blocks = rng.integers(0, 256, (count, form.block_bytes), np.uint8)
    if form.kind >= 100:
        blocks[:, :4] = rng.normal(size=(count, 1)).astype(np.float32).view(np.uint8).reshape(count, 4)
        if form.name.startswith("INT4"):
            blocks[:, 4] = rng.integers(0, 17, count)
        if form.name.startswith("FP8"):
            numbers = blocks[:, 4:]
            numbers[numbers & 0x7F == 0x7F] = 0  # those that are none
        return weight_of_blocks(form, blocks.reshape(rows, -1))
    layout = LAYOUTS[form.name]
    for start in layout.halves:
        halves = (rng.normal(size=(count, 1)) / 16).astype(np.float16)
        blocks[:, start : start + 2] = halves.view(np.uint8).reshape(count, 2)
    if layout.exponent is not None:
        blocks[:, layout.exponent] = rng.integers(110, 130, count)
    return weight_of_blocks(form, blocks.reshape(rows, -1))


def weight_of_blocks(form: WeightFormat, stored: np.ndarray) -> Weight:
    """The matrix that has these blocks, uint8 [N, bytes of a row]."""
    values, minimums = meaning(form, stored)
    wide = values.astype(np.float64)
    scale_columns = LAYOUTS[form.name].scale_columns if form.name in LAYOUTS else 32
    parts = (wide,) if minimums is None else (wide - minimums, minimums)
    if form.name.startswith("FP8"):
        parts = ()  # multiplied as floats
    return Weight(form, stored, wide, parts, scale_columns=scale_columns)


def meaning(form: WeightFormat, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Values float32 [N, K]; minimums [N, K] in float64, or None."""
    if form.kind < 100:
        kind = gguf.GGMLQuantizationType(form.kind)
        layout, values = LAYOUTS[form.name], gguf.dequantize(stored, kind)
        if not layout.minimum:
            return values, None
        zeros = stored.reshape(-1, form.block_bytes).copy()
        zeros[:, layout.numbers] = 0
        return values, gguf.dequantize(zeros.reshape(stored.shape), kind).astype(np.float64)
    if not form.name.startswith("INT4"):
        return values_of(stored, form), None
    blocks = stored.reshape(-1, form.block_bytes)
    scales = blocks[:, :4].copy().view(np.float32)
    nibbles = blocks[:, 5:].reshape(len(blocks), -1, 1, 16) >> np.array([0, 4], np.uint8)[:, None] & 15
    minimums = -(scales * blocks[:, 4:5].astype(np.float32))
    values = scales * nibbles.reshape(len(blocks), -1) + minimums
    return values.reshape(len(stored), -1), np.repeat(minimums, form.group).reshape(len(stored), -1).astype(np.float64)


def bytes_of_scales(form: WeightFormat) -> np.ndarray:
    """Which of a block's bytes hold floats: bool [block_bytes]."""
    floats = np.zeros(form.block_bytes, bool)
    if form.kind >= 100:
        floats[: 5 if form.name.startswith("INT4") else 4] = True
        return floats
    layout = LAYOUTS[form.name]
    for start in (*layout.halves, *(start + 1 for start in layout.halves)):
        floats[start] = True
    if layout.exponent is not None:
        floats[layout.exponent] = True
    return floats
