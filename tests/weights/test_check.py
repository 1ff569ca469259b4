"""A checkpoint is compared with the model before anything of it is loaded."""

from types import SimpleNamespace

import numpy as np
import pytest

from mindspore_paged.errors import CheckpointError
from mindspore_paged.weights.check import check_weights
from tests.weights import tiny


def checkpoint_of(arrays):
    def refuse_to_read(name):
        raise AssertionError(f"{name} was read")

    return SimpleNamespace(
        path="tiny.gguf",
        names=lambda: list(arrays),
        shape=lambda name: arrays[name].shape,
        dtype=lambda name: arrays[name].dtype,
        read=refuse_to_read,
    )


@pytest.fixture
def arrays():
    return {name: np.empty(shape, np.float32) for name, shape in tiny.expected_shapes().items()}


def test_a_fitting_checkpoint_passes(arrays):
    check_weights(checkpoint_of(arrays), tiny.expected_shapes())


@pytest.mark.parametrize("name", tiny.expected_shapes())
def test_each_missing_tensor_is_named(arrays, name):
    del arrays[name]
    with pytest.raises(CheckpointError, match=f"tiny.gguf: tensor {name} is missing"):
        check_weights(checkpoint_of(arrays), tiny.expected_shapes())


def test_many_missing_tensors_make_one_line(arrays):
    with pytest.raises(CheckpointError, match=r"21 tensors are missing, the first is model.embed_tokens.weight"):
        check_weights(checkpoint_of({}), tiny.expected_shapes())


@pytest.mark.parametrize("name", tiny.expected_shapes())
def test_each_wrong_shape_is_named(arrays, name):
    arrays[name] = np.empty((3, 5), np.float32)
    with pytest.raises(CheckpointError, match=rf"tensor {name} has shape \(3, 5\); the model needs"):
        check_weights(checkpoint_of(arrays), tiny.expected_shapes())


@pytest.mark.parametrize("dtype", [np.int8, np.float64, np.void])
def test_weights_of_another_type_are_refused(arrays, dtype):
    arrays["model.norm.weight"] = np.empty(32, dtype)
    with pytest.raises(CheckpointError, match=r"model.norm.weight is of type .*; allowed: float32, float16, bfloat16"):
        check_weights(checkpoint_of(arrays), tiny.expected_shapes())


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.2.mlp.up_proj.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.attention.w_qkv.bias",
        "rotary",
        "global_steps",
    ],
)
def test_each_unexpected_tensor_is_named(arrays, name):
    arrays[name] = np.empty(3, np.float32)
    with pytest.raises(CheckpointError, match=f"tensor {name} is not part of the model"):
        check_weights(checkpoint_of(arrays), tiny.expected_shapes())


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "adam_m.model.layers.0.attention.wq.weight",
        "exp_avg_sq.lm_head.weight",
        "global_step",
    ],
)
def test_leftovers_of_training_are_ignored(arrays, name):
    arrays[name] = np.empty(3, np.int64)
    check_weights(checkpoint_of(arrays), tiny.expected_shapes())


def test_the_lm_head_of_a_tied_model_may_be_there_or_not(arrays):
    expected = tiny.expected_shapes()
    del expected["lm_head.weight"]
    check_weights(checkpoint_of(arrays), expected)
    del arrays["lm_head.weight"]
    check_weights(checkpoint_of(arrays), expected)
