"""Adapters of low rank (Hu et al. 2021, "LoRA") as PEFT writes them: a folder with a JSON file and one of tensors."""

import math
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol

import numpy as np
from pydantic import AfterValidator, Field

from mindspore_paged.custom_ops.layer_roles import ADAPTED_ROLES
from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.hf_files import HfModel, Number, checked, read_json_object
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.registry import spec_of
from mindspore_paged.models.spec import ModelSpec
from mindspore_paged.weights.safetensors_files import SafetensorsFiles
from mindspore_paged.wording import shortened, shown

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
MOST_PATTERN = 200
MOST_RANK = 512
"""Of an adapter; those that are published have 4 to 256."""

_OF_A_PROJECTION = re.compile(
    r"(?:base_model\.model\.)?(model\.layers\.\d+\.[a-z_]+\.[a-z_]+)\.lora_(A|B)\.weight", re.ASCII
)


@dataclass(frozen=True)
class LowRankProduct:
    """What an adapter adds to a projection of x: up (down x).

    down: float32 [rank, inputs]; up: float32 [outputs, rank], times the adapter's scale.
    """

    down: np.ndarray
    up: np.ndarray

    @property
    def rank(self) -> int:
        """Numbers between the two."""
        return len(self.down)


@dataclass(frozen=True)
class LoraAdapter:
    """A fine-tuned model as what it adds to projections of another; products: by layer and role."""

    products: dict[tuple[int, str], LowRankProduct]

    @property
    def rank(self) -> int:
        """The largest of its products."""
        return max(product.rank for product in self.products.values())

    def digest(self) -> bytes:
        """Names what it computes: pages that are computed with it are no other adapter's."""
        digest = sha256()
        for key, product in sorted(self.products.items()):
            digest.update(repr((key, product.down.shape, product.up.shape)).encode())
            digest.update(product.down.tobytes() + product.up.tobytes())
        return digest.digest()


class AdapterRoom(NamedTuple):
    """How many adapters a model has memory for, and the rank of each."""

    number: int
    rank: int


class AdapterSlots(Protocol):
    """Where a step's adapters are written, each by its number."""

    room: AdapterRoom

    def write(self, number: int, adapter: LoraAdapter) -> None:
        """Let tokens of this number be computed with `adapter`, between two steps."""


def _pattern(text: str) -> str:
    """A regular expression that is matched in a moment, whoever wrote it: of few repetitions, and none of groups."""
    if len(text) > MOST_PATTERN or "(" in text or sum(text.count(sign) for sign in "*+?{") > 3:
        raise ValueError(f"at most {MOST_PATTERN} characters, without groups, and at most three of * + ? {{")
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"a regular expression, {error} here") from None
    return text


_Pattern = Annotated[str, AfterValidator(_pattern)]


class _AdapterConfig(HfModel):
    """PEFT's LoraConfig, as far as it changes what is computed."""

    peft_type: str
    lora_alpha: Number
    r: Annotated[int, Field(strict=True, ge=1)]
    use_rslora: bool = False
    alpha_pattern: dict[_Pattern, Number] = Field(default_factory=dict)
    use_dora: bool = False
    fan_in_fan_out: bool = False
    bias: str = "none"
    lora_bias: bool = False
    modules_to_save: tuple[Any, ...] = ()
    layer_replication: tuple[Any, ...] = ()

    def scale(self, module: str, rank: int) -> float:
        """What B (A x) is multiplied by; alpha_pattern's keys end a module's name, or are regular expressions of it."""
        alpha = self.lora_alpha
        for pattern, value in self.alpha_pattern.items():
            if re.fullmatch(rf"(.*\.)?({pattern})", module):
                alpha = value
                break
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def read_lora_adapter(folder: Path, config: ModelConfig) -> LoraAdapter:
    """The adapter in PEFT's folder, for a model of this shape; raises CheckpointError that names the file and why."""
    described = _read_config(folder / CONFIG)
    path = folder / TENSORS
    if not path.is_file() and (folder / "adapter_model.bin").is_file():
        raise CheckpointError(f"{folder}: has adapter_model.bin, which may hold code; save the adapter as safetensors")
    files, spec = SafetensorsFiles([path]), spec_of(config)
    products = {}
    for module, pair in _pairs(path, files).items():
        rank = _check_pair(path, module, pair)
        rows_of = _rows_of(path, spec, config, module, pair)
        down, up = (files.read(name).astype(np.float32) for name in (pair.down, pair.up))
        up *= np.float32(described.scale(module, rank))
        for key, rows in rows_of.items():
            products[key] = LowRankProduct(down, np.ascontiguousarray(up[rows.start : rows.stop]))
    if not products:
        raise CheckpointError(f"{path}: holds no adapter: it has no tensors")
    return LoraAdapter(products)


