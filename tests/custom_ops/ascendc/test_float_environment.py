"""The emulator computes alike on every thread, also on one that takes subnormal numbers for zeros."""

import ctypes
import platform
from contextlib import contextmanager

import numpy as np
import pytest

from tests.custom_ops.kernel_calls import assert_same_bits

MXCSR_AT, ZERO_FOR_SUBNORMALS = 28, 0x8040  # in glibc's fenv_t of x86-64; flush to zero, denormals are zeros


@contextmanager
def without_subnormals():
    """Have this thread compute as MindSpore's does that runs a graph for the first time."""
    libm = ctypes.CDLL("libm.so.6")
    before, changed = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
    for environment in (before, changed):
        libm.fegetenv(environment)
    register = ctypes.c_uint32.from_buffer(changed, MXCSR_AT)
    register.value |= ZERO_FOR_SUBNORMALS
    libm.fesetenv(changed)
    try:
        yield
    finally:
        libm.fesetenv(before)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="fenv_t as it lies on x86-64")
@pytest.mark.parametrize("group", [1, 8])
def test_subnormal_halves_are_numbers_on_any_thread(emulated, group):
    """All values are subnormal in float16, and so is what comes out."""
    kv = np.full((1, 16, 1, 64), 2.0**-16, np.float16)
    indices = (np.zeros((1, 1), np.int32), np.zeros(1, np.int32), np.full(1, 16, np.int32))
    inputs = (np.ones((1, group, 64), np.float16), kv, kv, *indices, 0.125)
    expected = emulated.paged_attention(*inputs)
    assert np.all(expected == np.float16(2.0**-16))
    with without_subnormals():
        assert np.float32(1e-39) * np.ones(1, np.float32) == 0, "the thread has other rules now"
        output = emulated.paged_attention(*inputs)
    assert_same_bits(output, expected)
