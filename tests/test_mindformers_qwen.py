"""MindFormers predict files of Qwen, whose classes there have Hugging Face's names."""

import dataclasses
from pathlib import Path

import pytest

from mindspore_paged.config import load_config
from mindspore_paged.model_config import RopeScaling
from mindspore_paged.models.registry import MODEL_CONFIGS
from mindspore_paged.sampling.sampling_params import SamplingParams
from tests.mindformers_files import refusal_of, warning_of, write
from tests.mindformers_samples import QWEN2_5_7B, QWEN_FOLDER_FILE

ROOT = Path(__file__).parent.parent

QWEN3_4B = """
    vocab_size: 151936
    hidden_size: 2560
    intermediate_size: 9728
    num_hidden_layers: 36
    num_attention_heads: 32
    num_key_value_heads: 8
    max_position_embeddings: 40960
    rms_norm_eps: 1.0e-6
    rope_theta: 1000000
    tie_word_embeddings: True
    bos_token_id: 151643
    eos_token_id: [151645, 151643]
"""
QWEN2_0_5B = """
    vocab_size: 151936
    hidden_size: 896
    intermediate_size: 4864
    num_hidden_layers: 24
    num_attention_heads: 14
    num_key_value_heads: 2
    rms_norm_eps: 1.0e-6
    rope_theta: 1000000.0
    tie_word_embeddings: True
    add_qkv_bias: True
    bos_token_id: 151643
    eos_token_id: [151645, 151643]
"""


def write_qwen(folder: Path, kind: str, keys: str = "") -> Path:
    """A file of the class `kind`: Qwen3, say."""
    path = write(folder, keys)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("LlamaConfig", f"{kind}Config").replace("LlamaForCausalLM", f"{kind}ForCausalLM"))
    return path


def write_with_folder(folder: Path, kind: str = "", keys: str = "") -> Path:
    """A file that leaves the model to a Hugging Face folder, and tells `keys` of it."""
    path = folder / "predict.yaml"
    text = QWEN_FOLDER_FILE.format(folder=folder / "hf", type=f"type: {kind}\n    " if kind else "")
    path.write_text(text + keys, encoding="utf-8")
    return path


def test_the_example_of_qwen():
    config = load_config(ROOT / "configs" / "mindformers_predict_qwen2_5_7b.yaml")
    assert config.model.dimensions() == dataclasses.replace(MODEL_CONFIGS["qwen2.5-7b"], architecture="llama")
    expected = SamplingParams(max_tokens=512, temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.05)
    assert config.sampling == expected


def test_qwen2_5_that_ran_as_a_llama_is_one_here(tmp_path):
    config = load_config(write(tmp_path, QWEN2_5_7B))
    expected = MODEL_CONFIGS["qwen2.5-7b"]
    assert config.model.dimensions() == dataclasses.replace(expected, architecture="llama")


@pytest.mark.parametrize(
    ("kind", "text", "name"), [("Qwen3", QWEN3_4B, "qwen3-4b"), ("Qwen2", QWEN2_0_5B, "qwen2.5-0.5b")]
)
def test_published_qwens(tmp_path, caplog, kind, text, name):
    config = load_config(write_qwen(tmp_path, kind, text))
    assert config.model.dimensions() == MODEL_CONFIGS[name]
    assert (config.cache.block_size, config.cache.num_blocks, config.scheduler.max_model_len) == (32, 1024, 4096)
    assert (config.sampling.temperature, config.scheduler.max_num_seqs) == (0.0, 8)
    assert "compute_dtype is bfloat16, run as float32 on a CPU" in warning_of(caplog)
    for key in text.split():
        assert f"model_config.{key.strip(':')}" not in warning_of(caplog)


@pytest.mark.parametrize("kind", ["", "Qwen2Config"])
def test_a_hugging_face_folder_says_what_the_file_does_not(tmp_path, kind):
    config = load_config(write_with_folder(tmp_path, kind, "    rope_theta: 5000000.0\n    block_size: 64\n"))
    assert config.model.weights == tmp_path / "hf"
    described = MODEL_CONFIGS["qwen3-8b"]
    assert config.model.dimensions(described) == dataclasses.replace(described, rope_theta=5e6)
    assert (config.cache.block_size, config.cache.num_blocks) == (64, 1024)


def test_a_folder_says_how_tokens_are_sampled_and_the_file_says_more(tmp_path):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [151645, 151643]}'
    )
    path = write_with_folder(tmp_path, keys="generation_config: {temperature: 0.5, max_new_tokens: 9}\n")
    expected = SamplingParams(max_tokens=9, temperature=0.5, top_k=20, top_p=0.95)
    assert load_config(path).sampling == expected


def test_yarn_of_qwen(tmp_path):
    scaling = "{type: yarn, factor: 4.0, original_max_position_embeddings: 32768}"
    config = load_config(write_qwen(tmp_path, "Qwen3", f"{QWEN3_4B}    rope_scaling: {scaling}\n"))
    expected = RopeScaling("yarn", 4.0, original_max_position_embeddings=32768)
    assert config.model.dimensions() == dataclasses.replace(MODEL_CONFIGS["qwen3-4b"], rope_scaling=expected)


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        (
            "Qwen3",
            "rope_scaling: {type: dynamic, factor: 2.0}",
            "rope_scaling is {'factor': 2.0, 'rope_type': ",
        ),
        ("Qwen3", "rope_scaling: {rope_type: yarn, factor: 2.0}", "rope_scaling is "),
        ("Qwen3", "position_embedding_type: none", "position_embedding_type is 'none'; "),
        ("Qwen3", "normalization: LayerNorm", "normalization is 'LayerNorm'; a MindFormers file can be used where it"),
        ("Qwen3", "hidden_act: gelu", "hidden_act is 'gelu'; "),
        ("Qwen3", "num_hidden_layers: 0", "num_hidden_layers is 0; it must be greater than 0"),
        ("Qwen3", "quantization_config: {quant_method: rtn}", "quantization_config is "),
        ("Qwen2", "add_qkv_bias: False", "add_qkv_bias is False; a MindFormers file can be used where it is True"),
        ("Qwen2", "hidden_size: 897", "hidden_size is 897; it must be a multiple of num_attention_heads (32)"),
    ],
)
def test_what_qwens_classes_cannot_mean_here(tmp_path, kind, keys, message):
    assert refusal_of(write_qwen(tmp_path, kind, f"    {keys}\n")).startswith(f"model.model_config.{message}")


def test_without_type_or_folder_a_model_type_is_needed(tmp_path):
    path = write_with_folder(tmp_path)
    text = path.read_text(encoding="utf-8").replace("pretrained_model_dir", "no_folder")
    path.write_text(text + "    model_type: glm4\n", encoding="utf-8")
    assert refusal_of(path) == (
        "model.model_config.model_type is 'glm4'; a MindFormers file can be used where it is qwen2, qwen3"
    )
    path.write_text(text + "    model_type: qwen3\n" + QWEN3_4B, encoding="utf-8")
    assert load_config(path).model.dimensions() == MODEL_CONFIGS["qwen3-4b"]


def test_the_tokenizer_of_qwens_vocabulary_is_in_its_folder(tmp_path):
    assert load_config(write(tmp_path, vocab_file="/t/vocab.json")).model.tokenizer == Path("/t")
