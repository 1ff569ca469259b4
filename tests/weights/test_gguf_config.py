"""GGUF metadata becomes a ModelConfig, or is refused by the name of the key."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mindspore_paged.errors import CheckpointError
from mindspore_paged.model_config import MODEL_CONFIGS, RopeScaling
from mindspore_paged.weights.checkpoint import open_checkpoint
from tests.weights import tiny


@pytest.fixture
def config_of(tmp_path):
    def write_and_open(extra=(), **changes):
        metadata = tiny.gguf_metadata(**changes)
        path = tiny.write_gguf(tmp_path / "tiny.gguf", tiny.make_weights(), metadata, extra=extra)
        return open_checkpoint(path).model_config

    return write_and_open


def test_the_demo_model_describes_itself(demo_model):
    assert open_checkpoint(demo_model).model_config == MODEL_CONFIGS["smollm2-135m"]


def test_absent_keys_take_the_defaults_of_the_format(tmp_path):
    weights = {name: values for name, values in tiny.make_weights().items() if name != "lm_head.weight"}
    metadata = tiny.gguf_metadata(
        llama__rope__freq_base=None,
        llama__rope__dimension_count=None,
        tokenizer__ggml__bos_token_id=None,
        tokenizer__ggml__eos_token_id=None,
    )
    config = open_checkpoint(tiny.write_gguf(tmp_path / "tiny.gguf", weights, metadata)).model_config
    assert config == replace(
        tiny.CONFIG, rope_theta=10000.0, tie_word_embeddings=True, bos_token_id=None, eos_token_ids=()
    )


def test_without_head_count_kv_every_head_has_its_own(config_of):
    assert config_of(**{"llama.attention.head_count_kv": None}).num_key_value_heads == 8


def test_key_length_is_the_head_dim(config_of):
    changes = {f"llama.{key}": 6 for key in ("attention.key_length", "attention.value_length", "rope.dimension_count")}
    assert config_of(**changes).head_dim == 6


def test_one_kv_head_count_a_layer_is_read_where_all_are_equal(config_of):
    assert config_of(**{"llama.attention.head_count_kv": [2, 2]}).num_key_value_heads == 2
    with pytest.raises(CheckpointError, match="differs between layers"):
        config_of(**{"llama.attention.head_count_kv": [2, 4]})


def test_the_end_of_a_turn_ends_a_sequence_too(config_of):
    assert config_of(**{"tokenizer.ggml.eot_token_id": 9}).eos_token_ids == (2, 9)
    assert config_of(**{"tokenizer.ggml.eot_token_id": 2}).eos_token_ids == (2,)


@pytest.mark.parametrize(
    "changes",
    [
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
        {"llama.rope.scaling.factor": 4.0},
        {"llama.rope.scale_linear": 4.0},
    ],
)
def test_linear_scaling_in_each_spelling(config_of, changes):
    assert config_of(**changes).rope_scaling == RopeScaling("linear", 4.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0},
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0},
        {"llama.rope.scaling.type": "linear"},
    ],
)
def test_no_scaling_in_each_spelling(config_of, changes):
    assert config_of(**changes).rope_scaling == RopeScaling()


def llama3_divisors(factor, head_dim=4, theta=500000.0, low=1.0, high=4.0, original=8192):
    """Frequency by frequency, as the reference code of Llama 3.1 scales them, and divided out of the unscaled ones."""
    divisors = []
    for pair in range(head_dim // 2):
        frequency = theta ** (-2 * pair / head_dim)
        wavelength = 2 * math.pi / frequency
        if wavelength < original / high:
            scaled = frequency
        elif wavelength > original / low:
            scaled = frequency / factor
        else:
            smooth = (original / wavelength - low) / (high - low)
            scaled = (1 - smooth) * frequency / factor + smooth * frequency
        divisors.append(frequency / scaled)
    return np.array(divisors, np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_the_stored_divisors_of_llama3_give_its_scaling(config_of, factor, head_dim):
    keys = ("attention.key_length", "attention.value_length", "rope.dimension_count")
    changes = {f"llama.{key}": head_dim for key in keys}
    config = config_of(extra={"rope_freqs.weight": llama3_divisors(factor, head_dim)}, **changes)
    assert config.rope_scaling == RopeScaling("llama3", factor, 1.0, 4.0, 8192)


def test_divisors_of_one_scale_nothing(config_of):
    assert config_of(extra={"rope_freqs.weight": np.ones(2, np.float32)}).rope_scaling == RopeScaling()


@pytest.mark.parametrize(
    "divisors",
    [np.array([1.5, 8.0]), np.array([1.0]), llama3_divisors(8.0, head_dim=64, low=2.0)],
    ids=["longrope", "too short", "other parameters"],
)
def test_other_divisors_are_refused(config_of, divisors):
    head_dim = 64 if len(divisors) == 32 else 4
    keys = ("attention.key_length", "attention.value_length", "rope.dimension_count")
    with pytest.raises(CheckpointError, match=r"rope_freqs.weight holds other divisors"):
        config_of(
            extra={"rope_freqs.weight": divisors.astype(np.float32)}, **{f"llama.{key}": head_dim for key in keys}
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llama.block_count": None}, "lacks llama.block_count"),
        ({"llama.attention.head_count": None}, "lacks llama.attention.head_count"),
        ({"llama.block_count": "two"}, "llama.block_count is a str"),
        ({"llama.attention.head_count": [8, 8]}, "llama.attention.head_count is a list"),
        ({"llama.block_count": 0}, "num_hidden_layers is 0"),
        ({"llama.attention.head_count_kv": 3}, "not a multiple"),
        ({"llama.expert_count": 8}, "mixtures of experts"),
        ({"llama.rope.dimension_count": 2}, "llama.rope.dimension_count is 2"),
        ({"llama.attention.value_length": 8}, "llama.attention.value_length is 8"),
        ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type is 'yarn'"),
    ],
)
def test_metadata_of_something_else_is_refused(config_of, changes, message):
    with pytest.raises(CheckpointError, match=message) as error:
        config_of(**changes)
    assert "tiny.gguf" in str(error.value)


def test_linear_scaling_beside_divisors_is_refused(config_of):
    with pytest.raises(CheckpointError, match="has both"):
        config_of(extra={"rope_freqs.weight": llama3_divisors(8.0)}, **{"llama.rope.scaling.factor": 2.0})


def test_another_architecture_is_refused_by_name(tmp_path):
    path = tiny.write_gguf(tmp_path / "tiny.gguf", tiny.make_weights(), architecture="qwen2")
    with pytest.raises(CheckpointError, match="architecture is 'qwen2'; allowed: 'llama'"):
        open_checkpoint(path)


def test_a_file_without_embeddings_is_refused(tmp_path):
    path = tiny.write_gguf(tmp_path / "tiny.gguf", {"model.norm.weight": np.ones(32, np.float32)})
    with pytest.raises(CheckpointError, match=r"tensor token_embd.weight is missing"):
        open_checkpoint(path)
