"""Every format of blocks that the kernels read: products, rows and bits, against what gguf-py or NumPy make of them."""

import numpy as np
import pytest

from tests.custom_ops import layer_reference as reference
from tests.custom_ops.block_weights import FORMS, LAYOUTS, bytes_of_scales, random_blocks, weight_of_blocks
from tests.custom_ops.kernel_calls import assert_same_bits
from tests.custom_ops.layer_reference import assert_within
from tests.custom_ops.layer_scenes import EPSILON, make_norm_weight, make_tokens

TOKENS = [1, 2, 3, 5, 6, 7, 8, 9, 13, 33, 97]
"""Around the tiles of each CPU, and the 96 that share a panel."""


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


def scene(form, seed, num_tokens, rows, columns):
    rng = np.random.default_rng(seed)
    weight = random_blocks(rng, form, rows, columns)
    return make_tokens(rng, num_tokens, columns), make_norm_weight(rng, columns), weight


@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_products(kernels, form, blocks):
    """Whole panels and a rest; of 256 columns a block also more than one chunk."""
    columns = blocks * max(form.group, 64)
    for num_tokens, rows in zip(TOKENS, [16, 1, 33, 48, 17, 16, 32, 5, 16, 31, 16], strict=True):
        x, norm_weight, weight = scene(form, num_tokens, num_tokens, rows, columns)
        output = kernels.norm_linear(x, norm_weight, weight, EPSILON)
        assert_within(output, reference.norm_linear(x, norm_weight, weight, EPSILON))


def test_rows_are_read_as_the_format_says(kernels, form):
    """Bit for bit: one product and one sum, each rounded."""
    rng = np.random.default_rng(1)
    columns = 3 * form.group
    table = random_blocks(rng, form, 35, columns)
    ids = np.append(rng.integers(0, 35, 20), [0, 15, 16, 34]).astype(np.int32)
    output = kernels.embedding(ids, table, columns)
    np.testing.assert_array_equal(output, table.values.astype(np.float32)[ids])


def test_a_token_has_the_same_bits_in_any_batch(kernels, form, set_threads):
    x, norm_weight, weight = scene(form, 2, 97, 50, 2 * max(form.group, 64))
    set_threads(1)
    alone = np.concatenate([kernels.norm_linear(x[t : t + 1], norm_weight, weight, EPSILON) for t in range(len(x))])
    for num_threads in (1, 2, 3):
        set_threads(num_threads)
        for count in TOKENS:
            output = kernels.norm_linear(x[:count], norm_weight, weight, EPSILON)
            assert_same_bits(output, alone[:count], f"{count} tokens, {num_threads} threads")


def test_whole_numbers_at_their_ends(kernels, form):
    """All bits set and all cleared, times the largest whole number of a token: no sum of 32 columns overflows."""
    columns = 2 * form.group
    if form.name.startswith("FP8"):
        pytest.skip("floats")
    for octet in (0, 255):
        weight = random_blocks(np.random.default_rng(3), form, 16, columns)
        blocks = weight.stored.reshape(-1, form.block_bytes)
        kept = bytes_of_scales(form)
        blocks[:, ~kept] = octet
        weight = weight_of_blocks(form, weight.stored)
        x = np.ones((7, columns), np.float32)
        x[1], x[2, ::2] = -1, -1
        norm_weight = np.ones(columns, np.float32)
        output = kernels.norm_linear(x, norm_weight, weight, 0.0)
        assert_within(output, reference.norm_linear(x, norm_weight, weight, 0.0))


def test_a_scale_that_is_no_number_spoils_its_row_and_no_other(kernels, form):
    if form.name == "MXFP4":
        pytest.skip("its scales are powers of two, as gguf-py reads them")
    x, norm_weight, weight = scene(form, 4, 9, 32, 2 * form.group)
    right = kernels.norm_linear(x, norm_weight, weight, EPSILON)
    blocks = weight.stored.copy()
    row = blocks[5, : form.block_bytes]
    if form.kind >= 100:
        row[:4] = np.array([np.nan], np.float32).view(np.uint8)
    else:
        start = LAYOUTS[form.name].halves[0]
        row[start : start + 2] = np.array([np.nan], np.float16).view(np.uint8)
    stained = kernels.norm_linear(x, norm_weight, type(weight)(form, blocks, weight.values), EPSILON)
    assert np.isnan(stained[:, 5]).all()
    others = np.arange(32) != 5
    assert_same_bits(np.ascontiguousarray(stained[:, others]), np.ascontiguousarray(right[:, others]))


@pytest.mark.parametrize("name", ["FP8_G32", "FP8_G128"])
def test_a_float_of_8_bits_that_is_no_number_spoils_its_row(kernels, name):
    x, norm_weight, weight = scene(FORMS[name], 5, 3, 16, 256)
    blocks = weight.stored.copy()
    blocks[7, 20] = 0xFF
    output = kernels.norm_linear(x, norm_weight, type(weight)(weight.form, blocks, weight.values), EPSILON)
    assert np.isnan(output[:, 7]).all()
    assert np.isfinite(np.delete(output, 7, axis=1)).all()


@pytest.mark.parametrize("name", ["FP8_G32", "FP8_G128"])
def test_all_floats_of_8_bits_mean_what_they_say(kernels, name):
    form = FORMS[name]
    octets = np.array([octet for octet in range(256) if octet & 0x7F != 0x7F] + [0, 0], np.uint8)
    blocks = np.zeros((256 // form.group, form.block_bytes), np.uint8)
    blocks[:, :4] = np.array([1.0], np.float32).view(np.uint8)
    blocks[:, 4:] = octets.reshape(-1, form.group)
    weight = weight_of_blocks(form, blocks.reshape(1, -1))
    np.testing.assert_array_equal(kernels.embedding(np.zeros(1, np.int32), weight, 256)[0], weight.values[0])
