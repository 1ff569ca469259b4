"""Bad input is refused with a message that names operator, place, value and bound; nothing is written."""

import re

import numpy as np
import pytest

from tests.custom_ops.attention_reference import make_scene
from tests.custom_ops.kernel_calls import OpRefusedError

INT32 = np.int32


def attention_inputs():
    """Two rows: contexts 20 and 40 of at most 64 (4 blocks of 16), 8 blocks, three tokens."""
    scene = make_scene(np.random.default_rng(0), contexts=[20, 40], new_tokens=[1, 2], heads=4, kv_heads=2, head_dim=16)
    names = ("query", "key_cache", "value_cache", "block_table", "rows", "context_lens", "scale", "window")
    numbers = np.array(0.25, np.float32), np.array(0, np.int64)
    return dict(zip(names, (*scene.inputs()[:-2], *numbers), strict=True))


def writer_inputs():
    """Three tokens for a cache of 6 blocks."""
    rng = np.random.default_rng(0)
    key, value = rng.normal(size=(2, 3, 2, 16)).astype(np.float32)
    key_cache, value_cache = rng.normal(size=(2, 6, 16, 2, 16)).astype(np.float32)
    slots = np.array([3, 95, -1], INT32)
    return {"key": key, "value": value, "key_cache": key_cache, "value_cache": value_cache, "slot_mapping": slots}


def copy_inputs():
    """Two pairs for a cache of 6 blocks."""
    inputs = writer_inputs()
    pairs = np.array([[1, 2], [3, 4]], INT32)
    return {"key_cache": inputs["key_cache"], "value_cache": inputs["value_cache"], "pairs": pairs}


def put(name, index, value):
    """Change one element of an input."""

    def change(inputs):
        inputs[name][index] = value

    return change


def swap(name, make):
    """Replace an input by what `make` gives for it."""

    def change(inputs):
        inputs[name] = np.array(make(inputs[name]), order="C")

    return change


def swap_caches(make):
    """Replace both caches."""

    def change(inputs):
        for name in ("key_cache", "value_cache"):
            swap(name, make)(inputs)

    return change


