"""The layer operators against float64, for every form of weights, sizes around every boundary of their loops."""

from dataclasses import replace

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspore_paged.formats.weight_format import FORMATS
from tests.custom_ops import layer_reference as reference
from tests.custom_ops.kernel_calls import BFLOAT16, FLOAT_DTYPES, assert_same_bits
from tests.custom_ops.layer_reference import assert_within, make_weight, weight_of
from tests.custom_ops.layer_scenes import (
    ALL_FORMATS,
    BLOCK_FORMATS,
    EPSILON,
    FLOAT_FORMATS,
    make_feed_forward,
    make_layer_scene,
    make_norm_weight,
    make_step_scene,
    make_tokens,
)

# Tokens: tiles of 6 (AVX-512: 8), on matrix tiles groups of 8, 16 and 32, and 96 that share a panel. Rows: panels of
# 16, with a rest.
TOKENS_AND_ROWS = [(1, 1), (2, 15), (3, 16), (4, 17), (5, 31), (6, 32), (7, 33), (8, 5), (9, 16), (13, 18), (95, 3)]
TOKENS_AND_ROWS += [(17, 32), (33, 49), (96, 16), (97, 17), (193, 2)]
UNITS = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def check_norm_linear(kernels, seed, num_tokens, columns, rows, form):
    rng = np.random.default_rng(seed)
    x, norm_weight = make_tokens(rng, num_tokens, columns), make_norm_weight(rng, columns)
    weight = make_weight(rng, form, rows, columns)
    output = kernels.norm_linear(x, norm_weight, weight, EPSILON)
    assert_within(output, reference.norm_linear(x, norm_weight, weight, EPSILON))


@pytest.mark.parametrize("columns", [32, 160, 192, 512, 544, 1536])
@pytest.mark.parametrize("form", ALL_FORMATS)
def test_norm_linear(kernels, form, columns):
    """More than a tile of tokens takes columns in chunks of 192, or of 16 blocks."""
    for num_tokens, rows in TOKENS_AND_ROWS:
        check_norm_linear(kernels, columns + num_tokens, num_tokens, columns, rows, form)


@pytest.mark.parametrize("columns", [1, 2, 3, 7, 9, 15, 31, 33, 191, 193, 383, 385, 1537])
@pytest.mark.parametrize("form", FLOAT_FORMATS)
def test_norm_linear_with_a_part_of_a_chunk(kernels, form, columns):
    for num_tokens, rows in ((1, 17), (4, 16), (7, 2), (50, 33)):
        check_norm_linear(kernels, columns, num_tokens, columns, rows, form)


