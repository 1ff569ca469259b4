"""Adapters of low rank for the tiny models of `families`, as PEFT writes them (goldens/lora.json)."""

import json
from pathlib import Path

import numpy as np
import safetensors.numpy

from tests.goldens.make_lora_goldens import make_adapter

ADAPTERS = json.loads((Path(__file__).parents[1] / "goldens" / "lora.json").read_text(encoding="utf-8"))
"""By name: the model's name, adapter_config.json, the tensors' shapes, tokens and logits."""


def write_adapter(folder: Path, name: str, dtype=np.float32, **config) -> Path:
    """The adapter's folder; config: keys of adapter_config.json that are other than PEFT's."""
    entry = ADAPTERS[name]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(entry["config"] | config, indent=2))
    tensors = {key: value.astype(dtype) for key, value in make_adapter(entry["shapes"], entry["seed"]).items()}
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")
    return folder
