"""Make quantized.json: tensors of the packages that quantize Hugging Face models, and tokens of transformers.

Run in an environment of its own, which needs neither MindSpore nor this package:
    pip install torch==2.13.0 transformers==4.57.1 compressed-tensors==0.20.1 ml_dtypes 'numpy<2'
    pip download --no-deps auto-gptq==0.7.1    # unpacked into a folder, its Python alone
    PYTHONPATH=. python tests/goldens/make_quantized_goldens.py AUTO_GPTQ_FOLDER AUTO_AWQ_FOLDER

AUTO_AWQ_FOLDER is AutoAWQ 0.2.9's source. Of each package `packages` has the tensors that it makes of small weights,
and the CRC-32 of what it makes of them again, float32; both are compared with tests/weights/quantized_folders.py first.
`models` has what transformers answers with the float32 weights that the folders of quantized_folders.CASES stand for,
each a model of one of `families`.
"""

import base64
import importlib.util
import json
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import torch

from tests.goldens.make_family_goldens import CASES as FAMILIES
from tests.goldens.make_family_goldens import COMMON, answer_of, config_json, make_model, patterns
from tests.weights import quantized_folders as folders

MODELS = {
    "llama": {"model_type": "llama"},
    "qwen2": {"model_type": "qwen2", "rope_theta": 1000000.0, "tie_word_embeddings": True},
    "phi3": FAMILIES["phi3, window"],
}
FAMILY_OF_CASE = {
    "gptq, not symmetric": "qwen2", "gptq, a group a row": "phi3", "gptq, act-order": "phi3", "awq": "qwen2",
    "W4A16, not symmetric": "phi3", "W8A8": "qwen2", "FP8, tiles": "phi3", "fp8, as DeepSeek": "qwen2",
}  # fmt: skip
"""The others are LLaMA."""