@settings(max_examples=40, deadline=None)
@given(
    form=st.sampled_from(ALL_FORMATS),
    seed=st.integers(0, 2**32 - 1),
    num_tokens=st.integers(1, 30) | st.integers(90, 200),
    rows=st.integers(1, 50),
    columns=st.integers(1, 200) | st.integers(350, 600),
)
def test_norm_linear_of_any_size(kernels, form, seed, num_tokens, rows, columns):
    columns = -(-columns // 32) * 32 if form in BLOCK_FORMATS else columns
    check_norm_linear(kernels, seed, num_tokens, columns, rows, form)


@pytest.mark.parametrize("form", ALL_FORMATS)
def test_activations_that_are_nearly_nothing(kernels, form):
    """Down to numbers below float32's normal ones: what comes out is a number as small."""
    rng = np.random.default_rng(0)
    weight = make_weight(rng, form, 5, 64)
    for size in (1e-37, 1e-38, 1e-40, 1e-44):
        norm_weight = np.full(64, size, np.float32)
        output = kernels.norm_linear(make_tokens(rng, 9, 64), norm_weight, weight, EPSILON)
        assert np.abs(output).max() <= 64 * 8 * size * np.abs(weight.values).max(), size


@pytest.mark.parametrize("columns", [32, 192, 544, 1605])
def test_w16a16_rounds_tokens_to_bfloat16_or_not_at_all(kernels, columns):
    """To the last bit, and tokens that are bfloat16 are multiplied as exactly as floats are."""
    rng = np.random.default_rng(4)
    norm_weight, weight = make_norm_weight(rng, columns), make_weight(rng, "w16a16", 50, columns)
    exact = replace(weight, form=FORMATS["bfloat16"])
    rounded = norm_weight.astype(BFLOAT16).astype(np.float32)
    for num_tokens in (1, 2, 7, 8, 9, 33, 97):
        x = rng.choice(
            np.float32([-1, 1]), (num_tokens, columns)
        )  # which the norm leaves as it is: a token is its signs
        output = kernels.norm_linear(x, rounded, weight, 0.0)
        assert_within(output, reference.norm_linear(x, rounded, exact, 0.0))
        output = kernels.norm_linear(x, norm_weight, weight, 0.0)
        as_bfloat16 = kernels.norm_linear(x, rounded, weight, 0.0)
        as_floats = kernels.norm_linear(x, norm_weight, exact, 0.0)
        bits = output.tobytes()
        assert bits in (as_bfloat16.tobytes(), as_floats.tobytes()), num_tokens


def as_floats(form, stored):
    if not form.block_bytes:
        return stored.astype(np.float32)
    return gguf.dequantize(stored, gguf.GGMLQuantizationType(form.kind))


@pytest.mark.parametrize("form", ALL_FORMATS)
def test_embedding_is_bitwise_what_the_table_says(kernels, form):
    rng = np.random.default_rng(1)
    for columns in (32, 96, 1600) if form in BLOCK_FORMATS else (1, 7, 16, 45, 1601):
        table = make_weight(rng, form, 23, columns)
        small = weight_of((table.values * 2.0**-14).astype(np.float32), form)  # float16 below its normal numbers
        for weight in (table, small):
            ids = np.append(rng.integers(0, 23, 40), [0, 22, 22]).astype(np.int32)
            output = kernels.embedding(ids, weight, columns)
            assert_same_bits(output, as_floats(weight.form, weight.stored)[ids], f"{columns} columns")


@pytest.mark.parametrize("form", ALL_FORMATS)
def test_embedding_of_a_rank_has_zeros_for_the_rows_of_others(kernels, form):
    table = make_weight(np.random.default_rng(2), form, 10, 64)
    ids = np.array([0, 19, 20, 29, 30, 33, 5, 25], np.int32)
    output = kernels.embedding(ids, table, 64, first_row=20, vocab_size=34)
    expected = np.zeros((8, 64), np.float32)
    expected[[2, 3, 7]] = as_floats(table.form, table.stored)[[0, 9, 5]]
    assert_same_bits(output, expected)


MIXED = [("Q4_1", "float16", "int8"), ("bfloat16", "Q4_0", "Q4_1"), ("int8", "float32", "float32")]
FEED_FORWARD_FORMATS = [*((form,) * 3 for form in ALL_FORMATS), *MIXED]


@pytest.mark.parametrize("formats", FEED_FORWARD_FORMATS, ids="-".join)
@pytest.mark.parametrize("adds_residual", [True, False])
def test_feed_forward_layer(kernels, formats, adds_residual):
    rng = np.random.default_rng(3)
    whole_blocks = [(1, 32, 64), (4, 96, 160), (7, 64, 96), (97, 32, 32), (193, 32, 64), (9, 64, 1568)]
    odd = [(1, 1, 1), (3, 5, 6), (97, 33, 47), (7, 17, 1539)] if set(formats) <= set(FLOAT_FORMATS) else []
    for num_tokens, columns, width in (*whole_blocks, *odd):
        x, norm_weight, weights = make_feed_forward(rng, num_tokens, columns, width, formats)
        output = kernels.feed_forward_layer(x, norm_weight, weights, EPSILON, adds_residual)
        expected = reference.feed_forward(x, norm_weight, weights, EPSILON)
        assert_within(output, expected.plus(x) if adds_residual else expected)


def test_feed_forward_gates_of_any_size(kernels):
    """Where the exponential of a gate overflows, vanishes, or is 1."""
    gates = np.array([0.0, 1e-30, 1.0, -1.0, 20, -20, 86, -86, 88, -88, 104, -104, 3e4, -3e4, 1e30, -1e30])
    gate = weight_of(gates[:, None].astype(np.float32), "float32")
    up = weight_of(np.ones((16, 1), np.float32), "float32")
    down = weight_of(np.zeros((1, 16), np.float32), "float32")
    x = np.ones((1, 1), np.float32)
    for column in range(16):
        down.stored[...] = down.values[...] = np.eye(16)[column]
        output = kernels.feed_forward_layer(x, np.ones(1, np.float32), (gate, up, down), 0.0, False)
        assert_within(output, reference.feed_forward(x, np.ones(1, np.float32), (gate, up, down), 0.0))


ATTENTION_FORMATS = [*((form,) * 4 for form in ALL_FORMATS), ("Q4_1", "int8", "bfloat16", "float32")]
ATTENTION_FORMATS += [("float32", "Q4_0", "Q4_1", "int8")]


def check_attention_layer(kernels, scene, adds_residual=True):
    before = scene.on_copied_pages()
    output = scene.run(kernels, adds_residual)
    _, keys, values = before.projected()
    tokens, slots = scene.slots()
    for cache, old, new in ((scene.key_cache, before.key_cache, keys), (scene.value_cache, before.value_cache, values)):
        expected, error = new.value[tokens], new.error[tokens]
        allowed = error + UNITS[cache.dtype.name] * (np.abs(expected) + error) + 2.0**-24
        assert np.all(np.abs(cache[slots].astype(np.float64) - expected) <= allowed)
        rest = cache.copy()
        rest[slots] = old[slots]
        assert_same_bits(rest, old, "another slot was written")
    expected = scene.expected()
    assert_within(output, expected.plus(scene.x) if adds_residual else expected)


@pytest.mark.parametrize("formats", ATTENTION_FORMATS, ids="-".join)
@pytest.mark.parametrize("adds_residual", [True, False])
def test_attention_layer(kernels, formats, adds_residual):
    """Prefill, a chunk in the middle, decode and padding in one call; contexts end in, at and behind a page's end."""
    rng = np.random.default_rng(4)
    scene = make_layer_scene(rng, [40, 65, 16, 33, 1], [40, 7, 1, 17, 1], formats, padding=3)
    check_attention_layer(kernels, scene, adds_residual)


@pytest.mark.parametrize("cache_dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(2, 2, 64), (8, 1, 20), (9, 3, 32), (4, 2, 10), (1, 1, 2)])
def test_attention_layer_of_any_heads_and_pages(kernels, heads, kv_heads, head_dim, cache_dtype):
    """Heads of 20, 10 and 2 numbers are no whole vectors."""
    rng = np.random.default_rng(5)
    scene = make_layer_scene(
        rng, [30, 18], [4, 18], ("float32", "bfloat16", "Q4_1", "float16"), heads=heads, kv_heads=kv_heads,
        head_dim=head_dim, cache_dtype=cache_dtype,
    )  # fmt: skip
    check_attention_layer(kernels, scene)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_attention_layer_of_any_batch(kernels, seed, data):
    contexts = data.draw(st.lists(st.integers(1, 70), min_size=1, max_size=4))
    new_tokens = [data.draw(st.integers(1, context)) for context in contexts]
    formats = data.draw(st.tuples(*[st.sampled_from(ALL_FORMATS)] * 4))
    dtype = data.draw(st.sampled_from(FLOAT_DTYPES))
    padding = data.draw(st.integers(0, 3))
    rng = np.random.default_rng(seed)
    scene = make_layer_scene(
        rng, contexts, new_tokens, formats, cache_dtype=dtype, columns=64, kv_heads=4, padding=padding
    )
    check_attention_layer(kernels, scene)


BIASES = [(True,) * 4, (True, True, True, False), (False, True, False, True)]


@pytest.mark.parametrize("biases", BIASES, ids=["all", "query, key, value", "key, out"])
@pytest.mark.parametrize("form", ALL_FORMATS)
def test_layers_with_biases(kernels, form, biases):
    """Each where its product is stored: before the rotation, before silu, before x. Rows are no whole panels."""
    rng = np.random.default_rng(16)
    scene = make_layer_scene(
        rng, [40, 65, 1], [40, 7, 1], (form,) * 4, heads=3, kv_heads=3, head_dim=10 if form in FLOAT_FORMATS else 32,
        padding=2, biases=biases,
    )  # fmt: skip
    check_attention_layer(kernels, scene)
    for num_tokens in (1, 9, 97):
        x, norm_weight, weights = make_feed_forward(rng, num_tokens, 96, 160, (form,) * 3, biases[1:])
        expected = reference.feed_forward(x, norm_weight, weights, EPSILON)
        assert_within(kernels.feed_forward_layer(x, norm_weight, weights, EPSILON), expected.plus(x))


@pytest.mark.parametrize("form", ALL_FORMATS)
def test_a_bias_that_is_absent_is_one_of_zeros(kernels, form):
    rng = np.random.default_rng(17)
    x, norm_weight, weights = make_feed_forward(rng, 9, 96, 160, (form,) * 3)
    zeros = [replace(weight, bias=np.zeros(len(weight.stored), np.float32)) for weight in weights]
    without = kernels.feed_forward_layer(x, norm_weight, weights, EPSILON)
    np.testing.assert_array_equal(kernels.feed_forward_layer(x, norm_weight, zeros, EPSILON), without)


STACKS = [[((form,) * 4, (form,) * 3)] * 2 for form in ALL_FORMATS]
STACKS += [[*zip(ATTENTION_FORMATS[-2:], MIXED), (("float32",) * 4, ("int8", "Q4_0", "float32"))]]


@pytest.mark.parametrize("has_biases", [False, True], ids=["", "biases"])
@pytest.mark.parametrize("formats", STACKS, ids=[*ALL_FORMATS, "mixed"])
def test_a_step_is_bitwise_the_operators_of_its_parts(kernels, formats, has_biases):
    """Logits and pages; and the parts, given what they were given, are near float64 as everywhere above."""
    rng = np.random.default_rng(10)
    ends = (formats[0][0][0], formats[-1][1][0])
    together = make_step_scene(rng, [40, 65, 16, 33, 1], [40, 7, 1, 17, 1], formats, ends, has_biases, padding=3)
    apart = together.on_copied_pages()
    logits = together.run(kernels)
    expected, given = apart.run_apart(kernels)
    assert_same_bits(logits, expected[:-3])
    for one, two in zip(together.attentions, apart.attentions):
        assert_same_bits(one.key_cache, two.key_cache)
        assert_same_bits(one.value_cache, two.value_cache)
    last, before, after = together.feed_forwards[-1], given[-2], given[-1]
    assert_within(after, reference.feed_forward(before, last.norm_weight, last.weights, EPSILON).plus(before))


def floats_scene(rng, contexts, new_tokens, padding=0):
    return make_step_scene(rng, contexts, new_tokens, [(("float32",) * 4, ("float32",) * 3)] * 2, padding=padding)


def test_logits_are_those_of_the_tokens_that_are_wanted(kernels):
    """In their order, one twice; those of none are zeros, and so are those of padding."""
    scene = floats_scene(np.random.default_rng(14), [20, 7], [3, 2], padding=2)
    every = scene.on_copied_pages().run(kernels)
    scene.logit_indices = np.array([4, -1, 0, 0, 6, 2, -1, -1], np.int32)
    logits = scene.run(kernels)
    nothing = np.zeros_like(every[0])
    assert_same_bits(logits, np.stack([every[4], nothing, every[0], every[0], nothing, every[2], nothing, nothing]))


@pytest.mark.parametrize("num_padding", [1, 30])
def test_a_step_does_not_compute_the_padding_behind_the_tokens(kernels, num_padding):
    """Not even where it would be no number."""
    scene = floats_scene(np.random.default_rng(12), [20, 7], [3, 2], padding=num_padding)
    scene.input_ids[5:] = 49
    scene.input_ids[:5] %= 49
    scene.table.stored[49] = np.nan
    alone = scene.on_copied_pages().only(np.arange(5))
    assert_same_bits(scene.run(kernels), alone.run(kernels))
    for attention, other in zip(scene.attentions, alone.attentions):
        assert_same_bits(attention.key_cache, other.key_cache)


def test_a_step_without_tokens_writes_the_table_alone(kernels):
    scene = floats_scene(np.random.default_rng(13), [20], [1], padding=4)
    first = scene.attentions[0]
    first.rows[:] = -1
    pages, expected = first.key_cache.copy(), first.block_table.copy()
    expected[0, 1] = 7
    scene.logit_indices = np.array([-1, -1], np.int32)
    assert_same_bits(scene.run(kernels, [(0, 1, 99), (0, 1, 7)]), np.zeros((2, 37), np.float32))
    assert_same_bits(first.key_cache, pages)
    np.testing.assert_array_equal(first.block_table, expected)


def test_entries_of_the_table_are_written_before_anything_is_read(kernels):
    scene = floats_scene(np.random.default_rng(15), [40, 20], [2, 1])
    other = scene.on_copied_pages()
    blocks = [(row, column, block) for (row, column), block in np.ndenumerate(scene.attentions[0].block_table)]
    for attention in other.attentions:
        attention.block_table = np.zeros_like(attention.block_table)
    shared = other.attentions[0].block_table
    other.attentions[1].block_table = shared
    assert_same_bits(other.run(kernels, blocks), scene.run(kernels))
    np.testing.assert_array_equal(shared, scene.attentions[0].block_table)


def test_a_step_of_one_layer(kernels):
    rng = np.random.default_rng(11)
    scene = make_step_scene(rng, [20], [1], [(("float32",) * 4, ("float32",) * 3)])
    expected, _ = scene.on_copied_pages().run_apart(kernels)
    assert_same_bits(scene.run(kernels), expected)


@pytest.mark.parametrize("form", ALL_FORMATS)
def test_padding_writes_nothing_and_attends_to_nothing(kernels, form):
    """Even where row 0, position 0 holds another's token: its result is x, or zeros for a rank to add."""
    scene = make_layer_scene(np.random.default_rng(6), [20], [1], (form,) * 4, padding=4).only(np.arange(1, 5))
    before = scene.on_copied_pages()
    np.testing.assert_array_equal(scene.run(kernels), scene.x)
    np.testing.assert_array_equal(scene.run(kernels, adds_residual=False), np.zeros_like(scene.x))
    for cache, old in ((scene.key_cache, before.key_cache), (scene.value_cache, before.value_cache)):
        assert_same_bits(cache, old)


def test_of_two_tokens_with_one_slot_the_later_wins(kernels):
    scene = make_layer_scene(np.random.default_rng(7), [20], [1], ("float32",) * 4).only([0, 0])
    scene.x[1] = scene.x[0][::-1]
    alone = scene.on_copied_pages().only([1])
    alone.run(kernels)
    scene.run(kernels)
    assert_same_bits(scene.key_cache, alone.key_cache)
    assert_same_bits(scene.value_cache, alone.value_cache)


BAD_NUMBERS = [np.nan, np.inf, -np.inf]


def assert_only_token_is_bad(output, clean, token):
    others = np.arange(len(output)) != token
    assert np.isfinite(clean).all()
    assert not np.isfinite(output[token]).any()
    assert_same_bits(output[others], clean[others])


@pytest.mark.parametrize("bad", BAD_NUMBERS, ids=str)
@pytest.mark.parametrize("form", ALL_FORMATS)
def test_what_is_no_number_shows_in_its_token_and_no_other(kernels, form, bad):
    """For each place in a block of 32: a largest number may lose a NaN, depending on what it is compared with."""
    rng = np.random.default_rng(8)
    x, norm_weight, weights = make_feed_forward(rng, 5, 64, 96, (form,) * 3)
    clean_linear = kernels.norm_linear(x, norm_weight, weights[0], EPSILON)
    clean_layer = kernels.feed_forward_layer(x, norm_weight, weights, EPSILON)
    for place in range(32, 64):
        dirty = x.copy()
        dirty[2, place] = bad
        assert_only_token_is_bad(kernels.norm_linear(dirty, norm_weight, weights[0], EPSILON), clean_linear, 2)
        assert_only_token_is_bad(kernels.feed_forward_layer(dirty, norm_weight, weights, EPSILON), clean_layer, 2)


@pytest.mark.parametrize("bad", BAD_NUMBERS, ids=str)
@pytest.mark.parametrize("form", ALL_FORMATS)
def test_what_is_no_number_stays_in_its_row(kernels, form, bad):
    scene = make_layer_scene(np.random.default_rng(9), [20, 33, 5], [3, 2, 5], (form,) * 4)
    clean = scene.on_copied_pages().run(kernels)
    scene.x[3, 40] = bad  # the first of row 1, to which the second attends
    output = scene.run(kernels)
    assert not np.isfinite(output[3:5]).any()
    others = scene.rows != 1
    assert_same_bits(output[others], clean[others])


@pytest.mark.parametrize("place", range(32))
@pytest.mark.parametrize("form", ALL_FORMATS)
def test_one_number_that_overflows_between_two_products_shows(kernels, form, place):
    """One hidden number of 32 is infinite, the norm's inputs are not."""
    gate, up = np.ones((64, 32), np.float32), np.ones((64, 32), np.float32)
    gate[32 + place] = up[32 + place] = 1e25
    weights = (weight_of(gate, "float32"), weight_of(up, "float32"), weight_of(np.ones((32, 64), np.float32), form))
    x = np.ones((4, 32), np.float32)
    output = kernels.feed_forward_layer(x, np.ones(32, np.float32), weights, EPSILON)
    assert not np.isfinite(output).any()
