"""Tiny models of every family as files: a Hugging Face folder, and the GGUF that llama.cpp's converter makes of it.

Names and keys of the GGUF are those of the gguf package, not of this project's tables.
"""

import json
import math
from pathlib import Path

import gguf
import numpy as np
import safetensors.numpy

from mindspore_paged import LLM, SamplingParams
from tests.goldens.make_family_goldens import NEW_TOKENS, PROMPT, make_weights

FAMILIES = json.loads((Path(__file__).parents[1] / "goldens" / "families.json").read_text(encoding="utf-8"))
"""By name: config.json, the tensors' shapes, tokens and logits; `gguf` where a GGUF file says less, or nothing."""
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "granite": gguf.MODEL_ARCH.GRANITE,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
}
INTERLEAVED = ("llama", "mistral", "granite", "smollm3")
"""Families whose queries and keys llama.cpp rotates as neighbours: their rows are in another order in its files."""

CACHE = {"num_blocks": 16, "block_size": 16}
SCHEDULER = {"max_num_seqs": 1, "max_num_batched_tokens": 16, "token_buckets": [1, 16], "max_model_len": 64}
"""The prompt takes three steps, and the windows of 16 tokens begin within pages."""


def write_folder(folder: Path, name: str) -> Path:
    """The family's model as transformers writes it."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(FAMILIES[name]["config"], indent=2))
    safetensors.numpy.save_file(weights_of(name), folder / "model.safetensors")
    return folder


def write_gguf(path: Path, name: str) -> Path:
    """The same model as a GGUF file, without a tokenizer."""
    config = FAMILIES[name]["config"]
    family, layers = config["model_type"], config["num_hidden_layers"]
    architecture = ARCHITECTURES[family]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    _add_dimensions(writer, config)
    tensors = _add_rope(writer, config)
    _add_options(writer, config)
    writer.add_tokenizer_model("no_vocab")
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    names = gguf.get_tensor_name_map(architecture, layers)
    for hf_name, values in weights_of(name).items():
        if family in INTERLEAVED and "q_proj" in hf_name:
            values = _interleaved(values, config["num_attention_heads"])
        if family in INTERLEAVED and "k_proj" in hf_name:
            values = _interleaved(values, config["num_key_value_heads"])
        if family == "gemma3_text" and hf_name.endswith("norm.weight"):
            values = values + 1
        tensors[names.get_name(hf_name, try_suffixes=(".weight", ".bias"))] = values
    for tensor, values in tensors.items():
        writer.add_tensor(tensor, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def weights_of(name: str) -> dict[str, np.ndarray]:
    """The model's weights, float32, as Hugging Face names and fuses them."""
    entry = FAMILIES[name]
    shapes = {}
    for pattern, shape in entry["shapes"].items():
        layers = range(entry["config"]["num_hidden_layers"]) if "*" in pattern else [0]
        shapes |= {pattern.replace("*", str(layer)): shape for layer in layers}
    return make_weights(shapes, entry["config"]["model_type"], entry["seed"])


def head_dim_of(config: dict) -> int:
    """Of queries and keys."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def _add_dimensions(writer: gguf.GGUFWriter, config: dict) -> None:
    writer.add_vocab_size(config["vocab_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if config["model_type"] in INTERLEAVED:
        writer.add_rope_dimension_count(head_dim_of(config))


def _add_rope(writer: gguf.GGUFWriter, config: dict) -> dict[str, np.ndarray]:
    """The keys of the rotation; returns the tensors that belong to it."""
    writer.add_rope_freq_base(config["rope_theta"])
    if config.get("rope_local_base_freq", 10000.0) != 10000.0:  # older converters never say so, newer ones always
        writer.add_rope_freq_base_swa(config["rope_local_base_freq"])
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(scaling["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    if kind == "llama3":
        return {f"{gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.ROPE_FREQS]}.weight": _llama3_divisors(config)}
    if config["model_type"] != "phi3":
        return {}
    original = config["original_max_position_embeddings"]
    writer.add_rope_dimension_count(int(config["partial_rotary_factor"] * head_dim_of(config)))
    writer.add_rope_scaling_orig_ctx_len(original)
    if kind is None:
        return {}
    stretch = config["max_position_embeddings"] / original
    writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(stretch) / math.log(original)))
    return {
        f"{gguf.TENSOR_NAMES[tensor]}.weight": np.array(scaling[key], np.float32)
        for key, tensor in (
            ("long_factor", gguf.MODEL_TENSOR.ROPE_FACTORS_LONG),
            ("short_factor", gguf.MODEL_TENSOR.ROPE_FACTORS_SHORT),
        )
    }


def _add_options(writer: gguf.GGUFWriter, config: dict) -> None:
    if config["model_type"] in ("phi3", "gemma3_text"):
        writer.add_sliding_window(config["sliding_window"] or 0)
    if config["model_type"] == "granite":
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])


def _llama3_divisors(config: dict) -> np.ndarray:
    """By what llama3's rule divides each frequency, as it was published with Llama 3.1; float32 [head_dim / 2]."""
    scaling, size = config["rope_scaling"], head_dim_of(config)
    lengths = 2 * np.pi * config["rope_theta"] ** (np.arange(0, size, 2) / size)
    turns = scaling["original_max_position_embeddings"] / lengths
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / scaling["factor"] + smooth)).astype(np.float32)


def _interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """The rows of each head, or the numbers of its bias: first half and second half in turn."""
    halves = values.reshape(heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def sections_of(weights: Path, **sections) -> dict:
    """What make_llm takes to run the model at `weights`."""
    return {"weights": str(weights), "scheduler": SCHEDULER} | sections | {"cache": CACHE | sections.get("cache", {})}


def answer_of(llm: LLM, num_tokens: int = NEW_TOKENS + 1) -> tuple[list[int], np.ndarray]:
    """Greedy tokens of an engine after PROMPT, and the logits [num_tokens, vocab_size] that they are the largest of."""
    rows, run = [], llm.engine.runner.run
    llm.engine.runner.run = lambda step: rows.append(run(step)) or rows[-1]
    tokens = llm.generate([PROMPT], SamplingParams(max_tokens=num_tokens, ignore_eos=True))[0].outputs[0].token_ids
    llm.engine.check_integrity()
    return tokens, np.concatenate(rows)[-num_tokens:]  # the steps before them end within the prompt


def check_equal(golden: dict, tokens: list[int], logits: np.ndarray) -> None:
    """Raises AssertionError unless the tokens are those of the golden, and the logits within 1e-3."""
    np.testing.assert_allclose(logits[0], golden["first"], rtol=0, atol=1e-3)
    assert tokens[:-1] == golden["tokens"]
    np.testing.assert_allclose(logits[-1], golden["last"], rtol=0, atol=1e-3)


def check_near(golden: dict, tokens: list[int], logits: np.ndarray, tolerance: float) -> None:
    """Raises AssertionError unless logits are near, and tokens the same until two are nearly as good.

    tolerance: how near, as a share of the logits' standard deviation.
    """
    tolerance *= float(np.std(golden["first"]))
    np.testing.assert_allclose(logits[0], golden["first"], rtol=0, atol=tolerance)
    for step, (token, expected) in enumerate(zip(tokens, golden["tokens"])):
        if token != expected:
            assert logits[step, token] - logits[step, expected] < 2 * tolerance
            return
    np.testing.assert_allclose(logits[-1], golden["last"], rtol=0, atol=tolerance)
