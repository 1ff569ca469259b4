"""The kernels of every level of aarch64, under an emulator: against float64, and against those of this CPU.

Needs a compiler for aarch64 and qemu's emulator of its programs, of Debian: g++-aarch64-linux-gnu and qemu-user.
"""

import os
import platform
import shutil
import subprocess
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from mindspore_paged.custom_ops import build
from tests.custom_ops import test_layer_ops
from tests.custom_ops.attention_reference import make_scene
from tests.custom_ops.emulated_kernels import CALLER, EmulatedKernels
from tests.custom_ops.kernel_builds import native_library
from tests.custom_ops.kernel_calls import CACHE_DTYPES, Kernels, OpRefusedError
from tests.custom_ops.layer_scenes import ALL_FORMATS, make_step_scene
from tests.custom_ops.test_paged_attention_kernel import check

COMPILER, EMULATOR, LIBRARIES = "aarch64-linux-gnu-g++", "qemu-aarch64", "/usr/aarch64-linux-gnu"
BUILDS = Path(__file__).parents[2] / "build" / "aarch64"
MISSING = [program for program in (COMPILER, EMULATOR) if shutil.which(program) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(platform.machine() == "aarch64", reason="this machine runs these levels without an emulator"),
]


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    """The program that calls operators, compiled for aarch64."""
    program = tmp_path_factory.mktemp("aarch64") / "called_by_pipe"
    subprocess.run([COMPILER, "-O1", "-std=c++17", str(CALLER), "-o", str(program), "-ldl"], check=True)
    return program


@pytest.fixture(scope="module", params=build.levels_of_machine("aarch64"), ids=lambda level: level.name)
def kernels(request, caller):
    """The operators of a level."""
    with patch.dict(os.environ, {"CXX": COMPILER}):
        library = build.build_cpu(BUILDS, request.param)
    emulated = EmulatedKernels(library, [EMULATOR, "-cpu", "max", "-L", LIBRARIES, str(caller)])
    yield emulated
    emulated.close()


@pytest.mark.parametrize("form", ALL_FORMATS)
def test_products(kernels, form):
    """One token, a few, a tile and a part of one, more than a tile; whole panels and rests."""
    for num_tokens, rows in ((1, 33), (2, 16), (5, 17), (13, 18), (97, 17)):
        test_layer_ops.check_norm_linear(kernels, num_tokens, num_tokens, 544, rows, form)


@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [18, 64, 128])
def test_attention(kernels, head_dim, cache_dtype):
    rng = np.random.default_rng(head_dim)
    lengths = {"contexts": [37, 5, 300], "new_tokens": [1, 3, 20]}
    check(kernels, make_scene(rng, **lengths, head_dim=head_dim, cache_dtype=cache_dtype))


@pytest.mark.parametrize("form", ["float32", "bfloat16", "int8", "Q4_0"])
def test_a_step_is_near_that_of_this_cpu(kernels, catcher, form):
    """Sums are added in another order, and go through two layers, their pages and the head."""
    formats = [((form,) * 4, (form,) * 3)] * 2
    scene = make_step_scene(np.random.default_rng(3), [40, 65, 16, 1], [40, 7, 1, 1], formats, (form, form), True)
    other = scene.on_copied_pages()
    here, there = scene.run(Kernels(native_library(), catcher)), other.run(kernels)
    assert np.isfinite(here).all()
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-3 * np.abs(here).max())
    for ours, theirs in zip(scene.attentions, other.attentions):
        for cache, of_other in ((ours.key_cache, theirs.key_cache), (ours.value_cache, theirs.value_cache)):
            largest = np.nanmax(np.abs(cache))
            np.testing.assert_allclose(of_other, cache, rtol=0, atol=1e-3 * largest)


def test_refusals_come_as_messages(kernels):
    scene = make_scene(np.random.default_rng(0), contexts=[5], new_tokens=[1])
    with pytest.raises(OpRefusedError, match="paged_attention: got 3 inputs and outputs, it takes 9"):
        kernels.call("PagedAttention", *scene.inputs()[:3])
