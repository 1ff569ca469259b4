"""A config.json becomes a ModelConfig, or is refused by the name of the key."""

import json
from dataclasses import replace

import pytest

from mindspore_paged.errors import CheckpointError
from mindspore_paged.rope_scaling import RopeScaling
from mindspore_paged.weights.checkpoint import open_checkpoint
from mindspore_paged.weights.hf_config import hf_model_config
from tests.weights import tiny

LLAMA3 = {
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.fixture
def config_of(tmp_path):
    def write_and_open(**changes):
        return hf_model_config(tiny.write_hf_folder(tmp_path / "hf", tiny.make_weights(), **changes))

    return write_and_open


def test_absent_keys_take_the_defaults_of_transformers(config_of):
    absent = (
        "num_key_value_heads",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
        "rope_scaling",
        "hidden_act",
        "attention_bias",
        "tie_word_embeddings",
        "bos_token_id",
        "eos_token_id",
    )
    assert config_of(**dict.fromkeys(absent, "absent")) == replace(
        tiny.CONFIG,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        bos_token_id=None,
        eos_token_ids=(),
    )


def test_head_dim_and_tied_embeddings(config_of):
    config = config_of(head_dim=16, tie_word_embeddings=True)
    assert (config.head_dim, config.tie_word_embeddings) == (16, True)


def test_both_files_say_what_ends_a_sequence(tmp_path, config_of):
    assert config_of(eos_token_id=[5, 6]).eos_token_ids == (5, 6)
    (tmp_path / "hf" / "generation_config.json").write_text('{"eos_token_id": [7, 2]}')
    assert config_of(eos_token_id=5).eos_token_ids == (7, 2, 5)
    (tmp_path / "hf" / "generation_config.json").write_text("{}")
    assert config_of().eos_token_ids == (2,)


@pytest.mark.parametrize(
    ("changes", "scaling"),
    [
        ({"rope_scaling": None}, RopeScaling()),
        ({"rope_scaling": {"rope_type": "default"}}, RopeScaling()),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, RopeScaling("linear", 2.0)),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2}}, RopeScaling("linear", 2.0)),
        ({"rope_scaling": {"rope_type": "llama3", **LLAMA3}}, RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)),
        (
            {"rope_theta": "absent", "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **LLAMA3}},
            RopeScaling("llama3", 32.0, 1.0, 4.0, 8192),
        ),
        ({"rope_theta": "absent", "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, RopeScaling()),
    ],
)
def test_rope_scaling_in_each_spelling(config_of, changes, scaling):
    assert config_of(**changes) == replace(tiny.CONFIG, rope_scaling=scaling)


YARN = {"rope_type": "yarn", "factor": 4.0}
PAIRS = {"short_factor": [1.0, 1.5], "long_factor": [2, 8.5]}


@pytest.mark.parametrize(
    ("changes", "scaling"),
    [
        (
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            RopeScaling("dynamic", 2.0, original_max_position_embeddings=128),
        ),
        ({"rope_scaling": YARN}, RopeScaling("yarn", 4.0)),
        (
            {"rope_scaling": YARN | {"original_max_position_embeddings": 32.0, "beta_fast": 16, "truncate": False}},
            RopeScaling("yarn", 4.0, original_max_position_embeddings=32, beta_fast=16.0, truncate=False),
        ),
        (
            {"rope_scaling": YARN | {"beta_slow": None, "beta_fast": 0, "mscale": 0, "mscale_all_dim": 1}},
            RopeScaling("yarn", 4.0),
        ),
        (
            {"rope_scaling": {"type": "longrope", "factor": 2.0, "attention_factor": 1.25} | PAIRS},
            RopeScaling("longrope", 2.0, attention_factor=1.25, short_factor=(1.0, 1.5), long_factor=(2.0, 8.5)),
        ),
        (
            {"original_max_position_embeddings": 32.0, "rope_scaling": {"rope_type": "longrope"} | PAIRS},
            RopeScaling(
                "longrope", 4.0, original_max_position_embeddings=32, short_factor=(1.0, 1.5), long_factor=(2.0, 8.5)
            ),
        ),
        (
            {"rope_scaling": {"rope_type": "llama3", **LLAMA3, "original_max_position_embeddings": 8192.0}},
            RopeScaling("llama3", 32.0, 1.0, 4.0, 8192),
        ),
    ],
)
def test_rope_of_longer_contexts(config_of, changes, scaling):
    assert config_of(**changes) == replace(tiny.CONFIG, rope_scaling=scaling)


@pytest.mark.parametrize("kind", ["ntk", "su", "mrope", "x" * 1000])
def test_other_rope_types_are_refused_by_name(config_of, kind):
    allowed = "'default', 'linear', 'dynamic', 'llama3', 'yarn', 'longrope'$"
    with pytest.raises(CheckpointError, match=f"rope type is '{kind[:3]}.*'; allowed: {allowed}") as error:
        config_of(rope_scaling={"rope_type": kind, "factor": 2.0})
    assert len(str(error.value)) < 500


def rope(kind, **keys):
    return {"rope_scaling": {"rope_type": kind, **keys}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (rope("yarn"), "rope_scaling.factor is None; rope type yarn needs it"),
        (rope("dynamic"), "rope_scaling.factor is None"),
        (rope("yarn", factor="4"), "rope_scaling.factor is '4'; it must be a valid number"),
        (rope("yarn", factor=True), "rope_scaling.factor is True"),
        (rope("yarn", factor=float("nan")), "rope_scaling.factor is nan"),
        (rope("yarn", factor=float("inf")), "rope_scaling.factor is inf"),
        (rope("linear", factor=-2.0), "rope_scaling.factor is -2.0; it must be greater than 0"),
        (rope("linear", factor=0), "rope_scaling.factor is 0"),
        (rope("linear", factor=1e12), "rope_scaling.factor is 1000000000000.0; it must be from 1 to 1e.09"),
        (rope("linear", factor=10**400), "rope_scaling.factor is a number of 1329 bits"),
        (rope("yarn", factor=2.0, attention_factor=0), "rope_scaling.attention_factor is 0"),
        (rope("yarn", factor=2.0, beta_fast=[1]), r"rope_scaling.beta_fast is \[1\]"),
        (rope("yarn", factor=2.0, truncate="no"), "rope_scaling.truncate is 'no'"),
        (rope("yarn", factor=2.0, original_max_position_embeddings=32.5), "original_max_position_embeddings is 32.5"),
        (rope("yarn", factor=2.0, original_max_position_embeddings=1), "original_max_position_embeddings is 1; "),
        (rope("longrope", factor=2.0, long_factor=[1.0, 1.0]), "rope_scaling.short_factor is None"),
        (rope("longrope", **PAIRS), "rope_scaling.factor is None"),
        (
            rope("longrope", factor=2.0, **PAIRS | {"long_factor": [1.0]}),
            "long_factor has 1 numbers; a head of 4 needs 2",
        ),
        (rope("longrope", factor=2.0, **PAIRS | {"long_factor": []}), "long_factor has 0 numbers"),
        (rope("longrope", factor=2.0, **PAIRS | {"short_factor": [1.0, "a"]}), r"short_factor\[1\] is 'a'"),
        (rope("longrope", factor=2.0, **PAIRS | {"short_factor": [1.0, -1]}), r"short_factor\[1\] is -1"),
        (rope("longrope", factor=2.0, **PAIRS | {"short_factor": {"a": 1}}), "short_factor is {'a': 1}"),
        (rope(["yarn"]), r"rope_scaling.rope_type is \['yarn'\]"),
        ({"rope_scaling": ["yarn"]}, r"rope scaling is \['yarn'\]"),
        ({"rope_theta": 0}, "rope_theta is 0"),
        ({"rope_theta": float("nan")}, "rope_theta is nan"),
        ({"rope_theta": "10000"}, "rope_theta is '10000'"),
        ({"rope_theta": 1.0} | rope("yarn", factor=2.0), "rope_theta is 1.0; rope_scaling.type yarn needs more than 1"),
        ({"original_max_position_embeddings": "long"}, "original_max_position_embeddings is 'long'"),
    ],
)
def test_rope_values_that_cannot_be(config_of, changes, message):
    with pytest.raises(CheckpointError, match=message) as error:
        config_of(**changes)
    assert "config.json: " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; allowed: 'llama', 'mistral', 'qwen2', .*'gemma3_text'"),
        ({"model_type": "absent"}, "model_type is None"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; allowed: 'silu'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"hidden_size": "absent"}, "hidden_size is None"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers is '2'"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_key_value_heads": 3}, "not a multiple"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small'"),
        ({"rope_scaling": "linear"}, "rope scaling is 'linear'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor is None"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor is None"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "factor is 0.5"),
        ({"eos_token_id": "</s>"}, "eos_token_id is '</s>'"),
    ],
)
def test_what_the_model_cannot_do_is_refused(config_of, changes, message):
    with pytest.raises(CheckpointError, match=message) as error:
        config_of(**changes)
    assert "config.json" in str(error.value)


