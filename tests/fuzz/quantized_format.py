"""Hugging Face folders of quantized weights: what config.json says of it, and the tensors a weight is made of."""

import json
from pathlib import Path
from random import Random
from typing import Any

from mindspore_paged.weights.checkpoint import open_checkpoint
from mindspore_paged.weights.packing import read_packed, stored_format
from tests.fuzz.answers import tensors_of
from tests.fuzz.havoc import havoc_of, lie_about
from tests.fuzz.json_values import broken, mutated
from tests.fuzz.mutant import EVERYTHING, FileFormat, Files, Mutant
from tests.fuzz.safetensors_format import TYPES, header_values, put_together, taken_apart
from tests.weights import tiny
from tests.weights.quantized_folders import CASES, golden_stick, quantize_model, quantized, safetensors_bytes

_FILE = "model.safetensors"
_KINDS = ("gptq, not symmetric", "gptq, act-order", "gptq, 8 bits", "awq", "W4A16, not symmetric", "W4A16, act-order")
_KINDS += ("W8A8, not symmetric", "FP8, tiles", "fp8, as DeepSeek")
VALUES = (
    *("gptq", "awq", "compressed-tensors", "fp8", "bitsandbytes", "gptq_v2", "marlin", "gemv", "GEMM", "e5m2"),
    *("pack-quantized", "int-quantized", "float-quantized", "mixed-precision", "float", "block", "channel", "tensor"),
    *("32x64", "0x0", "9" * 400 + "x1", -1, 2, 4, 8, 16, 32, 64, 2**24, [32, 64], [0, 0], [2**62, 1], [1]),
    *({"num_bits": 8}, {"format": "dense"}, {"config_groups": {}}, {"group_1": {"weights": None}}),
)


def _sample(name: str) -> Files:
    weights = {tensor: values for tensor, values in tiny.make_weights().items() if "layers.1" not in tensor}
    tensors, _ = quantize_model(CASES[name], weights)
    config = tiny.HF_CONFIG | {"num_hidden_layers": 1, "quantization_config": CASES[name].config}
    return {"config.json": json.dumps(config).encode(), _FILE: safetensors_bytes(tensors)}


def _golden_stick() -> Files:
    files = _sample("W8A8")
    config = json.loads(files["config.json"])
    config.pop("quantization_config")
    tensors = {}
    for name, weight in tiny.make_weights().items():
        if "layers.1" not in name:
            parts = golden_stick(quantized(weight, 8, -1)) if "_proj" in name else {"weight": weight}
            tensors |= {f"{name.removesuffix('.weight')}.{part}": values for part, values in parts.items()}
    said = {name: "W8A8" if "_proj" in name else "FLOAT" for name in tensors}
    return {
        "config.json": json.dumps(config).encode(),
        "quantization_description.json": json.dumps(said).encode(),
        _FILE: safetensors_bytes(tensors),
    }


def settings(files: Files, random: Random) -> Mutant:
    """Other values in what config.json says of the quantization, there or in a file of its own."""
    config = json.loads(files["config.json"])
    if "quantization_config" not in config:
        name = "quantization_description.json"
        files[name], what = mutated(json.loads(files[name]), random, VALUES)
        return Mutant(files, f"{name}: {what}")
    said = config.pop("quantization_config")
    if random.random() < 0.3:
        files["config.json"] = json.dumps(config).encode()
        name = random.choice(("quantize_config.json", "quant_config.json"))
        files[name], what = (
            mutated(said, random, VALUES) if random.random() < 0.8 else broken(json.dumps(said).encode(), random)
        )
        return Mutant(files, f"{name}: {what}")
    text, what = mutated(said, random, VALUES)
    rest = json.dumps(config).encode()
    files["config.json"] = rest[:-1] + b', "quantization_config": ' + text + b"}"
    return Mutant(files, what)


def part_of_a_weight(files: Files, random: Random) -> Mutant:
    """A tensor of a quantized weight gone, under another's name, or of another type or shape."""
    header, data = taken_apart(files[_FILE])
    parts = [name for name in header if "_proj." in name]
    name, other = random.choice(parts), random.choice(parts)
    entry = header[name]
    what = random.choice(("gone", "swap", "type", "shape", "transposed", "name"))
    if what == "gone":
        del header[name]
    elif what == "swap":
        header[name], header[other] = header[other], entry
    elif what == "type":
        entry["dtype"] = random.choice(TYPES)
    elif what == "shape" and entry["shape"]:
        at = random.randrange(len(entry["shape"]))
        entry["shape"][at] = lie_about(entry["shape"][at], random)
    elif what == "name":
        header[name.rpartition(".")[0] + "." + random.choice(parts).rpartition(".")[2]] = header.pop(name)
    else:
        entry["shape"] = random.choice((entry["shape"][::-1], [*entry["shape"], 1], [1, *entry["shape"]], []))
    files[_FILE] = put_together(json.dumps(header).encode(), data)
    return Mutant(files, f"{name}: {what}")


def numbers(files: Files, random: Random) -> Mutant:
    """Other numbers in a tensor that says where others belong, or what shape they have."""
    header, data = taken_apart(files[_FILE])
    names = [name for name in header if name.endswith(("g_idx", "weight_shape", "zero_point", "qzeros", "scale"))]
    name = random.choice(names or list(header))
    start, stop = header[name]["data_offsets"]
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 8))):
        changed[random.randrange(start, stop)] = random.choice((0, 1, 127, 128, 255, random.randrange(256)))
    files[_FILE] = put_together(json.dumps(header).encode(), bytes(changed))
    return Mutant(files, f"{name}: other numbers")


def harmless(files: Files, random: Random) -> Mutant:
    """Keys that say what is not read, and tensors in another order."""
    config = json.loads(files["config.json"])
    if "quantization_config" in config:
        config["quantization_config"] |= {"version_of": "1", "ignore": ["re:(a+)+$"], "damp_percent": random.random()}
    files["config.json"] = json.dumps(config).encode()
    header, data = taken_apart(files[_FILE])
    names = list(header)
    random.shuffle(names)
    files[_FILE] = put_together(json.dumps({name: header[name] for name in names}).encode(), data)
    return Mutant(files, "written otherwise", EVERYTHING)


def use(folder: Path) -> dict[str, Any]:
    """Open the folder, and read all tensors as floats and as they are held."""
    checkpoint = open_checkpoint(folder)
    held = {name: stored_format(checkpoint, name) for name in checkpoint.names()}
    packed = {name: read_packed(checkpoint, name, form).tobytes() for name, form in held.items()}
    tensors = tensors_of(checkpoint)
    return {
        "config": repr(checkpoint.model_config),
        "tensors": dict(sorted(tensors.items())),
        "held": {name: (form.name, hash(packed[name])) for name, form in sorted(held.items())},
    }


FORMATS = (
    FileFormat(
        "quantized",
        [*map(_sample, _KINDS), _golden_stick()],
        (*[settings] * 4, *[part_of_a_weight] * 3, numbers, numbers, header_values, harmless, havoc_of()),
        use,
    ),
)
