"""The Ascend C kernels between a layer's products, on the emulated chip, against NumPy in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.custom_ops.ascendc.layer_op_scenes import (
    CACHE_DTYPES,
    FLOAT16,
    FLOAT32,
    TOKEN_DTYPES,
    ActScene,
    NormScene,
    RopeScene,
    number,
)
from tests.custom_ops.kernel_calls import BFLOAT16, INT8, OpRefusedError

BOTH = (False, True)


@pytest.mark.parametrize("dtype", TOKEN_DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "width"), [(1, 16), (3, 80), (5, 576), (2, 2048), (7, 2064), (2, 8192)])
@pytest.mark.parametrize("cores", [1, 3])
def test_the_sum_and_its_norm(emulated, dtype, tokens, width, cores):
    with emulated.chip(cores, 0):
        NormScene(tokens, width, dtype).check(emulated)


@pytest.mark.parametrize("dtype", TOKEN_DTYPES, ids=str)
@pytest.mark.parametrize("width", [48, 2176])
@pytest.mark.parametrize(
    ("adds", "norms_added", "scale"), [(0, 0, 1.0), (0, 1, 0.5), (1, 1, 1.0), (1, 1, 0.22), (1, 0, 0.4)]
)
def test_options_of_the_norm(emulated, dtype, width, adds, norms_added, scale):
    NormScene(3, width, dtype, bool(adds), bool(norms_added), scale, epsilon=1e-2).check(emulated)


def test_the_widest_row_fits(emulated):
    NormScene(1, 32768, FLOAT32, norms_added=True).check(emulated)


def test_a_row_of_zeros_is_divided_by_the_root_of_epsilon(emulated):
    scene = NormScene(2, 64, FLOAT16)
    scene.inputs["x"][0] = scene.inputs["added"][0] = 0
    _, output = scene.run(emulated)
    assert not output[0].any()


@pytest.mark.parametrize("dtype", TOKEN_DTYPES, ids=str)
@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES, ids=str)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(1, 1, 32), (4, 2, 64), (9, 3, 96), (8, 1, 128), (40, 40, 128)]
)
@pytest.mark.parametrize(("tokens", "cores"), [(1, 40), (5, 3)])
def test_queries_keys_and_values(emulated, dtype, cache_dtype, heads, kv_heads, head_dim, tokens, cores):
    with emulated.chip(cores, 0):
        RopeScene(tokens, heads, kv_heads, head_dim, dtype, cache_dtype).check(emulated)


@pytest.mark.parametrize("dtype", TOKEN_DTYPES, ids=str)
@pytest.mark.parametrize("cache_dtype", [FLOAT16, INT8], ids=str)
@pytest.mark.parametrize("has_bias", BOTH)
@pytest.mark.parametrize("norms_heads", BOTH)
@pytest.mark.parametrize("rotates", BOTH)
def test_options_of_the_rotation(emulated, dtype, cache_dtype, has_bias, norms_heads, rotates):
    RopeScene(4, 6, 2, 64, dtype, cache_dtype, None, has_bias, norms_heads, rotates).check(emulated)


@pytest.mark.parametrize(("head_dim", "rotated"), [(32, 16), (96, 48), (128, 96), (128, 16)])
def test_the_numbers_behind_the_rotated_ones_stay(emulated, head_dim, rotated):
    RopeScene(3, 4, 2, head_dim, FLOAT16, FLOAT16, rotated).check(emulated)


@pytest.mark.parametrize("head_dim", [16, 48, 80, 112])
def test_heads_of_every_sixteen(emulated, head_dim):
    RopeScene(3, 5, 5, head_dim, BFLOAT16, BFLOAT16).check(emulated)


def test_more_tokens_than_fit_a_window_of_slots(emulated):
    slots = np.random.default_rng(2).permutation(80 * 16)[:1100].astype(np.int32)
    with emulated.chip(7, 0):
        RopeScene(1100, 1, 1, 16, FLOAT16, FLOAT16, num_blocks=80, slots=slots).check(emulated)


@pytest.mark.parametrize("dtype", TOKEN_DTYPES, ids=str)
@pytest.mark.parametrize("activation", [0, 1], ids=["silu", "gelu"])
@pytest.mark.parametrize("has_bias", BOTH)
@pytest.mark.parametrize(("tokens", "width", "cores"), [(1, 16, 40), (1, 5632, 40), (3, 272, 40), (5, 4112, 2)])
def test_gated(emulated, dtype, activation, has_bias, tokens, width, cores):
    with emulated.chip(cores, 0):
        ActScene(tokens, width, dtype, activation, has_bias).check(emulated)


@pytest.mark.parametrize("activation", [0, 1], ids=["silu", "gelu"])
def test_gates_far_from_zero(emulated, activation):
    """The exponential overflows, or vanishes."""
    scene = ActScene(2, 64, FLOAT32, activation, has_bias=False)
    scene.inputs["gate_up"][:, :64] = [[-1e30], [3000.0]]
    up = scene.inputs["gate_up"][:, 64:]
    np.testing.assert_array_equal(scene.run(emulated), np.array([[0], [3000]], np.float32) * up)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_shape_of_all_three(emulated, data):
    pick = data.draw
    dtype, cores, seed = pick(st.sampled_from(TOKEN_DTYPES)), pick(st.integers(1, 40)), pick(st.integers(0, 99))
    tokens, step, flags = pick(st.integers(1, 9)), pick(st.integers(1, 8)), pick(st.tuples(*[st.booleans()] * 3))
    group, kv_heads = pick(st.integers(1, 5)), pick(st.integers(1, 5))
    cache_dtype = pick(st.sampled_from(CACHE_DTYPES if step % 2 == 0 else CACHE_DTYPES[:2]))
    rotated = 16 * pick(st.integers(1, step))
    width = 16 * pick(st.integers(1, 300))
    with emulated.chip(cores, 0):
        RopeScene(tokens, group * kv_heads, kv_heads, 16 * step, dtype, cache_dtype, rotated, *flags, seed=seed).check(
            emulated
        )
        NormScene(tokens, width, dtype, *flags[:2], residual_scale=0.5, seed=seed).check(emulated)
        ActScene(tokens, width, dtype, int(flags[0]), flags[1], seed=seed).check(emulated)


def test_decoding_one_token_uses_many_cores(emulated):
    """LLaMA-7B: 96 heads over 40 cores, 11008 columns over 40."""
    RopeScene(1, 32, 32, 128, FLOAT16, FLOAT16, slots=np.zeros(1, np.int32)).check(emulated)
    assert emulated.report()["slowest_vector_core"]["mte3_bytes"] <= 4 * 128 * 2
    ActScene(1, 11008, FLOAT16, has_bias=False).check(emulated)
    assert emulated.report()["slowest_vector_core"]["mte3_bytes"] <= 2 * 11008 * 2 / 40


def refused(scene, emulated, message, **changed):
    scene.inputs |= changed
    before = {name: array.copy() for name, array in scene.inputs.items()}
    with pytest.raises(OpRefusedError) as caught:
        scene.run(emulated)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    for name, array in before.items():
        assert scene.inputs[name].tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"added": np.zeros((3, 32), FLOAT16)}, "fused_add_rms_norm: added has shape [3, 32], it must be [2, 32]"),
        ({"weight": np.zeros(48, FLOAT16)}, "weight has shape [48], it must be [32]"),
        ({"added_weight": np.zeros(16, FLOAT16)}, "added_weight has shape [16], it must be [32]"),
        ({"weight": np.zeros(32, FLOAT32)}, "weight has dtype float32, it must be that of x, float16"),
        ({"x": np.zeros((2, 32), INT8)}, "x has dtype int8, allowed: float32, float16, bfloat16"),
    ],
)
def test_the_norm_refuses(emulated, changed, message):
    refused(NormScene(2, 32, FLOAT16), emulated, message, **changed)


@pytest.mark.parametrize("width", [8, 24, 32784])
def test_the_norm_refuses_widths(emulated, width):
    message = f"the width of x {width} is not supported: it must be a multiple of 16, at most 32768"
    refused(NormScene(1, width, FLOAT16), emulated, message)


QKV = np.zeros((2, 8 * 32), FLOAT16)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"qkv": np.zeros((3, 8 * 32), FLOAT16)}, "rope_and_cache: qkv has shape [3, 256], it must be [2, 256]"),
        (
            {"qkv": np.zeros((2, 4 * 32), FLOAT16)},
            "qkv has 128 columns, no queries beside keys and values of 2 KV heads",
        ),
        (
            {"qkv": np.zeros((2, 7 * 32), FLOAT16)},
            "qkv has 224 columns, no queries beside keys and values of 2 KV heads",
        ),
        ({"bias": np.zeros(16, FLOAT16)}, "bias has shape [16], it must be [256]"),
        ({"head_norms": np.zeros((1, 32), FLOAT16)}, "head_norms has shape [1, 32], it must be [2, 32]"),
        ({"rotation": np.zeros((1, 32), FLOAT32)}, "rotation has shape [1, 32], it must be [2, 32]"),
        ({"rotation": np.zeros((2, 32), FLOAT16)}, "rotation has dtype float16, allowed: float32"),
        (
            {"rotation": np.zeros((2, 24), FLOAT32)},
            "the width of rotation 24 is not supported: it must be a multiple of 16",
        ),
        (
            {"rotation": np.zeros((2, 48), FLOAT32)},
            "the width of rotation 48 is not supported: it must be a multiple of 16",
        ),
        ({"bias": np.zeros(256, FLOAT32)}, "bias has dtype float32, it must be that of qkv, float16"),
        ({"slot_mapping": np.array([0, 48], np.int32)}, "token 1: slot 48 is outside [-1, 48)"),
        ({"slot_mapping": np.array([-2, 0], np.int32)}, "token 0: slot -2 is outside [-1, 48)"),
    ],
)
def test_the_rotation_refuses(emulated, changed, message):
    refused(RopeScene(2, 4, 2, 32, FLOAT16, FLOAT16), emulated, message, **changed)


def test_the_rotation_refuses_heads_and_pages(emulated):
    message = "head_dim 144 is not supported: it must be a multiple of 16, at most 128"
    refused(RopeScene(2, 4, 2, 144, FLOAT16, FLOAT16), emulated, message)
    message = "head_dim 48 is not supported for int8: it must be a multiple of 32, at most 128"
    refused(RopeScene(2, 4, 2, 48, FLOAT16, INT8), emulated, message)
    caches = np.zeros((2, 3, 16, 2, 32), FLOAT32)
    message = "key_cache has dtype float32, allowed on Ascend: float16, bfloat16, int8"
    refused(RopeScene(2, 4, 2, 32, FLOAT32, FLOAT16), emulated, message, key_cache=caches[0], value_cache=caches[1])


def test_gates_refuse(emulated):
    message = "act_and_mul: half the width of gate_up 24 is not supported: it must be a multiple of 16"
    refused(ActScene(2, 24, FLOAT16), emulated, message)
    refused(ActScene(2, 32, FLOAT16), emulated, "bias has shape [32], it must be [64]", bias=np.zeros(32, FLOAT16))
    refused(ActScene(2, 32, FLOAT16, activation=2), emulated, "activation 2 is outside [0, 2)")
    gate_up, bias, output = np.zeros((2, 64), FLOAT16), np.zeros(64, FLOAT16), np.zeros((2, 64), FLOAT16)
    with pytest.raises(OpRefusedError, match=r"gate_up has shape \[2, 64\], it must be \[2, 128\]"):
        emulated.call("ActAndMul", gate_up, bias, number(0), number(0), output)
