"""PEFT's folders: read into what adapters add, or refused in one line that names the file."""

import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from mindspore_paged.errors import CheckpointError
from mindspore_paged.model_config import sized
from mindspore_paged.weights.lora_adapter import read_lora_adapter

MODEL = sized(64, 96, 2, 4, 2, vocab_size=50, max_position_embeddings=64)
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
Q = "base_model.model.model.layers.0.self_attn.q_proj"


def write(folder: Path, tensors, **config) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def pair(module=Q, rank=4, inputs=64, outputs=64, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"{module}.lora_A.weight": rng.normal(size=(rank, inputs)).astype(dtype),
        f"{module}.lora_B.weight": rng.normal(size=(outputs, rank)).astype(dtype),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_what_is_read(tmp_path, dtype):
    """float32, B times alpha / r; names with and without the words that PEFT puts before them."""
    down = "model.layers.1.mlp.down_proj"
    tensors = pair(dtype=dtype) | pair(down, 2, 96, 64, dtype, seed=1)
    adapter = read_lora_adapter(write(tmp_path, tensors), MODEL)
    assert sorted(adapter.products) == [(0, "q"), (1, "down")]
    assert adapter.rank == 4
    for key, module, rank in (((0, "q"), Q, 4), ((1, "down"), down, 2)):
        a, b = (tensors[f"{module}.lora_{which}.weight"].astype(np.float32) for which in "AB")
        product = adapter.products[key]
        np.testing.assert_array_equal(product.down, a)
        np.testing.assert_array_equal(product.up, b * np.float32(8 / rank))
        assert product.down.dtype == product.up.dtype == np.float32


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 8 / 4),
        ({"use_rslora": True}, 8 / math.sqrt(4)),
        ({"alpha_pattern": {"q_proj": 3}}, 3 / 4),
        ({"alpha_pattern": {"k_proj": 3}}, 8 / 4),
        ({"alpha_pattern": {"layers.0.self_attn.q_proj": 6, "q_proj": 3}}, 6 / 4),
        ({"alpha_pattern": {r"layers\.[01]\..*": 5}}, 5 / 4),
        ({"alpha_pattern": {"_proj": 3}}, 8 / 4),
    ],
)
def test_scales(tmp_path, config, scale):
    """PEFT's: a key of alpha_pattern is a regular expression of what a module's name ends with, at a dot."""
    tensors = pair()
    adapter = read_lora_adapter(write(tmp_path, tensors, **config), MODEL)
    expected = tensors[f"{Q}.lora_B.weight"] * np.float32(scale)
    np.testing.assert_array_equal(adapter.products[0, "q"].up, expected)


def test_digests_tell_adapters_apart(tmp_path):
    others = [{}, {"lora_alpha": 9}]
    digests = [read_lora_adapter(write(tmp_path / str(number), pair(), **other), MODEL).digest()
               for number, other in enumerate(others)]  # fmt: skip
    digests.append(read_lora_adapter(write(tmp_path / "seed", pair(seed=1)), MODEL).digest())
    digests.append(read_lora_adapter(write(tmp_path / "k", pair(Q.replace("q_proj", "o_proj"))), MODEL).digest())
    assert len(set(digests)) == 4
    assert read_lora_adapter(tmp_path / "0", MODEL).digest() == digests[0]


REFUSED_CONFIGS = {
    "another kind": ({"peft_type": "IA3"}, "peft_type is 'IA3'; it must be LORA"),
    "DoRA": ({"use_dora": True}, "use_dora is True, which is not computed here; it must be False"),
    "biases": ({"bias": "all"}, "bias is 'all', which is not computed here; it must be none"),
    "transposed": ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
    "rank of nothing": ({"r": 0}, "r is 0"),
    "a pattern for ever": ({"alpha_pattern": {"(a+)+b": 1}}, "without groups, and at most three of * + ? {"),
    "a pattern of many": ({"alpha_pattern": {".*.*.*.*b": 1}}, "without groups, and at most three of * + ? {"),
    "no pattern": ({"alpha_pattern": {"[a": 1}}, "a regular expression, unterminated character set"),
    "no number": ({"lora_alpha": "much"}, "lora_alpha is 'much'"),
}


@pytest.mark.parametrize(("config", "message"), REFUSED_CONFIGS.values(), ids=REFUSED_CONFIGS)
def test_configurations_that_are_refused(tmp_path, config, message):
    with pytest.raises(CheckpointError) as refusal:
        read_lora_adapter(write(tmp_path, pair(), **config), MODEL)
    assert str(refusal.value).startswith(f"{tmp_path / 'adapter_config.json'}: ")
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def without(tensors, which):
    return {name: value for name, value in tensors.items() if which not in name}


REFUSED_TENSORS = {
    "nothing": ({}, "holds no adapter"),
    "A alone": (without(pair(), "lora_B"), "has lora_A alone"),
    "B alone": (without(pair(), "lora_A"), "has lora_B alone"),
    "the embedding": (
        {"base_model.model.model.embed_tokens.lora_embedding_A": np.zeros((4, 50), np.float32)},
        "is of no projection of a layer",
    ),
    "the head": (pair("base_model.model.lm_head", outputs=50), "is of no projection of a layer"),
    "whole weights": ({f"{Q}.weight": np.zeros((64, 64), np.float32)}, "is of no projection of a layer"),
    "DoRA's": (pair() | {f"{Q}.lora_magnitude_vector": np.zeros(64, np.float32)}, "is of no projection of a layer"),
    "a layer beyond": (pair(Q.replace("layers.0", "layers.2")), "is no projection of a layer of this model"),
    "an unknown projection": (pair(Q.replace("q_proj", "qkv_proj")), "is no projection of a layer of this model"),
    "a norm": (pair(Q.replace("q_proj", "q_norm")), "is no projection of a layer of this model"),
    "other inputs": (pair(inputs=63), "takes 63 numbers and gives 64, this model's takes 64 and gives 64"),
    "other outputs": (pair(outputs=65), "takes 64 numbers and gives 65, this model's takes 64 and gives 64"),
    "two ranks": (
        without(pair(), "lora_B") | without(pair(rank=5), "lora_A"),
        "has A [4, 64] and B [64, 5]; they must be [rank, inputs] and [outputs, rank]",
    ),
    "no rank": (pair(rank=0), "has A [0, 64] and B [64, 0]"),
    "a large rank": (pair(rank=513), "the rank from 1 to 512"),
    "one dimension": (
        {f"{Q}.lora_A.weight": np.zeros(64, np.float32), f"{Q}.lora_B.weight": np.zeros((64, 4), np.float32)},
        "has A [64] and B [64, 4]",
    ),
    "whole numbers": (pair(dtype=np.int8), "it must be of floats"),
}


@pytest.mark.parametrize(("tensors", "message"), REFUSED_TENSORS.values(), ids=REFUSED_TENSORS)
def test_tensors_that_are_refused(tmp_path, tensors, message):
    with pytest.raises(CheckpointError) as refusal:
        read_lora_adapter(write(tmp_path, tensors), MODEL)
    assert str(refusal.value).startswith(f"{tmp_path / 'adapter_model.safetensors'}: ")
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_files_that_are_missing(tmp_path):
    with pytest.raises(CheckpointError, match="adapter_config.json: no such file"):
        read_lora_adapter(tmp_path, MODEL)
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(CheckpointError, match="adapter_model.safetensors: no such file"):
        read_lora_adapter(tmp_path, MODEL)
    (tmp_path / "adapter_model.bin").write_bytes(b"pickled")
    with pytest.raises(CheckpointError, match="may hold code"):
        read_lora_adapter(tmp_path, MODEL)