ATTENTION_REFUSALS = {
    "block id beyond the pool": (
        put("block_table", (1, 2), 8),
        "token 1: block 8 at block_table[1, 2] is outside [0, 8)",
    ),
    "negative block id": (put("block_table", (0, 0), -1), "token 0: block -1 at block_table[0, 0] is outside [0, 8)"),
    "context beyond the table": (put("context_lens", 2, 65), "token 2: context length 65 is outside [0, 64]"),
    "negative context": (put("context_lens", 1, -1), "token 1: context length -1 is outside [0, 64]"),
    "padding with a context": (
        put("rows", 0, -1),
        "token 0: context length 20 of a padding token (row -1), it must be 0",
    ),
    "row beyond the table": (put("rows", 1, 2), "token 1: row 2 is outside [-1, 2)"),
    "row below -1": (put("rows", 1, -2), "token 1: row -2 is outside [-1, 2)"),
    "query rank": (swap("query", lambda x: x[0]), "query has shape [4, 16], its rank must be 3"),
    "query head_dim": (swap("query", lambda x: x[..., :8]), "query has shape [3, 4, 8], it must be [3, 4, 16]"),
    "heads not a multiple": (
        swap("query", lambda x: x[:, :3]),
        "query has 3 heads, not a multiple of the 2 KV heads",
    ),
    "query dtype": (
        swap("query", lambda x: x.astype(np.float64)),
        "query has dtype float64, allowed: float32, float16, bfloat16",
    ),
    "value shape differs": (
        swap("value_cache", lambda x: x[:-1]),
        "value_cache has shape [7, 16, 2, 16], it must be [8, 16, 2, 16]",
    ),
    "value dtype differs": (
        swap("value_cache", lambda x: x.astype(np.float16)),
        "value_cache has dtype float16, it must be that of key_cache, float32",
    ),
    "block_size not a multiple of 16": (swap_caches(lambda x: x[:, :8]), "block_size 8 is not a multiple of 16"),
    "no room for scales": (
        swap_caches(lambda x: np.ones_like(x[..., :4], np.int8)),
        "key_cache has shape [8, 16, 2, 4], the last dimension of int8 must be head_dim + 4",
    ),
    "odd head_dim of int8": (
        swap_caches(lambda x: np.ones_like(x[..., :9], np.int8)),
        "head_dim 5 is not a multiple of 2",
    ),
    "head_dim of the query and of int8 pages": (
        swap_caches(lambda x: np.ones_like(x, np.int8)),
        "query has shape [3, 4, 16], it must be [3, 4, 12]",
    ),
    "only the keys are int8": (
        swap("key_cache", lambda x: np.ones_like(x, np.int8)),
        "value_cache has dtype float32, it must be that of key_cache, int8",
    ),
    "cache dtype": (
        swap_caches(lambda x: np.ones_like(x, np.int32)),
        "key_cache has dtype int32, allowed: float32, float16, bfloat16, int8",
    ),
    "query of int8": (
        swap("query", lambda x: np.ones_like(x, np.int8)),
        "query has dtype int8, allowed: float32, float16, bfloat16",
    ),
    "odd head_dim": (swap_caches(lambda x: x[..., :15]), "head_dim 15 is not a multiple of 2"),
    "cache rank": (swap_caches(lambda x: x[0]), "key_cache has shape [16, 2, 16], its rank must be 4"),
    "rows shape": (swap("rows", lambda x: x[:2]), "rows has shape [2], it must be [3]"),
    "context_lens shape": (swap("context_lens", lambda x: x[:2]), "context_lens has shape [2], it must be [3]"),
    "rows dtype": (swap("rows", lambda x: x.astype(np.int64)), "rows has dtype int64, allowed: int32"),
    "block_table dtype": (
        swap("block_table", lambda x: x.astype(np.float32)),
        "block_table has dtype float32, allowed: int32",
    ),
    "block_table rank": (swap("block_table", lambda x: x[0]), "block_table has shape [4], its rank must be 2"),
    "negative window": (
        swap("window", lambda _: np.array(-1, np.int64)),
        "window -1 is negative, it must be the tokens seen, or 0 for all",
    ),
    "window dtype": (
        swap("window", lambda x: x.astype(np.int32)),
        "window has dtype int32, allowed: int64",
    ),
    "block within a window": (
        lambda inputs: (
            put("block_table", (1, 1), 9)(inputs),
            swap("window", lambda _: np.array(9, np.int64))(inputs),
        ),
        "token 1: block 9 at block_table[1, 1] is outside [0, 8)",
    ),
    "scale dtype": (swap("scale", lambda x: x.astype(np.float64)), "scale has dtype float64, allowed: float32"),
}

WRITER_REFUSALS = {
    "slot beyond the cache": (put("slot_mapping", 1, 96), "token 1: slot 96 is outside [-1, 96)"),
    "slot below -1": (put("slot_mapping", 2, -2), "token 2: slot -2 is outside [-1, 96)"),
    "key and slots differ": (swap("slot_mapping", lambda x: x[:2]), "key has shape [3, 2, 16], it must be [2, 2, 16]"),
    "value shape differs": (swap("value", lambda x: x[:2]), "value has shape [2, 2, 16], it must be [3, 2, 16]"),
    "value dtype differs": (
        swap("value", lambda x: x.astype(np.float16)),
        "value has dtype float16, it must be that of key, float32",
    ),
    "key heads differ": (swap("key", lambda x: x[:, :1]), "key has shape [3, 1, 16], it must be [3, 2, 16]"),
    "cache shapes differ": (
        swap("value_cache", lambda x: x[:3]),
        "value_cache has shape [3, 16, 2, 16], it must be [6, 16, 2, 16]",
    ),
    "key dtype": (
        swap("key", lambda x: x.astype(np.int32)),
        "key has dtype int32, allowed: float32, float16, bfloat16",
    ),
    "head_dim of the key and of int8 pages": (
        swap_caches(lambda x: np.ones_like(x, np.int8)),
        "key has shape [3, 2, 16], it must be [3, 2, 12]",
    ),
    "key of int8": (
        swap("key", lambda x: np.ones_like(x, np.int8)),
        "key has dtype int8, allowed: float32, float16, bfloat16",
    ),
    "only the values are int8": (
        swap("value_cache", lambda x: np.ones_like(x, np.int8)),
        "value_cache has dtype int8, it must be that of key_cache, float32",
    ),
    "slot dtype": (swap("slot_mapping", lambda x: x.astype(np.int64)), "slot_mapping has dtype int64, allowed: int32"),
    "block_size not a multiple of 16": (swap_caches(lambda x: x[:, :12]), "block_size 12 is not a multiple of 16"),
}

