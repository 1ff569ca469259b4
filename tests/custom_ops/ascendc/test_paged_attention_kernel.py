"""The Ascend C paged_attention, on the emulated chip, against float64 NumPy."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from tests.custom_ops.ascendc.emulated_ops import CUBE_VARIANT, DEFAULT_CHIP, VECTOR_VARIANT
from tests.custom_ops.attention_reference import make_scene, reference_attention
from tests.custom_ops.int8_pages import pack, unpack
from tests.custom_ops.kernel_calls import BFLOAT16, INT8, OpRefusedError

FLOAT16 = np.dtype(np.float16)
TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 2e-3}
"""Of the head's typical value: weights and results are rounded to 11 bits in float16, to 8 in bfloat16."""

TYPES = [(np.float32, FLOAT16), (np.float32, BFLOAT16), (BFLOAT16, BFLOAT16)]
"""Of query and cache, beside float16."""

VECTOR = (40, 20, VECTOR_VARIANT)
CUBE = (40, 20, CUBE_VARIANT)


def check(emulated, scene, chip):
    with emulated.chip(*chip):
        output = emulated.paged_attention(*scene.inputs())
    expected = reference_attention(scene)
    cache = scene.key_cache.dtype.name
    allowed = TOLERANCE[cache if scene.query.dtype.itemsize == 4 and cache != "int8" else scene.query.dtype.name]
    typical = np.sqrt(np.mean(expected**2, axis=-1, keepdims=True))
    error = np.abs(output.astype(np.float64) - expected)
    assert np.all(error <= allowed * (np.abs(expected) + typical)), f"largest error {np.nanmax(error):.3g}"


def scene_of(contexts, new_tokens=None, *, seed=0, group=1, kv_heads=2, **kwargs):
    kwargs = {"query_dtype": FLOAT16, "cache_dtype": FLOAT16, **kwargs}
    return make_scene(
        np.random.default_rng(seed),
        contexts,
        new_tokens=new_tokens,
        heads=group * kv_heads,
        kv_heads=kv_heads,
        **kwargs,
    )


def with_padding(scene, places):
    """Padding tokens before the tokens at `places`; their queries are NaN."""
    return replace(
        scene,
        query=np.insert(scene.query, places, np.nan, axis=0),
        rows=np.insert(scene.rows, places, -1),
        context_lens=np.insert(scene.context_lens, places, 0),
    )


EDGES = [1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200, 511, 512, 513]


@pytest.mark.parametrize(("group", "chip"), [(1, VECTOR), (3, VECTOR), (8, VECTOR), (3, CUBE), (8, CUBE)])
@pytest.mark.parametrize("head_dim", [64, 80, 128])
@pytest.mark.parametrize("block_size", [16, 128])
def test_decode_over_edges_of_blocks_and_tiles(emulated, group, chip, head_dim, block_size):
    check(emulated, scene_of(EDGES, group=group, head_dim=head_dim, block_size=block_size), chip)


@pytest.mark.parametrize(("group", "chip"), [(1, VECTOR), (3, VECTOR), (8, VECTOR), (1, CUBE), (3, CUBE), (8, CUBE)])
@pytest.mark.parametrize("new_tokens", [[2, 1, 1], [5, 1, 7], [1, 64, 1], [33, 16, 15]])
def test_prefill_and_decode_in_one_step_with_padding(emulated, group, chip, new_tokens):
    scene = scene_of([200, 70, 40], new_tokens, group=group, block_size=16)
    check(emulated, with_padding(scene, [0, 2, len(scene.rows), len(scene.rows)]), chip)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20, 40])
@pytest.mark.parametrize("cube", [False, True])
def test_any_number_of_cores(emulated, count, cube):
    """The work is cut elsewhere each time: inside rows, between them, into more pieces than there are rows."""
    scene = scene_of([1500, 3, 900, 64], group=8, kv_heads=1, block_size=16)
    check(emulated, scene, (2 * count, count, CUBE_VARIANT if cube else VECTOR_VARIANT))