def packages_of(name: str, folder: Path, file: str):
    """A module of a package whose other modules need what is not here."""
    spec = importlib.util.spec_from_file_location(name, folder / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def weight(rows: int, columns: int) -> np.ndarray:
    return np.random.RandomState(rows * columns).standard_normal((rows, columns)).astype(np.float32)


def auto_gptq(folder: Path) -> dict:
    """What AutoGPTQ's QuantLinear packs, and multiplies the identity with."""
    linear = packages_of("qlinear_cuda", folder, "auto_gptq/nn_modules/qlinear/qlinear_cuda.py").QuantLinear
    found = {}
    for name, bits, group, how in (
        ("gptq", 4, 32, {}),
        ("gptq, not symmetric", 4, 32, {"symmetric": False}),
        ("gptq, act-order", 4, 32, {"act_order": True}),
        ("gptq, 8 bits", 8, 32, {}),
        ("gptq, 8 bits, not symmetric", 8, 32, {"symmetric": False}),
    ):
        made = folders.quantized(weight(32, 64), bits, group, scale_dtype=np.float32, **how)
        # A zero point of 0 less one spoils its neighbours there.
        zeros = np.maximum(made.zeros, 1)
        made = folders.Quantized(made.numbers, made.scales, zeros, made.groups)
        module = linear(bits, group, 64, 32, bias=False, weight_dtype=torch.float32)
        dense = torch.nn.Linear(64, 32, bias=False)
        dense.weight.data = torch.from_numpy(made.weight)
        groups = torch.from_numpy(made.groups.astype(np.int32))
        module.pack(dense, torch.from_numpy(made.scales), torch.from_numpy(zeros.astype(np.float32)), groups)
        tensors = {key: value.numpy() for key, value in module.state_dict().items()}
        again = module(torch.eye(64)).numpy().T
        found[name] = compared(tensors, folders.gptq(made, bits), again, made.weight)
    return found


def auto_awq(folder: Path) -> dict:
    """What AutoAWQ's WQLinear_GEMM packs, and dequantize_gemm makes of it."""
    for name in ("awq", "awq.utils", "awq.utils.module", "awq.utils.utils", "awq.utils.packing_utils"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["awq.utils.module"].try_import = lambda name: (None, "")
    sys.modules["awq.utils.utils"].get_best_device = lambda: "cpu"
    packing = packages_of("awq.utils.packing_utils", folder, "awq/utils/packing_utils.py")
    sys.modules["awq.utils.packing_utils"] = packing
    gemm = packages_of("gemm", folder, "awq/modules/linear/gemm.py").WQLinear_GEMM
    made = folders.quantized(weight(32, 64), 4, 32, symmetric=False)
    dense = torch.nn.Linear(64, 32, bias=False)
    dense.weight.data = torch.from_numpy(made.weight)
    scales, zeros = (torch.from_numpy(np.ascontiguousarray(each.T)) for each in (made.scales, made.zeros))
    module = gemm.from_linear(dense, 4, 32, scales=scales.float(), zeros=zeros)
    tensors = {key: value.numpy() for key, value in module.state_dict().items()}
    again = packing.dequantize_gemm(module.qweight, module.qzeros, module.scales.float(), 4, 32).numpy().T
    return {"awq": compared(tensors, folders.awq(made), again, made.weight)}


def compressed_tensors() -> dict:
    """What compress and decompress of compressed-tensors make."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    found = {}
    for name, kind, columns, expected in (
        ("W4A16", "pack-quantized", 64, lambda made: folders.packed(made)),
        ("W4A16, not symmetric", "pack-quantized", 64, lambda made: folders.packed(made, 4, "words")),
        ("W4A16, a scale a row", "pack-quantized", 60, lambda made: folders.packed(made)),
        ("W8A16, not symmetric", "pack-quantized", 64, lambda made: folders.packed(made, 8, "words")),
        ("W8A8", "int-quantized", 60, lambda made: folders.int8(made)),
        ("W8A8, not symmetric", "int-quantized", 64, lambda made: folders.int8(made, zero_points=True)),
    ):
        bits, symmetric = 8 if name.startswith("W8") else 4, "not" not in name
        group = -1 if "row" in name or name.startswith("W8A8") else 32
        made = folders.quantized(weight(36, columns), bits, group, symmetric, scale_dtype=np.float32)
        args = QuantizationArgs(
            num_bits=bits, type="int", symmetric=symmetric, strategy="channel" if group == -1 else "group",
            group_size=None if group == -1 else group,
        )  # fmt: skip
        state = {"weight": made.weight, "weight_scale": made.scales}
        if not symmetric:
            state["weight_zero_point"] = (made.zeros - 2 ** (bits - 1)).astype(np.int8)
        found[name] = _round_trip(BaseCompressor, QuantizationScheme, kind, args, state, expected(made), made.weight)
    for name, columns, tile, more in (
        ("FP8, a scale a row", 60, (1, -1), {"strategy": "channel"}),
        ("FP8, one scale", 60, (-1, -1), {"strategy": "tensor"}),
        ("FP8, tiles", 60, (16, 32), {"strategy": "block", "block_structure": [16, 32]}),
    ):
        numbers, scales, rounded = folders.float8(weight(36, columns), tile)
        args = QuantizationArgs(num_bits=8, type="float", symmetric=True, **more)
        scales = scales.reshape(1) if more["strategy"] == "tensor" else scales
        state = {"weight": rounded, "weight_scale": scales}
        expected = {"weight": numbers, "weight_scale": scales}
        found[name] = _round_trip(BaseCompressor, QuantizationScheme, "float-quantized", args, state, expected, rounded)
    return found


def _round_trip(compressors, schemes, kind, args, state, expected, dequantized) -> dict:
    compressor = compressors.get_value_from_registry(kind)
    scheme = schemes(targets=["Linear"], weights=args)
    made = compressor.compress({key: torch.from_numpy(np.asarray(value)) for key, value in state.items()}, scheme)
    again = compressor.decompress(made, scheme)["weight"].numpy()
    return compared({key: _numpy(value) for key, value in made.items()}, expected, again, dequantized)


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.view(torch.uint8).numpy().view(folders.FLOAT8) if "float8" in str(tensor.dtype) else tensor.numpy()


def compared(tensors: dict, expected: dict, again: np.ndarray, dequantized: np.ndarray) -> dict:
    """The entry of a weight; raises AssertionError unless the package and quantized_folders make the same."""
    assert tensors.keys() == expected.keys(), (list(tensors), list(expected))
    for name, values in expected.items():
        assert tensors[name].dtype == values.dtype, (name, tensors[name].dtype, values.dtype)
        assert tensors[name].shape == values.shape, (name, tensors[name].shape, values.shape)
        np.testing.assert_array_equal(tensors[name].view(np.uint8), values.view(np.uint8), name)
    np.testing.assert_array_equal(again.astype(np.float32), dequantized)
    entry = {name: [values.dtype.name, list(values.shape), text_of(values)] for name, values in tensors.items()}
    return entry | {"crc32": zlib.crc32(np.ascontiguousarray(dequantized).tobytes())}


def text_of(values: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 9)).decode()


def golden(case: str) -> dict:
    """What transformers answers with the weights of a case: the first seed whose answers are clear."""
    family = FAMILY_OF_CASE.get(case, "llama")
    for seed in range(1000):
        model, shapes = make_model(MODELS[family], seed)
        weights = {name: values.numpy() for name, values in model.state_dict().items() if name in shapes}
        _, floats = folders.quantize_model(folders.CASES[case], weights)
        model.load_state_dict({name: torch.from_numpy(values) for name, values in floats.items()}, strict=False)
        answer = answer_of(model)
        print(f"{case} ({seed}): {answer and answer['tokens']}", flush=True)
        if answer is not None:
            return {"family": family, "seed": seed, "tokens": answer["tokens"], "last": answer["last"]}
    raise AssertionError(f"{case}: no seed gives clear answers")


def description(keys: dict) -> dict:
    """The entry of a family."""
    model, shapes = make_model(keys, 0)
    return {"config": config_json("", keys, model), "shapes": patterns(shapes, COMMON["num_hidden_layers"])}


def main() -> None:
    """Write the goldens beside this script."""
    gptq_folder, awq_folder = map(Path, sys.argv[1:])
    packages = auto_gptq(gptq_folder) | auto_awq(awq_folder) | compressed_tensors()
    models = {case: golden(case) for case in folders.CASES}
    families = {name: description(keys) for name, keys in MODELS.items()}
    lines = [
        f'"{section}": {{\n' + ",\n".join(f"{json.dumps(name)}: {json.dumps(entry, separators=(',', ':'))}"
        for name, entry in entries.items()) + "\n}"
        for section, entries in (("packages", packages), ("families", families), ("models", models))
    ]  # fmt: skip
    path = Path(__file__).with_name("quantized.json")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
