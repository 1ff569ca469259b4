"""The emulator's 16-bit floating types against NumPy and ml_dtypes, with the processor's conversions and without."""

import ctypes

import ml_dtypes
import numpy as np
import pytest

from tests.custom_ops.ascendc.emulated import KERNELS, load_library, start_build

ALL_BITS = np.arange(65536, dtype=np.uint16)


@pytest.fixture(scope="module", params=["portable", "native"])
def library(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("conversions") / f"{request.param}.so"
    flags = ["-O1"] + (["-march=native"] if request.param == "native" else [])
    return load_library(start_build(KERNELS / "conversions_host.cpp", path, *flags), path)


def converted(library, function, source, dtype):
    """Convert an array by one of the library's functions."""
    target = np.empty(source.shape, dtype)
    getattr(library, function)(
        ctypes.c_void_p(source.ctypes.data), ctypes.c_void_p(target.ctypes.data), ctypes.c_size_t(source.size)
    )
    return target


def hard_floats():
    """Random floats of every magnitude, each half and bfloat16, and what lies between and next to the middle."""
    rng = np.random.default_rng(1)
    anything = rng.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    halves = ALL_BITS.view(np.float16).astype(np.float32)
    brains = ALL_BITS.astype(np.uint32) << 16
    with np.errstate(invalid="ignore", over="ignore"):
        middles = (halves[:-1] + halves[1:]) / 2
    middle_bits = np.concatenate([brains + 0x8000, brains + 0x7FFF, brains + 0x8001]).view(np.float32)
    around = [np.nextafter(middles, np.float32(side)) for side in (-np.inf, np.inf)]
    return np.concatenate([anything, halves, middles, *around, brains.view(np.float32), middle_bits])


def assert_same_floats(actual, expected):
    """Equal bits, and NaN where NaN is due, whatever its payload."""
    nan = np.isnan(expected.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(actual.astype(np.float32)), nan)
    bits = f"u{actual.itemsize}"
    np.testing.assert_array_equal(actual.view(bits)[~nan], expected.view(bits)[~nan])


def test_every_half_becomes_its_float(library):
    floats = converted(library, "HalvesToFloats", ALL_BITS, np.float32)
    assert_same_floats(floats, ALL_BITS.view(np.float16).astype(np.float32))


def test_every_bfloat16_becomes_its_float(library):
    floats = converted(library, "Bfloat16sToFloats", ALL_BITS, np.float32)
    assert_same_floats(floats, ALL_BITS.view(ml_dtypes.bfloat16).astype(np.float32))


def test_floats_round_to_the_nearest_half(library):
    floats = hard_floats()
    with np.errstate(over="ignore", invalid="ignore"):
        expected = floats.astype(np.float16)
    assert_same_floats(converted(library, "FloatsToHalves", floats, np.uint16).view(np.float16), expected)


def test_floats_round_to_the_nearest_bfloat16(library):
    floats = hard_floats()
    actual = converted(library, "FloatsToBfloat16s", floats, np.uint16).view(ml_dtypes.bfloat16)
    with np.errstate(invalid="ignore"):
        expected = floats.astype(ml_dtypes.bfloat16)
    assert_same_floats(actual, expected)
