"""Draft models for the tiny model, as folders: of its own weights, of others, or of something between."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.numpy

from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.registry import MODEL_CONFIGS
from mindspore_paged.weights.random_checkpoint import RandomCheckpoint

TINY = MODEL_CONFIGS["tiny"]


def write_draft(folder: Path, noise: float = 0.0, **changes) -> Path:
    """A folder with the tiny model's weights of seed 0, and on each a share of noise; changes: of its ModelConfig."""
    config = replace(TINY, **changes)
    checkpoint, random = RandomCheckpoint(config), np.random.default_rng(5)
    weights = {name: checkpoint.read(name) for name in checkpoint.names()}
    for name, values in weights.items():
        weights[name] = values + np.float32(noise * values.std()) * random.standard_normal(values.shape, np.float32)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_hf_config(config)))
    safetensors.numpy.save_file(weights, folder / "model.safetensors")
    return folder


def _hf_config(config: ModelConfig) -> dict:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids),
    }
