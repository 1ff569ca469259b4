"""Quantized folders that are not read: the setting or the tensor is named, in one line."""

import json

import numpy as np
import pytest

from mindspore_paged.errors import CheckpointError
from mindspore_paged.tensor_parallel import TensorParallel
from mindspore_paged.weights.check import check_weights
from mindspore_paged.weights.checkpoint import open_checkpoint
from tests.weights import tiny
from tests.weights.quantized_folders import CASES, FLOAT8, quantize_model, safetensors_bytes, write, write_folder

Q = "model.layers.1.self_attn.q_proj"
READ = "gptq, awq, auto-round, compressed-tensors, fp8, golden-stick"
GROUP = CASES["W4A16"].config["config_groups"]["group_0"]


def with_group(**changes):
    weights = GROUP["weights"] | changes.pop("weights", {})
    return {"config_groups": {"group_0": GROUP | {"weights": weights} | changes}}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gptq", {"quant_method": "bitsandbytes"}, f"quantized by 'bitsandbytes', which is not read; read are {READ}"),
        ("gptq", {"quant_method": "mxfp4"}, f"quantized by 'mxfp4', which is not read; read are {READ}"),
        ("gptq", {"quant_method": None}, "quantized by None, which is not read"),
        ("gptq", {"quant_method": ["gptq"]}, r"quantized by \['gptq'\], which is not read"),
        ("gptq", {"bits": 3}, "quantization_config: bits is 3; it must be 4 or 8"),
        ("gptq", {"bits": "4"}, "bits is '4'"),
        ("gptq", {"group_size": 0.5}, "group_size is 0.5"),
        ("gptq", {"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'; it must be 'gptq' or 'gptq_v2'"),
        ("gptq", {"is_marlin_format": True}, "is_marlin_format is True"),
        ("gptq", {"adapter": {"name": "lora"}}, "adapter is {'name': 'lora'}"),
        ("awq", {"version": "gemv"}, "version is 'gemv'; it must be 'gemm'"),
        ("awq", {"bits": 8}, "bits is 8; it must be 4"),
        ("W4A16", {"format": "nvfp4-pack-quantized"}, "format is 'nvfp4-pack-quantized'"),
        ("W4A16", {"quantization_status": "frozen"}, "quantization_status is 'frozen'; it must be 'compressed'"),
        ("W4A16", {"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme is {'num_bits': 8}"),
        (
            "W4A16",
            {"sparsity_config": {"format": "sparse-24-bitmask"}},
            "format is 'sparse-24-bitmask'; it must be 'dense'",
        ),
        ("W4A16", {"transform_config": {"config_groups": {"u": {}}}}, "config_groups is {'u': {}}"),
        ("W4A16", {"config_groups": {"W4A16": ["Linear"]}}, r"config_groups is \['Linear'\]; it must be a JSON object"),
        ("W4A16", with_group(weights={"num_bits": 2}), "num_bits is 2; it must be 4 or 8"),
        ("W4A16", with_group(weights={"type": "float"}), "it must be of 8 bits where it is of type float"),
        ("W4A16", with_group(output_activations={"num_bits": 8}), "output_activations is {'num_bits': 8}"),
        ("fp8, as DeepSeek", {"weight_block_size": [64]}, "weight_block_size"),
        ("fp8, as DeepSeek", {"weight_block_size": [0, 1]}, "weight_block_size"),
        ("fp8, as DeepSeek", {"fmt": "e5m2"}, "fmt is 'e5m2'"),
    ],
)
def test_settings_that_are_not_read_are_named(tmp_path, name, changes, message):
    write(tmp_path, name)
    quantization = CASES[name].config | changes
    (tmp_path / "config.json").write_text(json.dumps(tiny.HF_CONFIG | {"quantization_config": quantization}))
    with pytest.raises(CheckpointError, match=message) as error:
        open_checkpoint(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'config.json'}: ")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("name", "tensor", "values", "message"),
    [
        ("gptq", "scales", None, "scales is missing"),
        ("gptq", "qzeros", np.zeros((1, 3), np.int32), r"qzeros has 3 words for 32 rows; read are numbers of 4 and 8"),
        ("gptq", "qzeros", np.zeros((2, 4), np.int32), r"qzeros has shape \(2, 4\); needed: \(1, any\)"),
        ("gptq", "scales", np.ones((1, 31), np.float16), r"scales has shape \(1, 31\); needed: \(any, 32\)"),
        ("gptq", "scales", np.ones((1, 32), np.int32), "scales is of type int32; allowed: float16, bfloat16, float32"),
        ("gptq", "qweight", np.ones((4, 32), np.float32), "qweight is of type float32; allowed: int32"),
        ("gptq", "g_idx", np.full(32, 1, np.int32), "g_idx holds 1; there are 1 groups"),
        ("gptq", "g_idx", np.zeros(31, np.int32), r"g_idx has shape \(31,\); needed: \(32\)"),
        ("gptq", "g_idx", np.full(32, -1, np.int32), None),
        ("gptq", "weight", np.zeros((32, 32), np.float32), "weight is there twice, quantized and not"),
        (
            "gptq, a group a row",
            "scales",
            np.ones((3, 32), np.float16),
            r"qzeros has shape \(1, 4\); needed: \(3, ",
        ),
        ("awq", "qzeros", None, "qzeros is missing"),
        ("awq", "qweight", np.zeros((48, 4), np.int32), "has 1 groups of scales; 48 columns in groups of 32 need 2"),
        ("awq", "qweight", np.zeros((16, 4), np.int32), r"q_proj.weight has shape \(32, 16\); the model needs"),
        ("W4A16", "weight_shape", np.array([32, 2**62]), "weight_shape says"),
        ("W4A16", "weight_shape", np.array([64, 32]), "weight_shape says"),
        ("W4A16", "weight_shape", np.array([32, -32]), "weight_shape says"),
        ("W4A16", "weight_shape", np.array([32.0, 32.0]), "weight_shape is of type float64"),
        ("W4A16", "weight_packed", np.zeros((32, 4), np.uint8), "weight_packed is of type uint8"),
        ("W4A16, zero points of bytes", "weight_zero_point", np.full((32, 1), 9, np.int8), "holds 9 to 9; zero points"),
        ("W8A8", "weight_scale", None, "weight_scale is missing"),
        ("W8A8", "weight_scale", np.ones((5, 7), np.float32), r"shape \(5, 7\), which is not that of scales"),
        ("W8A8", "weight_zero_point", np.zeros((32, 2), np.int8), r"has shape \(32, 2\); needed: \(32, 1\)"),
        ("FP8, tiles", "weight", np.zeros((32,), FLOAT8), r"weight has shape \(32,\); needed: \(any, any\)"),
        ("fp8, as DeepSeek", "weight_scale_inv", None, "weight_scale is missing"),
        ("fp8, as DeepSeek", "k_scale", np.ones(1, np.float32), "k_scale is not part of the model"),
    ],
)
def test_tensors_that_do_not_go_together_are_named(tmp_path, name, tensor, values, message):
    tensors, _ = quantize_model(CASES[name], tiny.make_weights())
    tensors.pop(f"{Q}.{tensor}", None)
    if values is not None:
        tensors[f"{Q}.{tensor}"] = values
    write_folder(tmp_path, tiny.HF_CONFIG, tensors, CASES[name].config)
    if message is None:
        check_weights(open_checkpoint(tmp_path), tiny.expected_shapes())
        return
    with pytest.raises(CheckpointError, match=message) as error:
        check_weights(open_checkpoint(tmp_path), tiny.expected_shapes())
    assert str(error.value).startswith(f"{tmp_path}: ")


def test_folders_of_ranks_are_not_quantized(tmp_path):
    write(tmp_path, "W8A8")
    for rank in range(2):
        (tmp_path / f"rank_{rank}").mkdir()
        (tmp_path / f"rank_{rank}" / "a.safetensors").write_bytes(safetensors_bytes(tiny.make_weights()))
    with pytest.raises(CheckpointError, match="quantized weights are not read from the folders of ranks"):
        open_checkpoint(tmp_path, parallel=TensorParallel(0, 2))
