"""The models known by name are those that were published: by their weights, and by their config.json."""

import json

import pytest

from mindspore_paged.errors import ConfigError
from mindspore_paged.models.registry import MODEL_CONFIGS, SPECS, model_config_by_name, num_parameters
from mindspore_paged.weights.hf_config import hf_model_config

PARAMETERS = {
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3.1-8b": 8_030_261_248,
    "llama3.1-70b": 70_553_706_496,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "llama3.3-70b": 70_553_706_496,
    "smollm2-135m": 134_515_008,
    "mistral-7b": 7_248_023_552,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-nemo-12b": 12_247_782_400,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
}
"""Numbers in the published files; of models that tie their head to the embedding, without it."""

NOT_EMBEDDED = {  # billions beside embedding and head, as the model cards say
    "qwen2.5-0.5b": 0.36,
    "qwen2.5-1.5b": 1.31,
    "qwen2.5-3b": 2.77,
    "qwen2.5-7b": 6.53,
    "qwen2.5-14b": 13.1,
    "qwen2.5-72b": 70.0,
    "qwen3-0.6b": 0.44,
    "qwen3-1.7b": 1.4,
    "qwen3-4b": 3.6,
    "qwen3-8b": 6.95,
    "qwen3-14b": 13.2,
    "qwen3-32b": 31.2,
}

LLAMA = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "rms_norm_eps": 1e-5}
LLAMA |= {"vocab_size": 128256, "bos_token_id": 128000, "rope_theta": 500000.0, "max_position_embeddings": 131072}
LLAMA_ENDS = [128001, 128008, 128009]


def llama3_scaling(factor: float) -> dict:
    low_and_high = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    return {"rope_scaling": {"factor": factor, "rope_type": "llama3"} | low_and_high}


QWEN2 = {"model_type": "qwen2", "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1000000.0}
QWEN2 |= {"bos_token_id": 151643, "max_position_embeddings": 32768, "use_sliding_window": False}
QWEN2 |= {"sliding_window": 32768, "max_window_layers": 21}
QWEN3 = {"model_type": "qwen3", "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1000000, "head_dim": 128}
QWEN3 |= {"bos_token_id": 151643, "max_position_embeddings": 40960, "use_sliding_window": False, "vocab_size": 151936}
QWEN3 |= {"sliding_window": None, "rope_scaling": None, "attention_bias": False}
MISTRAL = {"model_type": "mistral", "hidden_act": "silu", "rms_norm_eps": 1e-5, "bos_token_id": 1}
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}


def sizes(hidden: int, width: int, layers: int, heads: int, kv_heads: int) -> dict:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    return dict(zip(names, (hidden, width, layers, heads, kv_heads), strict=True))


PUBLISHED = {
    "llama3.1-8b": (LLAMA | sizes(4096, 14336, 32, 32, 8) | llama3_scaling(8.0) | UNTIED, LLAMA_ENDS),
    "llama3.2-1b": (LLAMA | sizes(2048, 8192, 16, 32, 8) | llama3_scaling(32.0) | TIED, LLAMA_ENDS),
    "llama3.3-70b": (LLAMA | sizes(8192, 28672, 80, 64, 8) | llama3_scaling(8.0) | UNTIED, LLAMA_ENDS),
    "qwen2.5-0.5b": (QWEN2 | sizes(896, 4864, 24, 14, 2) | {"vocab_size": 151936} | TIED, [151645, 151643]),
    "qwen2.5-14b": (QWEN2 | sizes(5120, 13824, 48, 40, 8) | {"vocab_size": 152064} | UNTIED, [151645, 151643]),
    "qwen3-4b": (QWEN3 | sizes(2560, 9728, 36, 32, 8) | TIED, [151645, 151643]),
    "qwen3-32b": (QWEN3 | sizes(5120, 25600, 64, 64, 8) | UNTIED, [151645, 151643]),
    "mistral-7b": (
        MISTRAL
        | sizes(4096, 14336, 32, 32, 8)
        | {"vocab_size": 32768, "max_position_embeddings": 32768, "rope_theta": 1000000.0, "sliding_window": None},
        2,
    ),
    "mistral-7b-v0.1": (
        MISTRAL
        | sizes(4096, 14336, 32, 32, 8)
        | {"vocab_size": 32000, "max_position_embeddings": 32768, "rope_theta": 10000.0, "sliding_window": 4096},
        2,
    ),
    "mistral-nemo-12b": (
        MISTRAL
        | sizes(5120, 14336, 40, 32, 8)
        | {"vocab_size": 131072, "max_position_embeddings": 131072, "rope_theta": 1000000.0, "head_dim": 128}
        | {"sliding_window": None},
        2,
    ),
}
"""What config.json and generation_config.json of these models say."""


@pytest.mark.parametrize("name", sorted(set(MODEL_CONFIGS) - {"tiny"}))
def test_parameters(name):
    assert num_parameters(MODEL_CONFIGS[name]) == PARAMETERS[name]


@pytest.mark.parametrize("name", NOT_EMBEDDED)
def test_parameters_beside_the_embedding(name):
    config = MODEL_CONFIGS[name]
    tables = (1 if config.tie_word_embeddings else 2) * config.vocab_size * config.hidden_size
    assert (num_parameters(config) - tables) / 1e9 == pytest.approx(NOT_EMBEDDED[name], rel=0.01)


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_stand_for_what_config_json_says(tmp_path, name):
    config, ends = PUBLISHED[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    assert hf_model_config(tmp_path) == MODEL_CONFIGS[name]


def test_every_name_is_of_a_family():
    assert {config.architecture for config in MODEL_CONFIGS.values()} <= set(SPECS)


def test_an_unknown_name_is_answered_with_those_that_are_known():
    with pytest.raises(ConfigError, match=r"^model.name is 'llama4'; known models: llama2-7b, .*qwen3-32b$"):
        model_config_by_name("llama4")