def _read_config(path: Path) -> _AdapterConfig:
    described = checked(path, _AdapterConfig, read_json_object(path))
    if described.peft_type != "LORA":
        raise CheckpointError(f"{path}: peft_type is {shortened(described.peft_type)}; it must be LORA")
    for key, kept in {
        "use_dora": False, "fan_in_fan_out": False, "bias": "none", "lora_bias": False, "modules_to_save": (),
        "layer_replication": (),
    }.items():  # fmt: skip
        value = getattr(described, key)
        if value != kept:
            raise CheckpointError(f"{path}: {key} is {shortened(value)}, which is not computed here; it must be {kept}")
    return described


class _Pair(NamedTuple):
    """The names of a module's A and B in a file, and their shapes."""

    down: str
    up: str
    down_shape: tuple[int, ...]
    up_shape: tuple[int, ...]


def _pairs(path: Path, files: SafetensorsFiles) -> dict[str, _Pair]:
    """What each module has that the file adapts, by Hugging Face's name of the module."""
    names: dict[str, dict[str, str]] = {}
    for name in files.names():
        match = _OF_A_PROJECTION.fullmatch(name)
        if match is None:
            raise CheckpointError(
                f"{path}: tensor {shown(name)} is of no projection of a layer, which alone are adapted"
            )
        if files.dtype(name).kind not in "fV":  # bfloat16 is of no kind that NumPy knows
            raise CheckpointError(f"{path}: tensor {shown(name)} is of {files.dtype(name)}; it must be of floats")
        names.setdefault(match[1], {})[match[2]] = name
    for module, of_module in names.items():
        if len(of_module) != 2:
            raise CheckpointError(f"{path}: {module} has lora_{next(iter(of_module))} alone; A and B must be there")
    return {
        module: _Pair(each["A"], each["B"], files.shape(each["A"]), files.shape(each["B"]))
        for module, each in names.items()
    }


def _check_pair(path: Path, module: str, pair: _Pair) -> int:
    """The rank of a module's A and B."""
    down, up = pair.down_shape, pair.up_shape
    if len(down) != 2 or len(up) != 2 or down[0] != up[1] or not 1 <= down[0] <= MOST_RANK:
        raise CheckpointError(
            f"{path}: {module} has A {list(down)} and B {list(up)}; they must be [rank, inputs] and [outputs, rank], "
            f"the rank from 1 to {MOST_RANK}"
        )
    return down[0]


def _rows_of(
    path: Path, spec: ModelSpec, config: ModelConfig, module: str, pair: _Pair
) -> dict[tuple[int, str], range]:
    """The layer and role of each projection that a module is, and which of its rows: a concatenation is several."""
    name = f"{module}.weight"
    parts = spec.parts(config, name)
    rows_of, num_rows, num_columns = {}, 0, None
    for part in parts or (name,):
        weight, layer = spec.find(part), int(part.split(".")[2])
        if weight is None or weight.role not in ADAPTED_ROLES or layer >= config.num_hidden_layers:
            raise CheckpointError(f"{path}: {module} is no projection of a layer of this model")
        outputs, num_columns = weight.sizes(config)
        rows_of[layer, weight.role] = parts.get(part, range(outputs))
        num_rows += outputs
    if (pair.up_shape[0], pair.down_shape[1]) != (num_rows, num_columns):
        raise CheckpointError(
            f"{path}: {module} takes {pair.down_shape[1]} numbers and gives {pair.up_shape[0]}, this model's takes "
            f"{num_columns} and gives {num_rows}"
        )
    return rows_of
