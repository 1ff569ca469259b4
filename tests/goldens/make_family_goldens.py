"""Make families.json: tokens and logits that transformers computes with tiny models of every family, in float32.

Run in an environment of its own, which needs neither MindSpore nor this package:
    pip install torch==2.13.0 transformers==4.57.1 'numpy<2'
    python tests/goldens/make_family_goldens.py [case …]

Of a model only its config.json, as transformers writes it, and its tensors' shapes are stored: `make_weights` makes the
same numbers of them wherever NumPy is. Each case is tried without each of its options, too: logits that stay as they
are would prove nothing.
"""

import json
import sys
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

COMMON = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.05, 1.1, 1.2, 1.35, 1.5, 1.7, 2.0],
    "long_factor": [1.0, 1.3, 2.0, 3.5, 6.0, 9.0, 14.0, 20.0],
}
PARTIAL_LONGROPE = {key: value[:6] if isinstance(value, list) else value for key, value in LONGROPE.items()}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16}
CASES = {
    "llama, biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama, head_dim of its own, tied": {"model_type": "llama", "head_dim": 32, "tie_word_embeddings": True},
    "llama, as DeepSeek-R1-Distill-Llama": {"model_type": "llama", "rope_theta": 500000.0, "rope_scaling": LLAMA3},
    "mistral, as Nemo": {
        "model_type": "mistral", "head_dim": 32, "rope_theta": 1000000.0, "sliding_window": None,
    },
    "mistral, as v0.1": {"model_type": "mistral", "sliding_window": 16},
    "qwen2, tied": {"model_type": "qwen2", "rope_theta": 1000000.0, "tie_word_embeddings": True},
    "qwen2, yarn": {"model_type": "qwen2", "rope_theta": 1000000.0, "rope_scaling": YARN},
    "qwen2, sliding window": {
        "model_type": "qwen2", "num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 16,
        "max_window_layers": 2,
    },
    "qwen2, as DeepSeek-R1-Distill-Qwen": {
        "model_type": "qwen2", "rope_theta": 10000.0, "use_sliding_window": False, "sliding_window": 16,
        "max_window_layers": 1, "use_mrope": False,
    },
    "qwen3, tied": {"model_type": "qwen3", "head_dim": 32, "rope_theta": 1000000.0, "tie_word_embeddings": True},
    "qwen3, yarn": {"model_type": "qwen3", "head_dim": 16, "rope_theta": 1000000.0, "rope_scaling": YARN},
    "phi3, window": {"model_type": "phi3", "num_key_value_heads": 4, "sliding_window": 16},
    "phi3, longrope in short": {
        "model_type": "phi3", "original_max_position_embeddings": 256, "max_position_embeddings": 1024,
        "rope_scaling": LONGROPE,
    },
    "phi3, longrope in long": {
        "model_type": "phi3", "original_max_position_embeddings": 32, "rope_scaling": LONGROPE,
    },
    "phi3, as Phi-4-mini": {
        "model_type": "phi3", "original_max_position_embeddings": 32, "rope_scaling": PARTIAL_LONGROPE,
        "partial_rotary_factor": 0.75, "tie_word_embeddings": True, "sliding_window": 262144,
    },
    "granite": {
        "model_type": "granite", "attention_multiplier": 0.15, "embedding_multiplier": 3.0, "logits_scaling": 0.5,
        "residual_multiplier": 0.4, "tie_word_embeddings": True,
    },
    "granite, biases": {
        "model_type": "granite", "attention_bias": True, "mlp_bias": True, "attention_multiplier": 0.2,
        "embedding_multiplier": 2.0, "logits_scaling": 2.5, "residual_multiplier": 0.5, "tie_word_embeddings": False,
    },
    "smollm3": {"model_type": "smollm3", "num_hidden_layers": 5, "tie_word_embeddings": True, "rope_theta": 50000.0},
    "gemma3_text, as 1b": {"model_type": "gemma3_text", "num_hidden_layers": 7, **GEMMA},
    "gemma3_text, as 4b": {
        "model_type": "gemma3_text", "num_hidden_layers": 6, **GEMMA, "rope_local_base_freq": 100.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "gemma3_text, as 27b": {
        "model_type": "gemma3_text", "num_hidden_layers": 3, **GEMMA, "rope_local_base_freq": 100.0,
        "query_pre_attn_scalar": 40,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
}  # fmt: skip
WITHOUT = {
    "attention_bias": False,
    "mlp_bias": False,
    "rope_scaling": None,
    "sliding_window": 10**6,
    "max_window_layers": 0,
    "query_pre_attn_scalar": 16,
    "partial_rotary_factor": 1.0,
    "attention_multiplier": 0.25,
    "embedding_multiplier": 1.0,
    "logits_scaling": 1.0,
    "residual_multiplier": 1.0,
    "no_rope_layers": [1] * 5,
    "rope_local_base_freq": 1000000.0,
    "layer_types": ["full_attention"] * 3,
}
"""What an option is where there is none of it."""
LESS_IN_GGUF = {"mistral, as v0.1": {"sliding_window": None}, "qwen2, sliding window": {"use_sliding_window": False}}
"""What GGUF files of these families do not say: llama.cpp lets every layer of theirs attend to all."""
NOT_IN_GGUF = ("gemma3_text, as 27b",)
"""llama.cpp knows query_pre_attn_scalar and the pattern of windows by the number of layers, not from the file."""
AS_PUBLISHED = ("qwen2, as DeepSeek-R1-Distill-Qwen",)
"""transformers reads these config.json files, but would write them in other words."""
PROMPT = [int(token) for token in np.random.RandomState(11).randint(3, 256, 40)]
NEW_TOKENS = 20
CLEAR = 0.01
"""By how much the largest logit must stand out for its token to be the same wherever it is computed."""


def make_weights(shapes: Mapping[str, list[int]], architecture: str, seed: int) -> dict[str, np.ndarray]:
    """The weights of a model, float32 by Hugging Face's names, from the name and shape of each."""
    return {name: _values(name, tuple(shape), architecture, seed) for name, shape in shapes.items()}


def _values(name: str, shape: tuple[int, ...], architecture: str, seed: int) -> np.ndarray:
    normal = np.random.RandomState(zlib.crc32(f"{seed} {name}".encode())).standard_normal(shape)
    if name.endswith("norm.weight"):
        center = 0.0 if architecture.startswith("gemma") else 1.0  # Gemma adds one
        return (center + 0.3 * normal).astype(np.float32)
    if name.endswith(".bias"):
        return (0.5 * normal).astype(np.float32)
    if name.endswith(
        "embed_tokens.weight"
    ):  # some families multiply it; a large one would repeat the last token for ever
        return ({"gemma3_text": 0.05, "granite": 0.1}.get(architecture, 0.3) * normal).astype(np.float32)
    return (1.5 * shape[1] ** -0.5 * normal).astype(np.float32)


def make_model(keys: Mapping, seed: int):
    """The model of transformers, with its weights, and their shapes by name."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**COMMON | keys)
    config._attn_implementation = "eager"
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}
    weights = make_weights(shapes, keys["model_type"], seed)
    missing, unexpected = model.load_state_dict(
        {name: torch.from_numpy(values) for name, values in weights.items()}, strict=False
    )
    assert set(missing) == tied, missing
    assert not unexpected
    return model, shapes


def logits_after(model, tokens: list[int]) -> np.ndarray:
    """What the model makes of the whole text, computed anew."""
    import torch

    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0, -1].numpy()


def answer_of(model) -> dict | None:
    """Greedy tokens, and the logits before the first and after the last; None if some token is not clear."""
    tokens, steps = list(PROMPT), []
    for _ in range(NEW_TOKENS + 1):
        steps.append(logits_after(model, tokens))
        second, first = np.sort(steps[-1])[-2:]
        if first - second < CLEAR:
            return None
        tokens.append(int(steps[-1].argmax()))
    rounded = {"first": steps[0], "last": steps[-1]}
    answer = {key: [round(float(number), 4) for number in logits] for key, logits in rounded.items()}
    tokens = tokens[len(PROMPT) : -1]
    return {"tokens": tokens, **answer} if len(set(tokens)) > NEW_TOKENS // 3 else None


def config_json(name: str, keys: Mapping, model) -> dict:
    """What config.json says of the model."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    return {"architectures": config["architectures"], **COMMON, **keys} if name in AS_PUBLISHED else config


def golden(name: str, keys: Mapping) -> dict:
    """The entry of a case: the first seed whose answers are clear."""
    for seed in range(1000):
        model, shapes = make_model(keys, seed)
        entry = {"seed": seed, "config": config_json(name, keys, model)}
        entry["shapes"] = patterns(shapes, entry["config"]["num_hidden_layers"])
        if name in NOT_IN_GGUF:
            entry["gguf"] = None
        elif name in LESS_IN_GGUF:
            entry["gguf"] = answer_of(make_model(keys | LESS_IN_GGUF[name], seed)[0])
        answer = answer_of(model)
        print(f"{name} ({seed}): {answer and answer['tokens']}", flush=True)
        if answer is not None and (name not in LESS_IN_GGUF or entry["gguf"] is not None):
            check_options(name, keys, answer, seed)
            return entry | answer
    raise AssertionError(f"{name}: no seed gives clear answers")


def check_options(name: str, keys: Mapping, answer: Mapping, seed: int) -> None:
    """Raises AssertionError where an option could be missed without anyone noticing."""
    options = {**keys, "no_rope_layers": ()} if keys["model_type"] == "smollm3" else keys
    for option in WITHOUT.keys() & options.keys():
        if (option == "sliding_window" and (keys[option] or 10**6) > 100) or name in AS_PUBLISHED:
            continue  # no window here, or one without effect
        if options[option] == WITHOUT[option]:
            continue
        changed = dict(keys) | {option: WITHOUT[option]}
        if option == "partial_rotary_factor":
            changed["rope_scaling"] = LONGROPE
        model, _ = make_model(changed, seed)
        difference = np.abs(logits_after(model, PROMPT) - np.array(answer["first"])).max()
        print(f"{name} ({seed}): without {option} {difference:.3f}", flush=True)
        assert difference > CLEAR, f"{name}: {option} makes no difference"


def patterns(shapes: Mapping[str, list[int]], layers: int) -> dict[str, list[int]]:
    """Shapes by names with `*` for the number of a layer, which has no say in them."""
    found = {}
    for name, shape in shapes.items():
        parts = ["*" if part.isdigit() else part for part in name.split(".")]
        assert found.setdefault(".".join(parts), shape) == shape
    assert len(shapes) == sum(layers if "*" in name else 1 for name in found)
    return found


def main() -> None:
    """Write the goldens beside this script; those named on the command line alone, if some are."""
    path = Path(__file__).with_name("families.json")
    goldens = json.loads(path.read_text(encoding="utf-8")) if sys.argv[1:] else {}
    for name in sys.argv[1:] or CASES:
        goldens[name] = golden(name, CASES[name])
    lines = [
        f"{json.dumps(name)}: {json.dumps(goldens[name], separators=(',', ':'))}" for name in CASES if name in goldens
    ]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
