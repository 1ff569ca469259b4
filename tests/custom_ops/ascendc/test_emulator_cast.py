"""The emulated Cast against NumPy: every type pair, rounding mode and form."""

import ml_dtypes
import numpy as np
import pytest

from tests.custom_ops.ascendc.emulated import (
    KERNELS,
    WRITTEN,
    Argument,
    RefusedError,
    call_kernel,
    load_library,
    names,
    start_build,
)

CAST_TYPES = {
    "float": np.float32,
    "half": np.float16,
    "bfloat16_t": ml_dtypes.bfloat16,
    **{name + "_t": getattr(np, name) for name in ("int8", "uint8", "int16", "int32", "int64")},
}
NONE, RINT, FLOOR, CEIL, ROUND, TRUNC, ODD = range(7)
MODES = {
    RINT: np.rint,
    FLOOR: np.floor,
    CEIL: np.ceil,
    ROUND: lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x),
    TRUNC: np.trunc,
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("casting") / "casting.so"
    return load_library(start_build(KERNELS / "casting_host.cpp", path, "-O0"), path)


def cast(library, pair, values, mode, form=0):
    """Cast 256 elements and give the target, which was all 77 before."""
    to, source = pair.split("<")
    x = np.asarray(values, dtype_of(source))
    y = np.full(256, 77, dtype_of(to))
    tiling = np.array([names(library, "CastPairNames").index(pair), mode, form], np.int32)
    unused = np.zeros(8, np.int32)
    arguments = [Argument("x", x), Argument("y", y, WRITTEN), Argument("unused", unused), Argument("tiling", tiling)]
    call_kernel(library, "casting", arguments)
    return y


def dtype_of(name):
    """The NumPy type of an Ascend C type."""
    return np.dtype(CAST_TYPES[name])


def ties():
    """Multiples of a quarter on both sides of 0."""
    return np.arange(-128, 128) / 4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("to", ["int32_t", "int16_t", "int8_t", "uint8_t", "int64_t", "float"])
def test_cast_rounds_to_whole_numbers(library, to, mode):
    source = "half" if to in ("int8_t", "uint8_t") else "float"
    expected = MODES[mode](ties())
    if to == "uint8_t":
        expected = np.maximum(expected, 0)
    np.testing.assert_array_equal(cast(library, f"{to}<{source}", ties(), mode), expected.astype(dtype_of(to)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("to", "unit"), [("half", 2.0**-10), ("bfloat16_t", 2.0**-7)])
def test_cast_rounds_significands(library, to, unit, mode):
    steps = ties()  # in units of the last place of numbers from 1 to 2, on both sides of 0
    values = np.copysign(1 + np.abs(steps) * unit, steps).astype(np.float32)
    expected = MODES[mode](values.astype(np.float64) / unit) * unit
    np.testing.assert_array_equal(cast(library, f"{to}<float", values, mode).astype(np.float64), expected)


@pytest.mark.parametrize("pair", ["float<half", "float<bfloat16_t", "float<int16_t", "half<int8_t", "half<uint8_t"])
def test_widening_casts_are_exact(library, pair):
    values = np.arange(256) if "uint8" in pair else np.arange(-128, 128)
    np.testing.assert_array_equal(cast(library, pair, values, NONE).astype(np.float64), values)


def test_casts_saturate(library):
    values = np.resize([1e6, -1e6, 300, -300], 256)
    np.testing.assert_array_equal(cast(library, "int16_t<float", values, RINT)[:2], [32767, -32768])
    halves = np.resize([300, -300, 5, -5], 256)
    np.testing.assert_array_equal(cast(library, "int8_t<half", halves, RINT)[:4], [127, -128, 5, -5])
    np.testing.assert_array_equal(cast(library, "uint8_t<half", halves, RINT)[:4], [255, 0, 5, 0])


@pytest.mark.parametrize("pair", ["float<half", "half<float"])
def test_cast_masks_count_elements_of_the_wider_type(library, pair):
    values = np.arange(256)
    element = values % 64
    by_mask = cast(library, pair, values, NONE, form=1)
    np.testing.assert_array_equal(by_mask, np.where(element < 32, values, 77))
    by_bits = cast(library, pair, values, NONE, form=2)
    np.testing.assert_array_equal(by_bits, np.where(element % 2 == 0, values, 77))


@pytest.mark.parametrize(
    ("pair", "mode"),
    [("float<half", RINT), ("bfloat16_t<float", NONE), ("int32_t<float", NONE), ("bfloat16_t<float", ODD)],
)
def test_round_modes_that_do_not_exist(library, pair, mode):
    with pytest.raises(RefusedError, match="round mode CAST_.* does not exist"):
        cast(library, pair, np.zeros(256), mode)


def test_odd_rounding_keeps_what_was_inexact(library):
    values = np.resize(np.float32([1 + 2.0**-12, 1 + 2.0**-10, 1.0, 1 + 3 * 2.0**-11]), 256)
    expected = [1 + 2.0**-10, 1 + 2.0**-10, 1.0, 1 + 2.0**-10]
    np.testing.assert_array_equal(cast(library, "half<float", values, ODD)[:4], np.float16(expected))