@pytest.mark.parametrize(("chip", "is_aiv"), [((4, 2, VECTOR_VARIANT), True), ((8, 4, CUBE_VARIANT), False)])
@pytest.mark.parametrize(("contexts", "cut"), [([512] * 8, False), ([1500] * 5, True), ([1] * 6, False), ([700], True)])
def test_cores_wait_for_each_other_only_where_a_task_is_cut(emulated, chip, is_aiv, contexts, cut):
    check(emulated, scene_of(contexts, group=8, kv_heads=1, head_dim=32), chip)
    assert emulated.report()["total"]["sync_alls"] == (chip[0] + chip[1] * (not is_aiv)) * cut


@pytest.mark.parametrize(("group", "chip"), [(1, VECTOR), (3, VECTOR), (8, VECTOR), (8, CUBE)])
def test_a_long_context_over_all_cores(emulated, group, chip):
    check(emulated, scene_of([4096, 4095], group=group, kv_heads=1, head_dim=128, block_size=128), chip)


@pytest.mark.parametrize(
    ("query_dtype", "cache_dtype"), [(np.float32, FLOAT16), (np.float32, BFLOAT16), (BFLOAT16,) * 2]
)
@pytest.mark.parametrize("group", [3, 8])
def test_other_types(emulated, query_dtype, cache_dtype, group):
    scene = scene_of(
        [300, 17, 64], [1, 5, 2], group=group, head_dim=80, query_dtype=query_dtype, cache_dtype=cache_dtype
    )
    check(emulated, scene, DEFAULT_CHIP)


@pytest.mark.parametrize("query_dtype", [np.float32, FLOAT16, BFLOAT16], ids=str)
@pytest.mark.parametrize("group", [1, 3, 8])
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128])
@pytest.mark.parametrize("block_size", [16, 80])
def test_int8_pages(emulated, query_dtype, group, head_dim, block_size):
    """Which the vector cores widen for the cube cores; for queries of 32 bits they do all of it."""
    scene = scene_of(
        [300, 17, 64, 1, 65],
        [1, 5, 2, 1, 30],
        group=group,
        kv_heads=3,
        head_dim=head_dim,
        block_size=block_size,
        query_dtype=query_dtype,
        cache_dtype=INT8,
    )
    check(emulated, with_padding(scene, [0, 4]), DEFAULT_CHIP)
    assert (emulated.report()["total"]["cube_macs"] > 0) == (np.dtype(query_dtype).itemsize == 2)


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("cube", [False, True])
def test_int8_pages_on_any_number_of_cores(emulated, count, cube):
    scene = scene_of([1500, 3, 900, 64], group=8, kv_heads=1, cache_dtype=INT8)
    check(emulated, scene, (2 * count, count, CUBE_VARIANT if cube else VECTOR_VARIANT))


@pytest.mark.parametrize("amplitude", [2e-4, 1e4])
def test_int8_pages_of_very_small_and_large_values(emulated, amplitude):
    """Weights times scales are of 16 bits on their way to the cube cores: nothing is lost at either end."""
    scene = scene_of([1, 1, 1, 1], group=8, head_dim=32, cache_dtype=INT8, amplitude=amplitude)
    check(emulated, replace(scene, query=np.zeros_like(scene.query)), CUBE)


@pytest.mark.parametrize(("chip", "readers_of_scales"), [(VECTOR, 1), (CUBE, 2)])
def test_int8_pages_are_read_once(emulated, chip, readers_of_scales):
    """Beside a cube core both vector cores need all scales of a tile."""
    contexts = [2000, 1024, 777]
    scene = scene_of(contexts, group=4, kv_heads=3, head_dim=128, block_size=128, cache_dtype=INT8)
    check(emulated, scene, chip)
    traffic = emulated.report()["buffers"]
    moved = sum(traffic[name]["read"] for name in ("key_cache", "value_cache"))
    assert moved == 2 * sum(contexts) * 3 * (128 + 4 * readers_of_scales)


