"""Random adapters of low rank for any model, as PEFT writes them."""

import json
from pathlib import Path

import numpy as np
import safetensors.numpy

from mindspore_paged.model_config import ModelConfig


def write_adapter(folder: Path, config: ModelConfig, seed: int, rank: int = 4) -> str:
    """A folder with an adapter of most projections, so large that answers are others than the model's."""
    rng = np.random.default_rng(seed)
    query, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    hidden, width = config.hidden_size, config.intermediate_size
    shapes = {
        "self_attn.q_proj": (query, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, query),
        "mlp.up_proj": (width, hidden),
        "mlp.down_proj": (hidden, width),
    }
    tensors = {}
    for layer in range(config.num_hidden_layers):
        for module, (outputs, inputs) in shapes.items():
            name = f"base_model.model.model.layers.{layer}.{module}.lora"
            tensors[f"{name}_A.weight"] = (rng.normal(size=(rank, inputs)) / np.sqrt(inputs)).astype(np.float32)
            tensors[f"{name}_B.weight"] = rng.normal(size=(outputs, rank)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": rank}))
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")
    return str(folder)
