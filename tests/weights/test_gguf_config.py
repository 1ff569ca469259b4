"""GGUF metadata becomes a ModelConfig, or is refused by the name of the key."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mindspore_paged.errors import CheckpointError
from mindspore_paged.models.registry import MODEL_CONFIGS
from mindspore_paged.models.rope import inverse_frequencies
from mindspore_paged.rope_scaling import RopeScaling
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


HEADS_OF_64 = {f"llama.{key}": 64 for key in ("attention.key_length", "attention.value_length", "rope.dimension_count")}


@pytest.mark.parametrize(
    "divisors",
    [llama3_divisors(8.0, 64), llama3_divisors(32.0, 64, low=2.0, original=512), np.linspace(0.25, 4, 32)],
    ids=["Llama 3.1", "other parameters", "of any kind"],
)
def test_divisors_are_kept_as_they_stand(config_of, divisors):
    config = config_of(extra={"rope_freqs.weight": divisors.astype(np.float32)}, **HEADS_OF_64)
    assert config.rope_scaling == RopeScaling(divisors=tuple(divisors.astype(np.float32).tolist()))
    frequencies = 500000.0 ** (-np.arange(32) / 32)
    np.testing.assert_allclose(inverse_frequencies(config, 16), frequencies / divisors.astype(np.float32), rtol=1e-14)


def test_llama3_by_its_divisors_is_llama3_by_its_parameters(config_of):
    divided = config_of(extra={"rope_freqs.weight": llama3_divisors(8.0, 64)}, **HEADS_OF_64)
    computed = replace(divided, rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 8192))
    np.testing.assert_allclose(inverse_frequencies(divided, 16), inverse_frequencies(computed, 16), rtol=1e-6)


def test_divisors_of_one_scale_nothing(config_of):
    assert config_of(extra={"rope_freqs.weight": np.ones(2, np.float32)}).rope_scaling == RopeScaling()


@pytest.mark.parametrize(
    ("divisors", "message"),
    [
        (np.ones(1, np.float32), r"rope_freqs.weight is F32 of shape \[1\]; it must be F32 of shape \[2\]"),
        (np.ones((2, 1), np.float32), r"rope_freqs.weight is F32 of shape \[2, 1\]"),
        (np.ones(2, np.float16), r"rope_freqs.weight is F16 of shape \[2\]"),
        (np.array([1, 0], np.float32), "rope_freqs.weight holds 0.0; it must hold positive numbers"),
        (np.array([1, -3], np.float32), "rope_freqs.weight holds -3.0"),
        (np.array([1, np.nan], np.float32), "rope_freqs.weight holds nan"),
        (np.array([np.inf, 1], np.float32), "rope_freqs.weight holds inf"),
    ],
)
def test_divisors_that_cannot_be(config_of, divisors, message):
    with pytest.raises(CheckpointError, match=message):
        config_of(extra={"rope_freqs.weight": divisors})


DIVISORS = np.array([1.5, 3], np.float32)
PAIRS = {"rope_factors_short.weight": DIVISORS, "rope_factors_long.weight": 2 * DIVISORS}


def scaling(**keys):
    return {f"llama.rope.scaling.{key}": value for key, value in keys.items()}


# What llama.cpp makes of a pair: theta / its factor, times freq_scale; yarn blends that with theta / its factor.
@pytest.mark.parametrize(
    ("extra", "changes", "expected"),
    [
        (
            {"rope_freqs.weight": DIVISORS},
            scaling(type="linear", factor=4.0),
            RopeScaling("linear", 4.0, divisors=(1.5, 3.0)),
        ),
        ({"rope_freqs.weight": DIVISORS}, scaling(type="none", factor=4.0), RopeScaling(divisors=(1.5, 3.0))),
        ({}, scaling(attn_factor=1.25), RopeScaling(attention_factor=1.25)),
        (
            {},
            scaling(type="yarn", factor=4.0, original_context_length=32),
            RopeScaling("yarn", 4.0, original_max_position_embeddings=32, attention_factor=1 + 0.1 * math.log(4)),
        ),
        (
            {"rope_freqs.weight": DIVISORS},
            scaling(type="yarn", factor=4.0, attn_factor=0.5, yarn_beta_fast=24.0, yarn_beta_slow=2.0),
            RopeScaling(
                "yarn", 4.0, beta_fast=24.0, beta_slow=2.0, attention_factor=0.5 + 0.05 * math.log(4),
                divisors=(1.5, 3.0),
            ),
        ),
        (
            {},
            scaling(type="yarn", factor=4.0, yarn_attn_factor=0.75),
            RopeScaling("yarn", 4.0, attention_factor=0.75),
        ),
        (
            PAIRS,
            scaling(type="longrope", original_context_length=32, attn_factor=1.5),
            RopeScaling(
                "longrope", original_max_position_embeddings=32, attention_factor=1.5, short_factor=(1.5, 3.0),
                long_factor=(3.0, 6.0),
            ),
        ),
        (
            PAIRS,
            scaling(type="longrope", factor=2.0),
            RopeScaling("longrope", attention_factor=1.0, short_factor=(3.0, 6.0), long_factor=(6.0, 12.0)),
        ),
    ],
)  # fmt: skip
def test_scaling_beside_and_in_place_of_divisors(config_of, extra, changes, expected):
    assert config_of(extra=extra, **changes).rope_scaling == expected


@pytest.mark.parametrize(
    ("extra", "changes", "message"),
    [
        ({}, scaling(type="longrope"), "rope_factors_short.weight is missing"),
        ({"rope_factors_short.weight": DIVISORS}, scaling(type="longrope"), "rope_factors_long.weight is missing"),
        (
            PAIRS | {"rope_factors_long.weight": DIVISORS[:1]},
            scaling(type="longrope"),
            r"rope_factors_long.weight is F32",
        ),
        ({}, scaling(type="ntk"), "llama.rope.scaling.type is 'ntk'; allowed: 'none', 'linear', 'yarn', 'longrope'"),
        ({}, scaling(factor=float("nan")), "llama.rope.scaling.factor is nan"),
        ({}, scaling(factor=-2.0), "llama.rope.scaling.factor is -2.0"),
        ({}, scaling(factor="2"), "llama.rope.scaling.factor is '2'"),
        ({}, scaling(attn_factor=float("inf")), "llama.rope.scaling.attn_factor is inf"),
        ({}, scaling(type="yarn", factor=2.0, original_context_length=1), "original_max_position_embeddings is 1;"),
        ({}, {"llama.rope.freq_base": float("nan")}, "llama.rope.freq_base is nan"),
        ({}, {"llama.rope.freq_base": -1.0}, "llama.rope.freq_base is -1.0"),
    ],
)
def test_rope_values_that_cannot_be(config_of, extra, changes, message):
    with pytest.raises(CheckpointError, match=message):
        config_of(extra=extra, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llama.block_count": None}, "lacks llama.block_count"),
        ({"llama.attention.head_count": None}, "lacks llama.attention.head_count"),
        ({"llama.block_count": "two"}, "llama.block_count is 'two'; it must be a valid integer"),
        ({"llama.attention.head_count": [8, 8]}, r"llama.attention.head_count is \[8, 8\]"),
        ({"llama.block_count": 0}, "llama.block_count is 0; it must be"),
        ({"llama.attention.head_count_kv": 3}, "not a multiple"),
        ({"llama.expert_count": 8}, "mixtures of experts"),
        ({"llama.rope.dimension_count": 2}, "llama.rope.dimension_count is 2"),
        ({"llama.attention.value_length": 8}, "llama.attention.value_length is 8"),
    ],
)
def test_metadata_of_something_else_is_refused(config_of, changes, message):
    with pytest.raises(CheckpointError, match=message) as error:
        config_of(**changes)
    assert "tiny.gguf" in str(error.value)


HUGE = 2**32 - 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llama.attention.head_count": 0}, "llama.attention.head_count is 0; it must be greater than or equal to 1"),
        ({"llama.attention.head_count": HUGE}, "llama.attention.head_count is 4294967295; it must be less than"),
        ({"llama.attention.head_count": 64}, "head_dim is 0|only head_dim, 0, is supported"),
        ({"llama.attention.head_count": 8.0}, "llama.attention.head_count is 8.0; it must be a valid integer"),
        ({"llama.attention.head_count": True}, "llama.attention.head_count is True; it must be a valid integer"),
        ({"llama.attention.head_count_kv": 0}, "llama.attention.head_count_kv is 0"),
        ({"llama.attention.head_count_kv": "two"}, "llama.attention.head_count_kv is 'two'"),
        ({"llama.attention.head_count_kv": [2.5]}, "llama.attention.head_count_kv"),
        ({"llama.attention.head_count_kv": ["a"]}, "llama.attention.head_count_kv"),
        ({"llama.embedding_length": HUGE}, "llama.embedding_length is 4294967295"),
        ({"llama.embedding_length": "wide"}, "llama.embedding_length is 'wide'"),
        ({"llama.feed_forward_length": 0}, "llama.feed_forward_length is 0"),
        ({"llama.feed_forward_length": [64, 64]}, r"llama.feed_forward_length is \[64, 64\]"),
        ({"llama.block_count": 1000}, "llama.block_count is 1000, but there are only 21 tensors"),
        ({"llama.block_count": HUGE}, "llama.block_count is 4294967295; it must be less than"),
        ({"llama.context_length": HUGE}, "llama.context_length is 4294967295; it must be less than"),
        ({"llama.context_length": 0}, "llama.context_length is 0"),
        ({"llama.attention.layer_norm_rms_epsilon": math.nan}, "layer_norm_rms_epsilon is nan; it must be"),
        ({"llama.attention.layer_norm_rms_epsilon": math.inf}, "layer_norm_rms_epsilon is inf; it must be"),
        ({"llama.attention.layer_norm_rms_epsilon": -1e-5}, "layer_norm_rms_epsilon is -"),
        ({"llama.attention.layer_norm_rms_epsilon": "small"}, "layer_norm_rms_epsilon is 'small'"),
        ({"llama.attention.key_length": HUGE}, "llama.attention.key_length is 4294967295"),
        ({"llama.attention.key_length": 5, "llama.rope.dimension_count": None}, "head_dim is 5"),
        ({"llama.expert_count": "many"}, "llama.expert_count is 'many'"),
        ({"general.type": "adapter"}, "general.type is 'adapter'; allowed: 'model'"),
        ({"general.type": 3}, "general.type is 3; it must be a valid string"),
        ({"tokenizer.ggml.tokens": ["a"] * 51}, "51 tokens, but token_embd.weight has only 50 rows"),
    ],
)
def test_values_that_cannot_be(config_of, changes, message):
    with pytest.raises(CheckpointError, match=message) as error:
        config_of(**changes)
    assert "tiny.gguf" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [50, 2**32 - 1])
def test_special_tokens_that_are_none_are_left_out_with_a_warning(config_of, caplog, value):
    config = config_of(**{"tokenizer.ggml.bos_token_id": value, "tokenizer.ggml.eos_token_id": value})
    assert (config.bos_token_id, config.eos_token_ids) == (None, ())
    assert [record.message.split(": ", 1)[1] for record in caplog.records] == [
        f"tokenizer.ggml.{name}_token_id is {value}, which is no token of a vocabulary of 50; it is ignored"
        for name in ("bos", "eos")
    ]


def test_an_unused_key_may_hold_any_bytes(tmp_path):
    path = tiny.write_gguf(tmp_path / "tiny.gguf", tiny.make_weights(), tiny.gguf_metadata(general__author="Jose"))
    path.write_bytes(path.read_bytes().replace(b"Jose", b"Jos\xe9"))
    assert open_checkpoint(path).model_config == tiny.CONFIG
    path.write_bytes(path.read_bytes().replace(b"llama.block_count", b"llam\xe9.block_count"[:17]))
    with pytest.raises(CheckpointError, match=r"lacks llama.block_count"):
        open_checkpoint(path)


def test_an_architecture_that_is_no_text(tmp_path):
    path = tiny.write_gguf(tmp_path / "tiny.gguf", tiny.make_weights(), architecture="qqqqq")
    path.write_bytes(path.read_bytes().replace(b"qqqqq", b"l\xe0ama"))
    with pytest.raises(CheckpointError, match=r"general.architecture is b'l\\xe0ama', which is not UTF-8"):
        open_checkpoint(path)


def test_two_tensors_of_one_name(tmp_path):
    path = tiny.write_gguf(
        tmp_path / "tiny.gguf", tiny.make_weights(), extra={"model.norm.weight": np.ones(32, np.float32)}
    )
    with pytest.raises(CheckpointError, match=r"output_norm.weight and model.norm.weight are both model.norm.weight"):
        open_checkpoint(path)


def test_rows_that_are_no_whole_heads_are_refused_where_they_are_read(tmp_path):
    weights = tiny.make_weights()
    path = tiny.write_gguf(tmp_path / "tiny.gguf", weights)
    path.write_bytes(path.read_bytes().replace(b"blk.0.attn_v.weight", b"blk.9.attn_q.weight"))
    checkpoint = open_checkpoint(path)
    name = "model.layers.9.self_attn.q_proj.weight"
    np.testing.assert_array_equal(np.sort(checkpoint.read(name), axis=None).shape, (8 * 32,))
    changed = tiny.write_gguf(
        tmp_path / "tiny.gguf", weights, extra={"blk.9.attn_q.weight": np.ones((7, 32), np.float32)}
    )
    with pytest.raises(CheckpointError, match=r"shape \(7, 32\); its rows must be a multiple of head_dim, 4"):
        open_checkpoint(changed).read(name)


def test_another_architecture_is_refused_by_name(tmp_path):
    path = tiny.write_gguf(tmp_path / "tiny.gguf", tiny.make_weights(), architecture="gpt2")
    with pytest.raises(CheckpointError, match="architecture is 'gpt2'; allowed: 'llama', 'qwen2', .*'gemma3'"):
        open_checkpoint(path)


def test_a_file_without_embeddings_is_refused(tmp_path):
    path = tiny.write_gguf(tmp_path / "tiny.gguf", {"model.norm.weight": np.ones(32, np.float32)})
    with pytest.raises(CheckpointError, match=r"tensor token_embd.weight is missing"):
        open_checkpoint(path)