COPY_REFUSALS = {
    "source beyond the pool": (put("pairs", (1, 0), 6), "pair 1: source block 6 is outside [0, 6)"),
    "destination beyond the pool": (put("pairs", (1, 1), 6), "pair 1: destination block 6 is outside [0, 6)"),
    "only the source is none": (put("pairs", (1, 0), -1), "pair 1: source block -1 is outside [0, 6)"),
    "only the destination is none": (put("pairs", (1, 1), -1), "pair 1: destination block -1 is outside [0, 6)"),
    "pairs shape": (swap("pairs", lambda x: x[:, [0, 1, 1]]), "pairs has shape [2, 3], it must be [2, 2]"),
    "pairs rank": (swap("pairs", lambda x: x[0]), "pairs has shape [2], its rank must be 2"),
    "pairs dtype": (swap("pairs", lambda x: x.astype(np.int64)), "pairs has dtype int64, allowed: int32"),
    "cache dtypes differ": (
        swap("value_cache", lambda x: x.astype(np.float16)),
        "value_cache has dtype float16, it must be that of key_cache, float32",
    ),
}


def assert_refused(kernels, function, operator, inputs, output, message):
    before = {name: array.copy() for name, array in inputs.items()}
    output_before = output.copy()
    with pytest.raises(OpRefusedError, match=f"^{re.escape(f'{operator}: {message}')}$"):
        kernels.call(function, *inputs.values(), output)
    for name, array in inputs.items():
        np.testing.assert_array_equal(array, before[name], err_msg=f"{name} was written")
    np.testing.assert_array_equal(output, output_before, err_msg="the output was written")


@pytest.mark.parametrize(("change", "message"), ATTENTION_REFUSALS.values(), ids=ATTENTION_REFUSALS)
def test_paged_attention_refuses(kernels, change, message):
    inputs = attention_inputs()
    assert inputs["key_cache"].shape == (8, 16, 2, 16)  # the messages count on these
    assert inputs["block_table"].shape == (2, 4)
    change(inputs)
    assert_refused(kernels, "PagedAttention", "paged_attention", inputs, np.full((3, 4, 16), 7, np.float32), message)


@pytest.mark.parametrize(("change", "message"), WRITER_REFUSALS.values(), ids=WRITER_REFUSALS)
def test_reshape_and_cache_refuses(kernels, change, message):
    inputs = writer_inputs()
    change(inputs)
    assert_refused(kernels, "ReshapeAndCache", "reshape_and_cache", inputs, np.full(1, 7, INT32), message)


@pytest.mark.parametrize(("change", "message"), COPY_REFUSALS.values(), ids=COPY_REFUSALS)
def test_copy_blocks_refuses(kernels, change, message):
    inputs = copy_inputs()
    change(inputs)
    assert_refused(kernels, "CopyBlocks", "copy_blocks", inputs, np.full(1, 7, INT32), message)


def test_block_that_only_a_later_token_of_the_chunk_uses_is_checked(kernels):
    """Contexts 31, 32, 33: the third block belongs to the last token alone."""
    scene = make_scene(np.random.default_rng(0), contexts=[33], new_tokens=[3], head_dim=16)
    scene.block_table[0, 2] = -5
    with pytest.raises(OpRefusedError, match=r"token 2: block -5 at block_table\[0, 2\] is outside \[0, 6\)"):
        kernels.paged_attention(*scene.inputs())


def test_output_of_another_type_or_shape_is_refused(kernels):
    inputs = attention_inputs()
    for output, message in (
        (np.full((3, 4, 16), 7, np.float16), "output has dtype float16, it must be that of query, float32"),
        (np.full((3, 2, 16), 7, np.float32), "output has shape [3, 2, 16], it must be [3, 4, 16]"),
    ):
        assert_refused(kernels, "PagedAttention", "paged_attention", inputs, output, message)


def test_missing_input_is_refused(kernels):
    inputs = attention_inputs()
    del inputs["scale"]
    message = "got 8 inputs and outputs, it takes 9"
    assert_refused(kernels, "PagedAttention", "paged_attention", inputs, np.full((3, 4, 16), 7, np.float32), message)
