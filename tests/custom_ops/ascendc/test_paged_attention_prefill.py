"""The Ascend C paged_attention over chunks of prompts, on the emulated chip: who does them, and what they read."""

import numpy as np
import pytest

from tests.custom_ops.ascendc.emulated_ops import CUBE_VARIANT, DEFAULT_CHIP
from tests.custom_ops.ascendc.test_paged_attention_kernel import CUBE, FLOAT16, check, scene_of, with_padding
from tests.custom_ops.kernel_calls import BFLOAT16

QUERIES_OF_A_RUN = 128
"""That share one load of a KV tile on the cube cores (kCubeQueries)."""


def kv_bytes(emulated):
    traffic = emulated.report()["buffers"]
    return sum(traffic[name]["read"] for name in ("key_cache", "value_cache"))


def cube_macs(emulated):
    return emulated.report()["total"]["cube_macs"]


@pytest.mark.parametrize("group", [1, 2, 3, 8, 40])
@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)
def test_a_chunk_and_decode_in_one_step_go_to_the_cube(emulated, group, dtype):
    kinds = {"query_dtype": dtype, "cache_dtype": dtype}
    scene = scene_of([300, 70, 17], [150, 1, 1], group=group, kv_heads=2, head_dim=32, **kinds)
    check(emulated, with_padding(scene, [0, 150, len(scene.rows)]), DEFAULT_CHIP)
    assert cube_macs(emulated) > 0


@pytest.mark.parametrize("group", [1, 2])
def test_decode_of_small_groups_stays_with_the_vector_cores(emulated, group):
    scene = scene_of([300, 70, 17, 900], group=group, kv_heads=3)
    check(emulated, with_padding(scene, [0, 2, 4, 4]), DEFAULT_CHIP)
    assert cube_macs(emulated) == 0


@pytest.mark.parametrize("queries", [1, 2, 17, 63, 64, 65, 66, 81, 127, 128, 129, 193])
def test_any_number_of_queries_in_a_run(emulated, queries):
    """One is multiplied as two: the unit takes a left matrix of one row in another layout."""
    scene = scene_of([queries + 400], [queries], group=1, kv_heads=1, head_dim=48)
    check(emulated, scene, (4, 2, CUBE_VARIANT))


@pytest.mark.parametrize(("group", "kv_heads"), [(1, 2), (3, 1), (8, 1)])
@pytest.mark.parametrize("context", [300, 1100])
def test_a_chunk_reads_kv_once_for_128_queries(emulated, group, kv_heads, context):
    """In whole tokens: of a group of three, 40 tokens are the 120 queries that share a load."""
    head_dim, new_tokens = 64, 250
    scene = scene_of([context], [new_tokens], group=group, kv_heads=kv_heads, head_dim=head_dim, block_size=128)
    check(emulated, scene, DEFAULT_CHIP)
    run = 32 // group * 4
    assert QUERIES_OF_A_RUN - 4 * group < run * group <= QUERIES_OF_A_RUN
    ends = [min(first + run, new_tokens) for first in range(0, new_tokens, run)]
    assert kv_bytes(emulated) == sum(context - new_tokens + end for end in ends) * kv_heads * 2 * head_dim * 2


@pytest.mark.parametrize(("contexts", "tokens_of_a_core"), [([2048], 256), ([2048] * 3, 512), ([512] * 4, 256)])
def test_a_tile_shrinks_where_cores_would_be_idle(emulated, contexts, tokens_of_a_core):
    """1 x 2048 keeps 8 cores busy, with a tile of 256 tokens each."""
    head_dim, group = 32, 8
    check(emulated, scene_of(contexts, group=group, kv_heads=1, head_dim=head_dim, block_size=128), CUBE)
    queries, weights = group * head_dim * 2, group * tokens_of_a_core * 2
    most = emulated.report()["slowest_cube_core"]["mte2_bytes"]
    assert most <= 2 * tokens_of_a_core * head_dim * 2 + weights + 2 * queries


def test_the_answer_does_not_depend_on_the_other_tokens_of_the_step(emulated):
    """A run that is cut at another place, beside another row: the same numbers but for the order of sums."""
    whole = scene_of([700], [300], group=1, kv_heads=2, head_dim=64)
    with emulated.chip(*DEFAULT_CHIP):
        together = emulated.paged_attention(*whole.inputs())
        parts = []
        for tokens in (slice(0, 100), slice(100, 101), slice(101, 300)):
            inputs = list(whole.inputs())
            inputs[0], inputs[4], inputs[5] = (inputs[i][tokens] for i in (0, 4, 5))
            parts.append(emulated.paged_attention(*inputs))
    np.testing.assert_allclose(np.concatenate(parts).astype(float), together.astype(float), rtol=4e-3, atol=4e-4)