@pytest.mark.parametrize("chip", [VECTOR, CUBE])
@pytest.mark.parametrize("which", ["key_cache", "value_cache"])
def test_a_scale_of_nan_reaches_the_output(emulated, chip, which):
    """In its head and row; the first of two tokens does not see it."""
    scene = scene_of([70, 20], [2, 1], group=2, kv_heads=2, head_dim=32, cache_dtype=INT8)
    values, scales = unpack(getattr(scene, which))
    scales[scene.block_table[0, 69 // 16], 69 % 16, 1] = np.nan
    scene = replace(scene, **{which: pack(values, scales)})
    with emulated.chip(*chip):
        output = emulated.paged_attention(*scene.inputs())
    is_nan = np.isnan(output).all(axis=-1)
    np.testing.assert_array_equal(is_nan, [[False] * 4, [False, False, True, True], [False] * 4])
    assert np.isfinite(output[~is_nan]).all()


@pytest.mark.parametrize(
    ("group", "query_dtype", "variant"),
    [
        (2, FLOAT16, VECTOR_VARIANT),
        (3, FLOAT16, CUBE_VARIANT),
        (8, FLOAT16, CUBE_VARIANT),
        (8, np.float32, VECTOR_VARIANT),
    ],
)
def test_the_tiling_chooses_the_variant(emulated, group, query_dtype, variant):
    """A chip without work for its cube cores counts no multiplication on them."""
    with emulated.chip(*DEFAULT_CHIP):
        emulated.paged_attention(*scene_of([70], group=group, query_dtype=query_dtype).inputs())
    assert (emulated.report()["total"]["cube_macs"] > 0) == (variant == CUBE_VARIANT)


@pytest.mark.parametrize("chip", [VECTOR, CUBE])
@pytest.mark.parametrize("head_dim", [144, 256])
@pytest.mark.parametrize("window", [0, 300])
def test_wide_heads(emulated, chip, head_dim, window):
    """Above 128: shorter tiles on both, and half as many queries to a run on the cube cores."""
    for group, query_dtype in ((1, FLOAT16), (8, np.float32 if chip is VECTOR else FLOAT16)):
        kinds = {"head_dim": head_dim, "query_dtype": query_dtype, "window": window}
        scene = scene_of([700, 1100, 270], [1, 3, 70 // group + 1], group=group, kv_heads=2, **kinds)
        check(emulated, with_padding(scene, [0, 4]), chip)


@pytest.mark.parametrize("chip", [VECTOR, CUBE])
@pytest.mark.parametrize("block_size", [48, 80, 256])
def test_blocks_that_tiles_do_not_fit(emulated, chip, block_size):
    check(emulated, scene_of([700, 130, 49], [1, 3, 49], group=8, kv_heads=1, block_size=block_size), chip)


@pytest.mark.parametrize("chip", [VECTOR, CUBE])
@pytest.mark.parametrize("amplitude", [0.0, 30.0])
def test_equal_and_very_large_scores(emulated, chip, amplitude):
    check(emulated, scene_of([600, 1, 90], group=8, amplitude=amplitude), chip)


@pytest.mark.parametrize("chip", [VECTOR, CUBE])
def test_only_padding(emulated, chip):
    scene = scene_of([5], group=8)
    with emulated.chip(*chip):
        output = emulated.paged_attention(*with_padding(scene, [0] * 44).inputs())
    np.testing.assert_array_equal(output[:44], 0)


@pytest.mark.parametrize("chip", [VECTOR, CUBE])
@pytest.mark.parametrize(("row", "context"), [(-1, 9), (-1, -3), (0, 0), (0, -1), (2**30, 0)])
def test_the_chip_takes_a_token_with_one_mark_of_padding_for_padding(emulated, chip, row, context):
    """Nothing checks its indices there: it gives zeros, its neighbours what they give without it."""
    scene = scene_of([70, 40], [3, 2], group=8)
    marked = with_padding(scene, [0, 3, 5])
    padding = marked.rows < 0
    rows, context_lens = np.where(padding, row, marked.rows), np.where(padding, context, marked.context_lens)
    marked = replace(marked, rows=rows.astype(np.int32), context_lens=context_lens.astype(np.int32))
    with emulated.chip(*chip), emulated.indices_trusted():
        output = emulated.paged_attention(*marked.inputs())
    np.testing.assert_array_equal(output[padding], 0)
    expected = reference_attention(scene)
    np.testing.assert_allclose(output[~padding], expected, rtol=0, atol=TOLERANCE["float16"] * np.abs(expected).max())


def test_row_minus_one_with_a_context_is_refused_where_indices_are_checked(emulated):
    scene = with_padding(scene_of([70]), [0])
    scene.context_lens[0] = 9
    message = r"token 0: context length 9 of a padding token \(row -1\), it must be 0"
    with pytest.raises(OpRefusedError, match=message):
        emulated.paged_attention(*scene.inputs())


@pytest.mark.parametrize(
    ("group", "kv_heads", "chip"), [(1, 8, VECTOR), (3, 3, VECTOR), (8, 1, VECTOR), (8, 1, CUBE), (8, 8, CUBE)]
)
def test_each_key_and_value_is_read_once_for_its_head(emulated, group, kv_heads, chip):
    contexts = [2000, 1024, 1500, 777, 3000, 64, 1999, 1111]
    head_dim, block_size = 128, 128
    scene = scene_of(contexts, group=group, kv_heads=kv_heads, head_dim=head_dim, block_size=block_size)
    with emulated.chip(*chip):
        emulated.paged_attention(*scene.inputs())
    traffic = emulated.report()["buffers"]
    moved = sum(traffic[name]["read"] for name in ("key_cache", "value_cache"))
    assert moved == 2 * sum(contexts) * kv_heads * head_dim * 2
    everything = sum(each["read"] + each["written"] for name, each in traffic.items() if name != "workspace")
    least = moved + 2 * scene.query.nbytes
    assert least <= everything <= 1.05 * least


GRID = list(product([1, 3, 8], [64, 80, 128], [16, 128], [1, 5, 40]))


@pytest.mark.slow
@pytest.mark.parametrize(("group", "head_dim", "block_size", "count"), GRID)
@pytest.mark.parametrize("cube", [False, True])
def test_grid(emulated, group, head_dim, block_size, count, cube):
    """T from 1 to 64, contexts from 1 to 4096, with padding, for every group, head_dim, block size and core count."""
    rng = np.random.default_rng(GRID.index((group, head_dim, block_size, count)))
    chip = (2 * count, count, CUBE_VARIANT if cube else VECTOR_VARIANT)
    for rows in (1, 4, 9):
        contexts = [int(n) for n in rng.choice([*EDGES, 1023, 1024, 1025, 2000, 4095, 4096], rows)]
        most = 64 // rows
        new_tokens = [int(min(context, rng.integers(1, most + 1))) for context in contexts]
        scene = scene_of(
            contexts, new_tokens, seed=rows, group=group, kv_heads=1, head_dim=head_dim, block_size=block_size
        )
        check(emulated, with_padding(scene, [0, len(scene.rows)]), chip)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_dtype": BFLOAT16}, "query has dtype bfloat16, it must be float32 or that of the cache, float16"),
        ({"cache_dtype": np.float32}, "key_cache has dtype float32, allowed on Ascend: float16, bfloat16, int8"),
        ({"cache_dtype": INT8, "head_dim": 48}, "head_dim 48 is not supported for int8: it must be a multiple of 32"),
        ({"head_dim": 272}, "head_dim 272 is not supported: it must be a multiple of 16, at most 256"),
        (
            {"group": 2, "kv_heads": 1024},
            "query has 2048 heads of 64 numbers, together more than 65535, which is as far",
        ),
        ({"kv_heads": 1024}, "query has 1024 heads of 64 numbers, together more than 65535"),
        ({"group": 17}, "query has 17 heads for each KV head, at most 16 are supported"),
    ],
)
def test_what_the_kernel_cannot_do_is_refused(emulated, change, message):
    with pytest.raises(OpRefusedError, match=message), emulated.chip(*VECTOR):
        emulated.paged_attention(*scene_of([5], **change).inputs())
