"""The reference is judged by properties that hold for any LLaMA, and by small cases worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mindspore_paged.model_config import ModelConfig, RopeScaling
from mindspore_paged.models.registry import MODEL_CONFIGS, num_parameters
from tests.reference import llama

CONFIG = ModelConfig(
    vocab_size=97,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=4096,
)
SCALINGS = [
    RopeScaling(),
    RopeScaling("linear", 4.0),
    RopeScaling("ntk", 4.0),
    RopeScaling("llama3", 8.0, 1.0, 4.0, original_max_position_embeddings=64),
]
TOKENS = np.random.default_rng(1).integers(0, 97, 20)


@pytest.mark.parametrize("tied", [False, True])
def test_random_logits_are_neither_flat_nor_huge(tied):
    config = replace(CONFIG, tie_word_embeddings=tied)
    logits = llama.logits(config, llama.random_weights(config, 0), TOKENS)
    assert 1 < logits.std() < 5
    assert len(set(logits.argmax(axis=1))) > 5


def test_a_token_sees_those_before_it_and_none_after():
    weights = llama.random_weights(CONFIG, 0)
    whole = llama.logits(CONFIG, weights, TOKENS)
    changed = TOKENS.copy()
    changed[10] = (changed[10] + 1) % 97
    other = llama.logits(CONFIG, weights, changed)
    assert np.allclose(whole[:10], other[:10], atol=1e-12)
    assert np.all(np.abs(whole[10:] - other[10:]).max(axis=1) > 1e-3)
    assert np.allclose(llama.logits(CONFIG, weights, TOKENS[:7]), whole[:7], atol=1e-12)


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: scaling.type)
def test_scores_depend_on_the_distance_only(scaling):
    config = replace(CONFIG, rope_scaling=scaling)
    query, key = np.random.default_rng(0).standard_normal((2, 1, 1, 16))

    def score(query_position, key_position):
        turned_query = llama.rotate(config, query, np.array([query_position]))
        return float((turned_query * llama.rotate(config, key, np.array([key_position]))).sum())

    assert score(5, 2) == pytest.approx(score(1005, 1002), abs=1e-9)
    assert score(0, 0) == pytest.approx(float((query * key).sum()))
    assert abs(score(5, 2) - score(5, 3)) > 1e-3


def test_rotation_turns_pairs_half_a_head_apart():
    config = replace(CONFIG, head_dim=4, rope_theta=100.0)
    turned = llama.rotate(config, np.array([[[1.0, 2.0, 3.0, 4.0]]]), np.array([3]))[0, 0]
    fast, slow = 3.0, 3.0 / 10
    assert turned == pytest.approx(
        [
            1 * math.cos(fast) - 3 * math.sin(fast),
            2 * math.cos(slow) - 4 * math.sin(slow),
            3 * math.cos(fast) + 1 * math.sin(fast),
            4 * math.cos(slow) + 2 * math.sin(slow),
        ]
    )


def test_frequencies_of_each_scaling():
    plain, linear, ntk, llama3 = (llama.rope_frequencies(replace(CONFIG, rope_scaling=scaling)) for scaling in SCALINGS)
    assert plain[0] == 1.0
    assert plain[-1] == pytest.approx(10000 ** (-14 / 16))
    assert linear == pytest.approx(plain / 4)
    # NTK leaves the fastest pair alone and slows the slowest by exactly the factor.
    assert (ntk[0], ntk[-1]) == (pytest.approx(plain[0]), pytest.approx(plain[-1] / 4))
    wavelengths = 2 * math.pi / plain
    assert llama3[wavelengths < 64 / 4] == pytest.approx(plain[wavelengths < 64 / 4])
    assert llama3[wavelengths > 64] == pytest.approx(plain[wavelengths > 64] / 8)
    between = (wavelengths > 64 / 4) & (wavelengths < 64)
    assert between.any()
    assert np.all((llama3 < plain)[between] & (llama3 > plain / 8)[between])


def test_shared_key_heads_equal_repeated_ones():
    weights = llama.random_weights(CONFIG, 0)
    repeated = dict(weights)
    for index in range(CONFIG.num_hidden_layers):
        for projection in ("k_proj", "v_proj"):
            name = f"model.layers.{index}.self_attn.{projection}.weight"
            repeated[name] = weights[name].reshape(2, 16, 48).repeat(3, axis=0).reshape(96, 48)
    every_head_its_own = replace(CONFIG, num_key_value_heads=6)
    assert np.allclose(
        llama.logits(CONFIG, weights, TOKENS), llama.logits(every_head_its_own, repeated, TOKENS), atol=1e-12
    )


def test_attention_to_equal_keys_is_the_mean_of_values_so_far():
    value = np.random.default_rng(0).standard_normal((5, 1, 4))
    context = llama.causal_attention(np.ones((5, 2, 4)), np.ones((5, 1, 4)), value)
    for token in range(5):
        assert context[token] == pytest.approx(np.tile(value[: token + 1, 0].mean(axis=0), (2, 1)))


def test_a_matrix_in_blocks_is_the_whole_matrix(monkeypatch):
    hidden, weight = np.random.default_rng(0).standard_normal((3, 8)), np.ones((10, 8)) * np.arange(10)[:, None]
    monkeypatch.setattr(llama, "BLOCK_ROWS", 4)
    assert np.allclose(llama.linear(hidden, weight), np.outer(hidden.sum(axis=1), np.arange(10)))


def test_a_bias_is_what_an_input_of_one_would_add():
    weights = {"p.weight": np.array([[2.0, 3.0], [5.0, 7.0]]), "p.bias": np.array([10.0, 20.0])}
    assert llama.projected(np.array([[1.0, 2.0]]), weights, "p").tolist() == [[18.0, 39.0]]
    config = replace(CONFIG, biases=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
    weights = llama.random_weights(config, 0)
    whole = llama.logits(config, weights, TOKENS)
    for name in [name for name in weights if name.startswith("model.layers.2") and name.endswith(".bias")]:
        other = llama.logits(config, weights | {name: weights[name] * 0}, TOKENS)
        # One bias for all keys changes no softmax by itself, but queries are turned against it.
        assert np.abs(other - whole).max() > 1e-3, name


def test_greedy_goes_on_with_its_own_tokens():
    weights = llama.random_weights(CONFIG, 0)
    chosen = llama.greedy(CONFIG, weights, [3, 4], 4)
    logits = llama.logits(CONFIG, weights, [3, 4, *chosen])
    assert chosen == logits[1:-1].argmax(axis=1).tolist()


def test_weights_are_as_many_as_the_configuration_counts():
    biased = replace(CONFIG, biases=("k_proj", "o_proj", "gate_proj"))
    for config in (CONFIG, MODEL_CONFIGS["tiny"], biased):
        assert sum(array.size for array in llama.random_weights(config, 0).values()) == num_parameters(config)