@pytest.mark.parametrize("content", ["", "not json", "[1, 2]", b"\xff\xfe\x00"])
def test_a_damaged_config_is_refused(tmp_path, content):
    folder = tiny.write_hf_folder(tmp_path / "hf", tiny.make_weights())
    (folder / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=r"config.json: (not readable as JSON|not UTF-8|holds a list)"):
        open_checkpoint(folder)


def test_the_written_config_is_one_that_can_be_read(tmp_path):
    folder = tiny.write_hf_folder(tmp_path / "hf", tiny.make_weights())
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
    assert open_checkpoint(folder).model_config == tiny.CONFIG


GEMMA = {"model_type": "gemma3_text", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
GEMMA |= {"num_hidden_layers": 7, "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 16}
LINEAR = {"rope_type": "linear", "factor": 8.0}


def read(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    return hf_model_config(folder)


def test_transformers_5_writes_a_rotation_for_each_type_of_layer(tmp_path):
    of_layers = {
        "full_attention": {"rope_theta": 500000.0, **LINEAR},
        "sliding_attention": {"rope_theta": 100.0, "rope_type": "default"},
    }
    before = {"rope_theta": 500000.0, "rope_scaling": LINEAR, "rope_local_base_freq": 100.0}
    model = read(tmp_path, GEMMA | {"rope_parameters": of_layers, "dtype": "bfloat16"})
    assert model == read(tmp_path, GEMMA | before | {"torch_dtype": "bfloat16"})
    assert (model.rope_theta, model.local_rope_theta) == (500000.0, 100.0)
    assert model.rope_scaling == RopeScaling("linear", 8.0)


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        (
            {"full_attention": {"rope_theta": 5e5}, "sliding_attention": {"rope_theta": 100.0, **LINEAR}},
            "rope_parameters.sliding_attention.rope_type is 'linear'; allowed: 'default'",
        ),
        (
            {"full_attention": {"rope_theta": 5e5}, "sliding_attention": 7},
            "rope_parameters.sliding_attention is 7; it must be a JSON object",
        ),
    ],
)
def test_rotations_of_layers_that_are_refused(tmp_path, rope, message):
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path, GEMMA | {"rope_parameters": rope})
    assert str(caught.value) == f"{tmp_path / 'config.json'}: {message}"


def test_a_family_without_local_bases_has_one_rotation(tmp_path):
    llama = GEMMA | {"model_type": "llama"}
    rope = {"rope_theta": 500000.0, "rope_type": "default"}
    both = {"full_attention": rope, "sliding_attention": rope}
    assert read(tmp_path, llama | {"rope_parameters": both}).rope_theta == 500000.0
    both["sliding_attention"] = rope | {"rope_theta": 100.0}
    with pytest.raises(CheckpointError, match=r"rope_parameters.sliding_attention is .*; allowed: that of full_att"):
        read(tmp_path, llama | {"rope_parameters": both})
