"""Adapters of low rank as PEFT writes them: what the configuration says, and the header of the tensors' file."""

import json
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from mindspore_paged.model_config import ModelConfig
from mindspore_paged.weights.lora_adapter import CONFIG, TENSORS, read_lora_adapter
from tests.adapter_files import write_adapter
from tests.fuzz.havoc import LIES, havoc_of
from tests.fuzz.json_values import broken, mutated, same_content
from tests.fuzz.mutant import EVERYTHING, FileFormat, Files, Mutant, read_files
from tests.fuzz.safetensors_format import TYPES, put_together, taken_apart

MODEL = ModelConfig(
    vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
)  # fmt: skip
OTHERS = {
    "use_rslora": True, "use_dora": False, "bias": "none", "fan_in_fan_out": False, "modules_to_save": None,
    "alpha_pattern": {"q_proj": 3, r"layers\.0\..*up_proj": 2.5}, "target_modules": ["q_proj"], "lora_dropout": 0.1,
}  # fmt: skip
EXTRA = (
    *LIES,
    "LORA",
    "IA3",
    "all",
    "(a+)+$",
    ".*.*.*x",
    "[",
    {"q_proj": 1e300},
    {"(a|a)*b": 1},
    True,
    [],
    ["lm_head"],
)


def _sample() -> Files:
    with TemporaryDirectory() as folder:
        files = read_files(Path(write_adapter(Path(folder), MODEL, seed=1)))
    return files | {CONFIG: json.dumps(json.loads(files[CONFIG]) | OTHERS).encode()}


def configuration(files: Files, random: Random) -> Mutant:
    """Other values in the configuration."""
    files[CONFIG], what = mutated(json.loads(files[CONFIG]), random, EXTRA)
    return Mutant(files, what)


def hardly_json(files: Files, random: Random) -> Mutant:
    """A configuration that is hardly JSON."""
    files[CONFIG], what = broken(files[CONFIG], random)
    return Mutant(files, what)


def header_values(files: Files, random: Random) -> Mutant:
    """Shapes, types, offsets and names of the tensors."""
    header, data = taken_apart(files[TENSORS])
    text, what = mutated(header, random, (*TYPES, *LIES, [0, 0], [2**32, 2**32], [1, len(data)]))
    files[TENSORS] = put_together(text, data)
    return Mutant(files, what)


def renamed(files: Files, random: Random) -> Mutant:
    """A tensor under a name that is of another projection, or of none."""
    header, data = taken_apart(files[TENSORS])
    name = random.choice([key for key in header if key != "__metadata__"])
    part = random.choice(name.split("."))
    other = random.choice(
        ("lora_A", "lora_B", "q_proj", "k_proj", "qkv_proj", "mlp", "9" * 30, "1", "-1", "", "weight")
    )
    header[name.replace(part, other, 1)] = header.pop(name)
    files[TENSORS] = put_together(json.dumps(header).encode(), data)
    return Mutant(files, f"{part} is {other}")


def harmless(files: Files, random: Random) -> Mutant:
    """The same values written otherwise, and a file beside them."""
    files[CONFIG] = same_content(json.loads(files[CONFIG]), random)
    return Mutant(files | {"README.md": b"\xff"}, "written otherwise", EVERYTHING)


def file_gone(files: Files, random: Random) -> Mutant:
    """A file less, or a folder in its place."""
    name = random.choice(list(files))
    content = files.pop(name)
    if random.random() < 0.5:
        files[f"{name}/a"] = content
    return Mutant(files, f"{name} gone")


def use(folder: Path) -> dict[str, Any]:
    """Read the adapter for a model that it fits."""
    adapter = read_lora_adapter(folder, MODEL)
    for (layer, role), product in adapter.products.items():
        if layer != 0 or product.down.ndim != 2 or product.up.shape[1] != len(product.down):
            raise AssertionError(f"layer {layer}, {role}: {product.down.shape}, {product.up.shape}")
    return {"adapter": adapter.digest().hex()}


FORMATS = (
    FileFormat(
        "adapter",
        [_sample()],
        (
            *[configuration] * 4, *[header_values] * 3, renamed, renamed, hardly_json, harmless, file_gone,
            havoc_of(lambda _files: [TENSORS]),
        ),
        use,
    ),
)  # fmt: skip
