"""Rotary tables: frequencies and attention factors as transformers computes them, and as the papers say in float64."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from mindspore_paged.config import config_from_dict
from mindspore_paged.errors import ConfigError
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.llama import LlamaHfOptions
from mindspore_paged.models.registry import MODEL_CONFIGS
from mindspore_paged.models.rope import attention_factor, inverse_frequencies, rope_table
from mindspore_paged.rope_scaling import RopeScaling
from mindspore_paged.weights.rope_config import hf_rope
from tests.reference import llama as reference

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "rope.json").read_text(encoding="utf-8"))
TINY = replace(MODEL_CONFIGS["tiny"], head_dim=16)
PAIRS = tuple((1 + np.arange(8) / 4).tolist())


def golden_config(keys) -> ModelConfig:
    positions = keys["max_position_embeddings"]
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    options = LlamaHfOptions.model_validate(dict.fromkeys(sizes, 1) | keys)
    theta, scaling = hf_rope(Path("config.json"), keys, options)
    return replace(TINY, head_dim=32, max_position_embeddings=positions, rope_theta=theta, rope_scaling=scaling)


@pytest.mark.parametrize("name", GOLDENS)
def test_frequencies_are_those_of_transformers(name):
    """transformers never takes long factors where nothing says how long the trained context was."""
    config = golden_config(GOLDENS[name]["config"])
    for length, (frequencies, factor) in GOLDENS[name]["by_length"].items():
        np.testing.assert_allclose(inverse_frequencies(config, int(length)), frequencies, rtol=3e-6)
        assert attention_factor(config) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(
    "scaling",
    [
        RopeScaling("yarn", 8.0, original_max_position_embeddings=64, divisors=PAIRS),
        RopeScaling("yarn", 8.0, original_max_position_embeddings=100, beta_fast=3.0, beta_slow=0.4, truncate=False),
        RopeScaling("yarn", 2.0, original_max_position_embeddings=100, beta_fast=3.0, beta_slow=3.0, truncate=False),
        RopeScaling("longrope", 8.0, original_max_position_embeddings=64, short_factor=PAIRS, long_factor=PAIRS[::-1]),
        RopeScaling("linear", 2.0, divisors=PAIRS, attention_factor=1.5),
        RopeScaling("dynamic", 2.0, original_max_position_embeddings=512),
        RopeScaling("llama3", 8.0, 1.0, 4.0, 64, divisors=PAIRS),
    ],
    ids=lambda scaling: scaling.type,
)
@pytest.mark.parametrize("longest", [64, 65])
def test_tables_are_those_of_the_reference(scaling, longest):
    config = replace(TINY, rope_scaling=scaling)
    angles = np.outer(np.arange(longest), reference.rope_frequencies(config, longest))
    factor = reference.rope_attention_factor(config)
    for table, expected in zip(rope_table(config, longest), (np.cos(angles) * factor, np.sin(angles) * factor)):
        assert table.dtype == np.float32
        np.testing.assert_allclose(table, np.tile(expected, 2), rtol=0, atol=2e-7)


def test_longrope_is_decided_by_the_longest_sequence():
    scaling = RopeScaling(
        "longrope", 8.0, original_max_position_embeddings=64, short_factor=PAIRS, long_factor=(2,) * 8
    )
    config = replace(TINY, rope_scaling=scaling)
    assert config.for_length(64).rope_scaling.long_factor == PAIRS
    assert config.for_length(65).rope_scaling.short_factor == (2,) * 8
    assert config.for_length(64) != config.for_length(65)  # pages of the two cannot be exchanged
    assert TINY.for_length(64) == TINY


def test_frequencies_beyond_what_a_number_holds_are_refused():
    with pytest.raises(ConfigError, match="give angles that are no numbers"):
        rope_table(replace(TINY, head_dim=64, rope_theta=5e-324), 16)
    with pytest.raises(ConfigError, match="give angles that are no numbers"):
        rope_table(replace(TINY, rope_scaling=RopeScaling(divisors=(1e-308,) * 8)), 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": RopeScaling(divisors=(1.0,))}, "divisors has 1 numbers; a head of 16 needs 8"),
        ({"rope_scaling": RopeScaling("longrope", long_factor=PAIRS)}, "short_factor has 0 numbers"),
        ({"rope_scaling": RopeScaling("ntk", 2.0), "head_dim": 2}, "head_dim is 2; rope_scaling.type ntk needs"),
        (
            {"rope_scaling": RopeScaling("dynamic", 2.0, original_max_position_embeddings=511)},
            "max_position_embeddings is 512; rope_scaling.type dynamic allows up to .* 511",
        ),
        ({"rope_theta": float("nan")}, "rope_theta is nan"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **changes)


@pytest.mark.parametrize("changes", [{"divisors": (1.0, -1.0)}, {"factor": float("nan")}, {"beta_fast": 0.0}])
def test_numbers_that_cannot_be_are_refused(changes):
    with pytest.raises(ConfigError, match=f"rope_scaling.{next(iter(changes))}.* is "):
        RopeScaling(**changes)


def test_lists_go_through_yaml_and_json():
    scaling = RopeScaling("longrope", 2.0, short_factor=PAIRS, long_factor=PAIRS, divisors=PAIRS)
    config = replace(TINY, rope_scaling=scaling)
    keys = {"type": "longrope", "factor": 2}
    keys |= {key: [*PAIRS] for key in ("short_factor", "long_factor", "divisors")}
    read = config_from_dict({"model": {"name": "tiny", "config": {"head_dim": 16, "rope_scaling": keys}}})
    assert read.model.dimensions() == config
    assert hash(read.model.dimensions()) == hash(config)
    assert TypeAdapter(ModelConfig).validate_python(json.loads(json.dumps(asdict(config)))) == config
    with pytest.raises(ConfigError, match="divisors"):
        config_from_dict({"model": {"name": "tiny", "config": {"rope_scaling": {"divisors": ["a"]}}}})
