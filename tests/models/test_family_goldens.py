"""Every family answers as in transformers (goldens/families.json), from its folder and from its GGUF file."""

import numpy as np
import pytest

from mindspore_paged import LLM
from mindspore_paged.config import config_from_dict
from mindspore_paged.engine.building.exporting import export_model
from mindspore_paged.weights.checkpoint import open_checkpoint
from tests.e2e.models import make_llm
from tests.models.families import (
    FAMILIES,
    answer_of,
    check_equal,
    check_near,
    sections_of,
    write_folder,
    write_gguf,
)

IN_GGUF = [name for name in FAMILIES if FAMILIES[name].get("gguf", ()) is not None]
FULL, SLIDING = "full_attention", "sliding_attention"
GEMMA = {"architecture": "gemma3", "hidden_act": "gelu_pytorch_tanh", "qk_norm": True, "output_norms": True}
GEMMA |= {"sliding_window": 16, "embedding_scale": 8.0, "rope_theta": 1e6, "tie_word_embeddings": True}
DESCRIBED = {
    "llama, as DeepSeek-R1-Distill-Llama": {"sliding_window": None, "rope_theta": 500000.0, "head_dim": 16},
    "mistral, as Nemo": {"head_dim": 32, "sliding_window": None},
    "mistral, as v0.1": {"sliding_window": 16, "layer_types": ()},
    "qwen2, sliding window": {"sliding_window": 16, "layer_types": (FULL, FULL, SLIDING, SLIDING)},
    "qwen2, as DeepSeek-R1-Distill-Qwen": {"sliding_window": None, "biases": ("q_proj", "k_proj", "v_proj")},
    "qwen3, tied": {"qk_norm": True, "head_dim": 32, "tie_word_embeddings": True, "biases": ()},
    "phi3, window": {"sliding_window": 16, "rotary_dim": None},
    "phi3, as Phi-4-mini": {"rotary_dim": 12},
    "granite": {"attention_scale": 0.15, "embedding_scale": 3.0, "residual_scale": 0.4, "logit_scale": 2.0},
    "smollm3": {"layers_without_rope": (3,), "sliding_window": None, "num_hidden_layers": 5},
    "gemma3_text, as 1b": GEMMA | {"local_rope_theta": 10000.0, "layer_types": (*[SLIDING] * 5, FULL, SLIDING)},
    "gemma3_text, as 4b": GEMMA | {"local_rope_theta": 100.0, "score_scale": 0.25},
    "gemma3_text, as 27b": GEMMA | {"attention_scale": 40**-0.5, "layer_types": (SLIDING, FULL, SLIDING)},
}
"""What the models are, by the names of ModelConfig."""
NOT_IN_GGUF = {
    "mistral, as v0.1": {"sliding_window": None},
    "qwen2, sliding window": {"sliding_window": None, "layer_types": ()},
}


@pytest.mark.parametrize("name", DESCRIBED)
def test_descriptions(tmp_path, name):
    """Of the sizes all tests depend; here is what a short prompt may not show, such as a window longer than it."""
    read = {"folder": open_checkpoint(write_folder(tmp_path, name)).model_config}
    if name in IN_GGUF:
        read["gguf"] = open_checkpoint(write_gguf(tmp_path / "model.gguf", name)).model_config
    for kind, config in read.items():
        for field, value in (DESCRIBED[name] | (NOT_IN_GGUF.get(name, {}) if kind == "gguf" else {})).items():
            expected = pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
            assert getattr(config, field) == expected, (kind, field)


def run(weights, **sections):
    """Tokens and logits of an engine over the model at `weights`."""
    with make_llm(**sections_of(weights, **sections)) as llm:
        return answer_of(llm)


@pytest.mark.parametrize("name", FAMILIES)
def test_folders_answer_as_in_transformers(tmp_path, name):
    check_equal(FAMILIES[name], *run(write_folder(tmp_path, name)))


@pytest.mark.parametrize("name", IN_GGUF)
def test_gguf_files_hold_the_weights_of_the_folders(tmp_path, name):
    folder, file = open_checkpoint(write_folder(tmp_path, name)), open_checkpoint(write_gguf(tmp_path / "x.gguf", name))
    assert sorted(file.names()) == sorted(folder.names())
    for weight in folder.names():
        np.testing.assert_array_equal(file.read(weight), folder.read(weight), weight)


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_GGUF)
def test_gguf_files_answer_as_in_transformers(tmp_path, name):
    """Where a file says less than config.json, as llama.cpp answers."""
    check_equal(FAMILIES[name].get("gguf", FAMILIES[name]), *run(write_gguf(tmp_path / "model.gguf", name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_operator_by_operator(tmp_path, name):
    check_equal(FAMILIES[name], *run(write_folder(tmp_path, name), runtime={"fused_ops": False}))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_on_the_emulated_chip(tmp_path, name):
    sections = {"cache": {"kv_cache_dtype": "float16"}, "runtime": {"ops_backend": "ascend_emulator"}}
    check_near(FAMILIES[name], *run(write_folder(tmp_path, name), **sections), tolerance=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_over_pages_of_int8(tmp_path, name):
    check_near(FAMILIES[name], *run(write_folder(tmp_path, name), cache={"kv_cache_dtype": "int8"}), tolerance=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_exported_models(tmp_path, name):
    sections = sections_of(write_folder(tmp_path / "folder", name))
    config = config_from_dict({"model": {"weights": sections.pop("weights")}, **sections})
    exported = export_model(config, tmp_path / "exported", show_progress=False)
    with LLM.from_mindir(exported, show_progress=False) as llm:
        check_equal(FAMILIES[name], *answer_of(llm))
