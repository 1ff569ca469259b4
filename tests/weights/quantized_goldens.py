"""goldens/quantized.json: what the packages that quantize models make, and what transformers answers."""

import base64
import json
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np

from tests.goldens.make_family_goldens import make_weights
from tests.weights.quantized_folders import CASES, quantize_model, write_folder

_GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "quantized.json").read_text(encoding="utf-8"))
PACKAGES, MODELS, FAMILIES = (_GOLDENS[section] for section in ("packages", "models", "families"))


def tensors_of(name: str) -> dict[str, np.ndarray]:
    """The tensors that a package makes of one small weight."""
    return {part: _values(*entry) for part, entry in PACKAGES[name].items() if part != "crc32"}


def _values(dtype: str, shape: list[int], text: str) -> np.ndarray:
    kind = getattr(ml_dtypes, dtype) if hasattr(ml_dtypes, dtype) else dtype
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), kind).reshape(shape)


def weights_of(name: str) -> dict[str, np.ndarray]:
    """The float32 weights that a model is made of, before they are quantized."""
    entry, family = MODELS[name], FAMILIES[MODELS[name]["family"]]
    shapes = {}
    for pattern, shape in family["shapes"].items():
        layers = range(family["config"]["num_hidden_layers"]) if "*" in pattern else [0]
        shapes |= {pattern.replace("*", str(layer)): shape for layer in layers}
    return make_weights(shapes, family["config"]["model_type"], entry["seed"])


def write_model(folder: Path, name: str) -> Path:
    """The folder of a model that is quantized by a case of its name."""
    tensors, _ = quantize_model(CASES[name], weights_of(name))
    return write_folder(folder, FAMILIES[MODELS[name]["family"]]["config"], tensors, CASES[name].config)
