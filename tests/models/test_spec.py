"""Families as data: what the rows of the registry must have in common, whatever the family."""

from dataclasses import replace

import pytest

from mindspore_paged.custom_ops.layer_roles import LAYER_ROLES, OPTIONAL_ROLES
from mindspore_paged.errors import ConfigError
from mindspore_paged.models.registry import (
    GGUF_TYPES,
    HF_TYPES,
    MODEL_CONFIGS,
    SPECS,
    num_parameters,
    spec_of,
    weight_shapes,
)

TINY = MODEL_CONFIGS["tiny"]
SHOWN = ("vocab", "hidden", "query", "keys", "width", "head")


@pytest.fixture(params=SPECS.values(), ids=SPECS)
def spec(request):
    return request.param


def test_every_weight_has_a_role_that_the_operators_know_and_a_name_of_its_own(spec):
    roles = [weight.role for weight in spec.layer]
    assert set(roles) <= set(LAYER_ROLES)
    assert set(LAYER_ROLES) - set(roles) <= set(OPTIONAL_ROLES)
    weights = (*spec.weights, *spec.layer)
    for names in ([each.role for each in weights], [each.name for each in weights], [each.gguf for each in weights]):
        assert len(set(names)) == len(names)
    assert {size for weight in weights for size in weight.shape} <= set(SHOWN)


def test_names_come_back_from_every_kind_of_file(spec):
    for weight in spec.layer:
        name = f"model.layers.7.{weight.name}"
        assert spec.find(name) is weight
        if not any(part.gguf == weight.gguf for part in spec.concatenations):  # Phi 3 calls gate and up ffn_up
            assert spec.from_gguf(f"blk.7.{weight.gguf}") == name
        for other in weight.mindformers:
            assert spec.from_mindformers(f"model.layers.7.{other}") == name
    assert spec.find("model.layers.7.self_attn.z_proj.weight") is None
    assert spec.from_gguf("blk.7.attn_z.weight") == "blk.7.attn_z.weight"


def test_concatenations_are_of_rows_of_equal_length(spec):
    for each in spec.concatenations:
        parts = spec.parts(TINY, f"model.layers.3.{each.name}")
        assert spec.gguf_parts(TINY, f"blk.3.{each.gguf}") == parts
        weights = [spec.find(name) for name in parts]
        assert [weight.role for weight in weights] == list(each.roles)
        assert len({weight.shape[1:] for weight in weights}) == 1
        rows = [row for part in parts.values() for row in part]
        assert rows == list(range(sum(weight.sizes(TINY)[0] for weight in weights)))
    assert spec.parts(TINY, "model.layers.3.mlp.down_proj.weight") == {}


def test_each_file_type_is_one_family():
    assert sum(len(spec.hf_types) for spec in SPECS.values()) == len(HF_TYPES)
    assert sum(len(spec.gguf_types) for spec in SPECS.values()) == len(GGUF_TYPES)


def test_shapes_and_their_number():
    """Counted by hand: 2 layers of 64 numbers, 4 heads and 2 KV heads of 16, 128 wide, 256 tokens."""
    projections = 64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 128 * 64
    assert num_parameters(TINY) == 256 * 64 + 64 + 2 * (projections + 2 * 64)
    qwen = replace(TINY, architecture="qwen3", qk_norm=True, biases=("q_proj", "o_proj"), tie_word_embeddings=False)
    assert num_parameters(qwen) == num_parameters(TINY) + 256 * 64 + 2 * (2 * 16 + 64 + 64)
    assert weight_shapes(qwen)["model.layers.1.self_attn.k_norm.weight"] == (16,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "gpt2"}, "architecture is 'gpt2'; allowed: llama, mistral, .*gemma3"),
        ({"output_norms": True}, "output_norms is True; for architecture llama it must be False"),
        ({"architecture": "gemma3"}, "output_norms is False; for architecture gemma3 it must be True"),
    ],
)
def test_what_is_no_family_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        spec_of(replace(TINY, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; allowed: silu, gelu_pytorch_tanh"),
        ({"attention_scale": 0.0}, "attention_scale is 0.0; it must be positive"),
        ({"logit_scale": float("inf")}, "logit_scale is inf; it must be positive"),
        ({"rotary_dim": 18}, "rotary_dim is 18; it must be even, from 2 to head_dim, 16"),
        ({"rotary_dim": 7}, "rotary_dim is 7"),
        ({"sliding_window": 0}, "sliding_window is 0; it must be at least 1"),
        ({"layer_types": ("full_attention",)}, "layer_types has 1 entries for 2 layers"),
        ({"layer_types": ("full_attention", "chunked")}, "layer_types has 'chunked'; allowed: full_attention"),
        (
            {"layer_types": ("full_attention", "sliding_attention")},
            "layer_types has sliding_attention, but there is no",
        ),
        ({"layers_without_rope": (2,)}, "layers_without_rope has 2; allowed: 0 to 1"),
    ],
)
def test_options_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **changes)


def test_which_layers_slide_and_rotate():
    config = replace(
        TINY,
        num_hidden_layers=3,
        sliding_window=8,
        layer_types=("sliding_attention", "full_attention", "sliding_attention"),
        local_rope_theta=100.0,
        layers_without_rope=(2,),
    )
    assert [config.window_of(layer) for layer in range(3)] == [8, 0, 8]
    assert [config.rope_table_of(layer) for layer in range(3)] == [1, 0, -1]
    assert [replace(TINY, sliding_window=8).window_of(layer) for layer in range(2)] == [8, 8]
