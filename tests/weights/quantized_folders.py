"""Hugging Face folders whose weights are quantized, written by the formats' public definitions in NumPy.

Needs neither this package nor those that write such folders: make_quantized_goldens.py compares the two.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from tests.weights import tiny

FLOAT8 = ml_dtypes.float8_e4m3fn
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Quantized:
    """A weight as small numbers: (numbers - zeros) * scales, of each row by the group of the column.

    numbers: [N, K]. scales, zeros: [N, groups]. groups: [K].
    """

    numbers: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    groups: np.ndarray

    @property
    def weight(self) -> np.ndarray:
        """float32, each rounded once."""
        by_column = self.numbers.astype(np.float32) - self.zeros[:, self.groups].astype(np.float32)
        return by_column * self.scales.astype(np.float32)[:, self.groups]


def quantized(weight, bits, group, symmetric=True, act_order=False, scale_dtype=np.float16) -> Quantized:
    """A weight rounded to whole numbers from 0 on; group -1: a row is one; act_order: groups of any columns."""
    rows, columns = weight.shape
    group = columns if group == -1 else group
    groups = np.arange(columns) // group
    if act_order:
        groups = np.random.RandomState(columns).permutation(groups)
    most, num_groups = 2**bits - 1, groups.max() + 1
    low, high = (np.empty((rows, num_groups), np.float32) for _ in range(2))
    for each in range(num_groups):
        low[:, each], high[:, each] = weight[:, groups == each].min(1), weight[:, groups == each].max(1)
    if symmetric:
        scales = (np.maximum(np.abs(low), np.abs(high)) / np.float32(most // 2)).astype(scale_dtype)
        zeros = np.full(scales.shape, 2 ** (bits - 1))
    else:
        scales = ((high - low) / np.float32(most)).astype(scale_dtype)
        zeros = np.clip(np.rint(-low / scales.astype(np.float32)), 0, most).astype(int)
    by_column = weight / scales.astype(np.float32)[:, groups] + zeros[:, groups].astype(np.float32)
    return Quantized(np.clip(np.rint(by_column), 0, most).astype(np.uint8), scales, zeros, groups)


def words(numbers, bits, axis):
    """Neighbours along an axis in words of 32 bits, the first in the lowest bits."""
    numbers = np.moveaxis(np.asarray(numbers).astype(np.uint32), axis, -1)
    in_word = 32 // bits
    padded = np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, -numbers.shape[-1] % in_word)])
    shifted = padded.reshape(*padded.shape[:-1], -1, in_word) << (np.arange(in_word, dtype=np.uint32) * np.uint32(bits))
    return np.ascontiguousarray(np.moveaxis(np.bitwise_or.reduce(shifted, axis=-1), -1, axis).view(np.int32))


def gptq(weight: Quantized, bits=4, v2=False, g_idx=True) -> dict[str, np.ndarray]:
    """By AutoGPTQ's names; version 1 has zero points less one."""
    one_of_each = sum(1 << shift for shift in range(0, 32, bits))
    qzeros = words(weight.zeros.T, bits, 1)
    if not v2:
        qzeros = (qzeros.view(np.uint32) - np.uint32(one_of_each)).view(np.int32)
    found = {
        "qweight": words(weight.numbers.T, bits, 0),
        "qzeros": qzeros,
        "scales": np.ascontiguousarray(weight.scales.T),
    }
    return found | ({"g_idx": weight.groups.astype(np.int32)} if g_idx else {})


def awq(weight: Quantized, zero_point=True) -> dict[str, np.ndarray]:
    """By AutoAWQ's names, version GEMM."""

    def in_order(numbers):
        return numbers.reshape(len(numbers), -1, 8)[:, :, AWQ_ORDER].reshape(numbers.shape)

    found = {
        "qweight": words(in_order(weight.numbers.T), 4, 1),
        "scales": np.ascontiguousarray(weight.scales.T),
    }
    return found | ({"qzeros": words(in_order(weight.zeros.T), 4, 1)} if zero_point else {})


def packed(weight: Quantized, bits=4, zero_points=None) -> dict[str, np.ndarray]:
    """By compressed-tensors' names, pack-quantized; zero_points: None, "words" or "int8"."""
    found = {
        "weight_packed": words(weight.numbers, bits, 1),
        "weight_scale": weight.scales,
        "weight_shape": np.array(weight.numbers.shape, np.int64),
    }
    if zero_points == "words":
        found["weight_zero_point"] = words(weight.zeros, bits, 0)
    if zero_points == "int8":
        found["weight_zero_point"] = (weight.zeros - 2 ** (bits - 1)).astype(np.int8)
    if (np.diff(weight.groups) < 0).any():
        found["weight_g_idx"] = weight.groups.astype(np.int32)
    return found


