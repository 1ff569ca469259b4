"""The Ascend C paged_attention with a window, on the emulated chip, against float64 NumPy."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from tests.custom_ops.ascendc.emulated_ops import CUBE_VARIANT, VECTOR_VARIANT
from tests.custom_ops.ascendc.test_paged_attention_kernel import (
    CUBE,
    TYPES,
    VECTOR,
    check,
    scene_of,
    with_padding,
)
from tests.custom_ops.attention_reference import UNUSED_ENTRY
from tests.custom_ops.kernel_calls import INT8

EDGES = [1, 16, 17, 63, 64, 65, 129, 200, 511, 513, 1100]
BOTH = pytest.mark.parametrize(("group", "chip"), [(1, VECTOR), (8, VECTOR), (3, CUBE), (8, CUBE)])


@BOTH
@pytest.mark.parametrize("window", [1, 16, 63, 64, 65, 130, 512, 700])
def test_decode_over_edges_of_blocks_and_tiles(emulated, group, chip, window):
    check(emulated, scene_of(EDGES, group=group, head_dim=80, block_size=48, window=window), chip)


@BOTH
@pytest.mark.parametrize("new_tokens", [[2, 1, 1], [5, 1, 7], [64, 64, 1], [33, 16, 15]])
@pytest.mark.parametrize("window", [3, 40, 100])
def test_prefill_and_decode_in_one_step_with_padding(emulated, group, chip, new_tokens, window):
    """Tokens of a run begin to see at different places of a tile, also of tiles that others have left behind."""
    scene = scene_of([700, 70, 40], new_tokens, group=group, block_size=16, window=window)
    check(emulated, with_padding(scene, [0, 2, len(scene.rows), len(scene.rows)]), chip)


@pytest.mark.parametrize(("variant", "step"), [(VECTOR_VARIANT, 70), (CUBE_VARIANT, 550)])
def test_tiles_that_the_last_token_of_a_run_does_not_see(emulated, variant, step):
    """Whole tiles of the run, and the whole piece of a core, stand before what it sees."""
    scene = scene_of([5 * step], [5 * step - 1], group=2, kv_heads=1, head_dim=32, block_size=16, window=step + 10)
    few = np.arange(step, 5 * step - 1, step)
    scene = replace(scene, query=scene.query[few], rows=scene.rows[few], context_lens=scene.context_lens[few])
    check(emulated, scene, (6, 3, variant))


@pytest.mark.parametrize(("query_dtype", "cache_dtype"), TYPES)
@pytest.mark.parametrize("group", [1, 8])
def test_other_types(emulated, query_dtype, cache_dtype, group):
    kinds = {"query_dtype": query_dtype, "cache_dtype": cache_dtype}
    check(emulated, scene_of([300, 17, 64], [1, 5, 20], group=group, head_dim=80, window=30, **kinds), (40, 20, 0))


@pytest.mark.parametrize("group", [1, 3, 8])
@pytest.mark.parametrize("window", [5, 64, 200])
@pytest.mark.parametrize("chip", [VECTOR, CUBE])
def test_int8_pages(emulated, group, window, chip):
    scene = scene_of(
        [300, 17, 64, 1, 265], [1, 5, 2, 1, 30], group=group, kv_heads=3, head_dim=32, cache_dtype=INT8, window=window
    )
    check(emulated, with_padding(scene, [0, 4]), chip)


@pytest.mark.parametrize("count", [1, 3, 20])
@pytest.mark.parametrize("cube", [False, True])
def test_any_number_of_cores(emulated, count, cube):
    scene = scene_of([2500, 3, 900, 64], [20, 1, 3, 1], group=4, kv_heads=1, block_size=16, window=1000)
    check(emulated, scene, (2 * count, count, CUBE_VARIANT if cube else VECTOR_VARIANT))


@pytest.mark.parametrize("chip", [VECTOR, CUBE])
def test_blocks_before_the_window_are_not_looked_at(emulated, chip):
    scene = scene_of([900, 300], [5, 1], group=4, block_size=16, window=100)
    scene.block_table[0, : (896 - 100) // 16] = UNUSED_ENTRY
    scene.block_table[1, : (300 - 100) // 16] = UNUSED_ENTRY
    check(emulated, scene, chip)


@pytest.mark.parametrize(("group", "kv_heads", "chip"), [(1, 8, VECTOR), (8, 1, CUBE)])
def test_what_is_read_is_the_window_and_no_more(emulated, group, kv_heads, chip):
    contexts, window = [2000, 1024, 150, 64], 200
    scene = scene_of(contexts, group=group, kv_heads=kv_heads, head_dim=128, block_size=128, window=window)
    check(emulated, scene, chip)
    traffic = emulated.report()["buffers"]
    moved = sum(traffic[name]["read"] for name in ("key_cache", "value_cache"))
    assert moved == 2 * sum(min(context, window) for context in contexts) * kv_heads * 128 * 2


@pytest.mark.parametrize("chip", [VECTOR, CUBE])
def test_a_window_that_holds_the_context_changes_no_bit(emulated, chip):
    scene = scene_of([600, 70], [40, 1], group=8)
    outputs = []
    for window in (0, 600, 2**40):
        with emulated.chip(*chip):
            outputs.append(emulated.paged_attention(*replace(scene, window=window).inputs()))
    for output in outputs[1:]:
        np.testing.assert_array_equal(output.view(np.uint16), outputs[0].view(np.uint16))


GRID = list(product([1, 3, 8], [64, 128], [16, 128], [1, 5, 40]))


@pytest.mark.slow
@pytest.mark.parametrize(("group", "head_dim", "block_size", "count"), GRID)
@pytest.mark.parametrize("cube", [False, True])
def test_grid(emulated, group, head_dim, block_size, count, cube):
    """T from 1 to 64, contexts from 1 to 4096 and windows among them."""
    rng = np.random.default_rng(GRID.index((group, head_dim, block_size, count)))
    chip = (2 * count, count, CUBE_VARIANT if cube else VECTOR_VARIANT)
    for rows in (1, 4, 9):
        contexts = [int(n) for n in rng.choice([*EDGES, 1023, 1024, 1025, 2000, 4095, 4096], rows)]
        new_tokens = [int(min(context, rng.integers(1, 64 // rows + 1))) for context in contexts]
        shape = {"kv_heads": 1, "head_dim": head_dim, "block_size": block_size}
        window = int(rng.integers(1, 1500))
        scene = scene_of(contexts, new_tokens, seed=rows, group=group, window=window, **shape)
        check(emulated, with_padding(scene, [0, len(scene.rows)]), chip)
