"""The tests of the kernels notice every mistake of kernel_mutants.py, and none where there is none."""

from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest

from tests.custom_ops.ascendc import test_cache_kernels as caches
from tests.custom_ops.ascendc import test_far_pages as far
from tests.custom_ops.ascendc import test_paged_attention_kernel as attention
from tests.custom_ops.ascendc.emulated_ops import CUBE_VARIANT, VECTOR_VARIANT, EmulatedOps
from tests.custom_ops.ascendc.kernel_mutants import MUTANTS, SWITCH, build_mutants, with_mutants
from tests.custom_ops.ascendc.op_host_calls import OP_KERNEL
from tests.custom_ops.ascendc.test_paged_attention_kernel import CUBE, VECTOR, check, scene_of, with_padding
from tests.custom_ops.kernel_calls import INT8, OpRefusedError

FLOAT16 = np.dtype(np.float16)


@pytest.fixture(scope="module")
def mutants(catcher, tmp_path_factory):
    return EmulatedOps(build_mutants(tmp_path_factory.mktemp("mutants")), catcher)


def attend(ops, _):
    """Runs of tokens, padding, blocks and tiles that do not fit, tasks that are cut over cores, windows, int8."""
    for variant in (VECTOR_VARIANT, CUBE_VARIANT):
        scene = scene_of([700, 1100, 70], [3, 1, 20], group=4, kv_heads=2, head_dim=80, block_size=48)
        check(ops, with_padding(scene, [0, 4, 4, 4, 4, 4, 4, 4]), (6, 3, variant))
        for window in (100, 500):
            check(ops, scene_of([700, 70], [3, 20], group=4, kv_heads=2, window=window), (6, 3, variant))
    check(ops, scene_of([700, 70], [3, 20], group=4, kv_heads=2, cache_dtype=INT8), (6, 0, VECTOR_VARIANT))


def pad(ops, _):
    for chip in (VECTOR, CUBE):
        for row, context in ((-1, 9), (0, 0)):
            attention.test_the_chip_takes_a_token_with_one_mark_of_padding_for_padding(ops, chip, row, context)


def store(ops, _):
    rng = np.random.default_rng(0)
    for cores in (3, 39):
        slots = caches.random_slots(rng, 64, 6 * 16)
        with ops.chip(cores, 0):
            caches.check_reshape(
                ops, caches.tokens_for(rng, slots, 2, 80, FLOAT16), caches.nan_caches(FLOAT16, 6, 16, 2, 80), slots
            )
    for kv_heads, head_dim in ((3, 64), (33, 128)):
        caches.test_int8_is_quantized_head_by_head(ops, FLOAT16, kv_heads, head_dim, 33, 3)


def move(ops, _):
    for dtype in (FLOAT16, INT8):
        for pairs in caches.CHAINS.values():
            caches.test_blocks_are_copied_in_order(ops, pairs, dtype, 7, 16, 2, 80)
        caches.test_blocks_are_read_keys_then_values(ops, dtype, 7, (16, 2, 80), [2, 0, 3])
        caches.test_what_was_read_from_a_layer_is_written_back_to_it(ops, dtype, 7, (16, 2, 80), 2)
    filled, ids = caches.filled_caches(FLOAT16, 1200, 16, 1, 16), np.random.default_rng(5).permutation(1200)[:1100]
    with ops.chip(3, 0):
        caches.assert_same_bits(caches.read_blocks(ops, filled, ids), filled[:, ids])


def reach(ops, folder):
    make = partial(far.make_far_caches, folder)
    for dtype, variant, group in ((FLOAT16, CUBE_VARIANT, 4), (INT8, VECTOR_VARIANT, 1)):
        far.test_attention_reads_far_pages(ops, make, dtype, group, (4, 2, variant))
        far.test_tokens_are_stored_in_far_slots(ops, make, dtype)
        far.test_far_blocks_are_copied_read_and_written(ops, make, dtype)


CHECKS = (attend, pad, store, move, reach)


@contextmanager
def mistaken(ops, number):
    """Make the mistake of this number."""
    switch = ops.number(SWITCH)
    switch.value = number
    try:
        yield
    finally:
        switch.value = -1


def test_every_mutant_is_of_the_kernels_as_they_are():
    """An expression that is written otherwise now is to be followed by its mutant."""
    for file in {mutant.file for mutant in MUTANTS}:
        assert SWITCH in with_mutants(file, (OP_KERNEL / file).read_text())


@pytest.mark.slow
def test_without_a_mistake_all_is_well(mutants, tmp_path):
    for each in CHECKS:
        each(mutants, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(MUTANTS)), ids=[f"{each.file}:{each.mistake}" for each in MUTANTS])
def test_the_mistake_is_noticed(mutants, number, tmp_path):
    with mistaken(mutants, number):
        for each in CHECKS:
            try:
                each(mutants, tmp_path)
            except (AssertionError, OpRefusedError):
                return
    pytest.fail("no test of the kernels fails")