def int8(weight: Quantized, zero_points=False) -> dict[str, np.ndarray]:
    """By compressed-tensors' names, int-quantized; of numbers of 8 bits."""
    found = {"weight": (weight.numbers.astype(np.int16) - 128).astype(np.int8), "weight_scale": weight.scales}
    return found | ({"weight_zero_point": (weight.zeros - 128).astype(np.int8)} if zero_points else {})


def golden_stick(weight: Quantized, smooth=None) -> dict[str, np.ndarray]:
    """By Golden Stick's names, W8A8; smooth: what activations are divided by."""
    rows, columns = weight.numbers.shape
    return int8(weight) | {
        "weight_scale": weight.scales.reshape(-1),
        "weight_offset": np.zeros(rows, np.int32),
        "smooth_scale": np.ones(columns, np.float16) if smooth is None else smooth,
        "input_scale": np.full(columns, 0.5, np.float16),
        "input_offset": np.full(columns, 3, np.float16),
        "deq_scale": np.ones(rows, np.int64),
        "quant_bias": np.full(rows, 7, np.int32),
    }


def tile_of(weight, tile):
    """For each scale of tiles of that shape the rows and columns that it stands for, with its location."""
    for row in range(-(-weight.shape[0] // tile[0])):
        for column in range(-(-weight.shape[1] // tile[1])):
            at = np.s_[row * tile[0] : (row + 1) * tile[0], column * tile[1] : (column + 1) * tile[1]]
            yield (row, column), at


def float8(weight, tile, scale_dtype=np.float32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers and scales [rows of tiles, columns of tiles] of a weight, and it as float32."""
    tile = tuple(size if part == -1 else part for part, size in zip(tile, weight.shape))
    scales = np.empty([-(-size // part) for size, part in zip(weight.shape, tile)], scale_dtype)
    numbers, rounded = np.empty(weight.shape, FLOAT8), np.empty(weight.shape, np.float32)
    for location, at in tile_of(weight, tile):
        scales[location] = np.abs(weight[at]).max() / np.float32(448)
        scale = scales[location].astype(np.float32)
        numbers[at] = np.clip(weight[at] / scale, -448, 448).astype(FLOAT8)
        rounded[at] = numbers[at].astype(np.float32) * scale
    return numbers, scales, rounded


@dataclass(frozen=True)
class Case:
    """A way to quantize a model.

    config: quantization_config of its config.json. module: of the weight of a projection the tensors that a folder has
    in its place, behind its name without `.weight`, and what it is as float32.
    """

    config: dict
    module: Callable[[np.ndarray], tuple[dict[str, np.ndarray], np.ndarray]]


def _gptq_case(bits=4, group=32, v2=False, g_idx=True, **how) -> Case:
    config = {
        "quant_method": "gptq", "bits": bits, "group_size": group, "sym": how.get("symmetric", True),
        "desc_act": how.get("act_order", False), "checkpoint_format": "gptq_v2" if v2 else "gptq",
    }  # fmt: skip

    def module(weight):
        made = quantized(weight, bits, group, **how)
        return gptq(made, bits, v2, g_idx), made.weight

    return Case(config, module)


def _awq_case(group=32, zero_point=True) -> Case:
    config = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": zero_point}

    def module(weight):
        made = quantized(weight, 4, group, symmetric=not zero_point)
        return awq(made, zero_point), made.weight

    return Case(config, module)


def compressed_tensors_config(format, **weights) -> dict:
    """As LLM Compressor writes it, but for what nobody reads."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors", "format": format, "quantization_status": "compressed",
        "config_groups": {"group_0": group}, "ignore": ["lm_head"], "kv_cache_scheme": None,
    }  # fmt: skip


def _packed_case(bits=4, group=32, zero_points=None, **how) -> Case:
    config = compressed_tensors_config(
        "pack-quantized", num_bits=bits, type="int", strategy="channel" if group == -1 else "group",
        group_size=None if group == -1 else group, symmetric=how.get("symmetric", True),
    )  # fmt: skip

    def module(weight):
        made = quantized(weight, bits, group, **how)
        return packed(made, bits, zero_points), made.weight

    return Case(config, module)


def _int8_case(group=-1, **how) -> Case:
    config = compressed_tensors_config("int-quantized", num_bits=8, type="int", strategy="channel", symmetric=True)

    def module(weight):
        made = quantized(weight, 8, group, **how)
        return int8(made, zero_points=not how.get("symmetric", True)), made.weight

    return Case(config, module)


def _float8_case(tile, config, scale="weight_scale", shape=None, scale_dtype=np.float32) -> Case:
    def module(weight):
        numbers, scales, rounded = float8(weight, tile, scale_dtype)
        return {"weight": numbers, scale: scales.reshape(scales.shape if shape is None else shape)}, rounded

    return Case(config, module)


def _fp8(**more) -> dict:
    return {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3"} | more


def _float8_config(**weights) -> dict:
    return compressed_tensors_config("float-quantized", num_bits=8, type="float", symmetric=True, **weights)


BFLOAT16 = ml_dtypes.bfloat16
CASES: Mapping[str, Case] = {
    "gptq": _gptq_case(),
    "gptq, not symmetric": _gptq_case(symmetric=False),
    "gptq, version 2": _gptq_case(symmetric=False, v2=True),
    "gptq, act-order": _gptq_case(act_order=True),
    "gptq, a group a row": _gptq_case(group=-1, g_idx=False),
    "gptq, odd groups": _gptq_case(group=16),
    "gptq, 8 bits": _gptq_case(bits=8),
    "gptq, 8 bits, not symmetric": _gptq_case(bits=8, symmetric=False),
    "awq": _awq_case(),
    "awq, without zero points": _awq_case(zero_point=False),
    "W4A16": _packed_case(scale_dtype=BFLOAT16),
    "W4A16, not symmetric": _packed_case(symmetric=False, zero_points="words"),
    "W4A16, zero points of bytes": _packed_case(symmetric=False, zero_points="int8"),
    "W4A16, act-order": _packed_case(act_order=True),
    "W4A16, a scale a row": _packed_case(group=-1),
    "W8A16": _packed_case(bits=8),
    "W8A16, not symmetric": _packed_case(bits=8, symmetric=False, zero_points="words"),
    "W8A8": _int8_case(scale_dtype=BFLOAT16),
    "W8A8, not symmetric": _int8_case(symmetric=False),
    "FP8, a scale a row": _float8_case((1, -1), _float8_config(strategy="channel"), scale_dtype=BFLOAT16),
    "FP8, one scale": _float8_case((-1, -1), _float8_config(strategy="tensor"), shape=(1,)),
    "FP8, tiles": _float8_case((32, 64), _float8_config(strategy="block", block_structure=[32, 64])),
    "fp8, as DeepSeek": _float8_case((64, 32), _fp8(weight_block_size=[64, 32]), "weight_scale_inv"),
    "fp8, as AutoFP8": _float8_case((-1, -1), _fp8(activation_scheme="static"), shape=()),
}  # fmt: skip
"""Groups and tiles are small, so that tiny models have several; their sizes need not divide."""


def quantize_model(
    case: Case, weights: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The tensors of a folder whose projections are quantized, and the same weights as float32."""
    tensors, floats = {}, dict(weights)
    for name, weight in weights.items():
        if not name.endswith("_proj.weight"):
            tensors[name] = weight
            continue
        stem = name.removesuffix(".weight")
        parts, floats[name] = case.module(weight)
        tensors |= {f"{stem}.{part}": values for part, values in parts.items()}
    return tensors, floats


def safetensors_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """A safetensors file; the library writes no float8 from NumPy."""
    names = {"float8_e4m3fn": "F8_E4M3", "bfloat16": "BF16", "float16": "F16", "float32": "F32", "int8": "I8"}
    names |= {"int32": "I32", "int64": "I64", "uint8": "U8", "float64": "F64"}
    header, data = {}, b""
    for name, values in tensors.items():
        start = len(data)
        data += np.ascontiguousarray(values).tobytes()
        header[name] = {
            "dtype": names[values.dtype.name], "shape": list(values.shape), "data_offsets": [start, len(data)],
        }  # fmt: skip
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def write_folder(folder: Path, config: Mapping, tensors: Mapping[str, np.ndarray], quantization=None) -> Path:
    """A folder of one file."""
    folder.mkdir(exist_ok=True)
    more = {} if quantization is None else {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps({**config, **more}))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    return folder


def write(folder, name, weights=None):
    """The tiny model quantized by a case; its weights as float32."""
    tensors, floats = quantize_model(CASES[name], weights or tiny.make_weights())
    write_folder(folder, tiny.HF_CONFIG, tensors, CASES[name].config)
    return floats
