"""Weights of quantized folders: what the packages that wrote them make of them, and the very numbers as blocks."""

import json
import zlib
from dataclasses import replace

import numpy as np
import pytest

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.weight_format import (
    BF16,
    FLOAT16,
    FLOAT32,
    FP8_G32,
    FP8_G128,
    INT4_G32,
    INT4_G128,
    INT8,
    INT8_G32,
    INT8_G128,
)
from mindspore_paged.tensor_parallel import TensorParallel
from mindspore_paged.weights.check import check_weights
from mindspore_paged.weights.checkpoint import open_checkpoint
from mindspore_paged.weights.packing import formats_of, read_packed, stored_format
from mindspore_paged.weights.quantized import quantized_files
from mindspore_paged.weights.quantized.methods import quantization_of
from mindspore_paged.weights.quantized.stored_tensors import StoredTensors
from mindspore_paged.weights.safetensors_files import SafetensorsFiles
from mindspore_paged.weights.sharded_checkpoint import ShardedCheckpoint
from tests.weights import tiny
from tests.weights.block_values import values_of
from tests.weights.parts import assert_same, part_by_hand
from tests.weights.quantized_folders import (
    CASES,
    golden_stick,
    quantize_model,
    quantized,
    words,
    write,
    write_folder,
)
from tests.weights.quantized_goldens import PACKAGES, tensors_of, write_model

LAYER = "model.layers.1."
Q = f"{LAYER}self_attn.q_proj"
DOWN, UP, OUT = (f"{LAYER}{cell}.weight" for cell in ("mlp.down_proj", "mlp.up_proj", "self_attn.o_proj"))


@pytest.mark.parametrize("name", PACKAGES)
def test_weights_are_what_the_packages_make_of_their_own_tensors(tmp_path, name):
    case = CASES[name]
    tiled = {"block_structure": [16, 32]} if name == "FP8, tiles" else {}
    config = json.loads(json.dumps(case.config))
    if tiled:
        config["config_groups"]["group_0"]["weights"] |= tiled
    tensors = {f"a.{part}": values for part, values in tensors_of(name).items()}
    write_folder(tmp_path, {}, tensors, config)
    stored = StoredTensors(tmp_path, SafetensorsFiles([tmp_path / "model.safetensors"]))
    weight = quantization_of(tmp_path)(stored)["a.weight"]
    read = weight.read_part(0, 0, weight.shape[0])
    assert zlib.crc32(read.tobytes()) == PACKAGES[name]["crc32"]
    assert sorted(weight.tensors) == sorted(tensors)


@pytest.mark.parametrize("name", CASES)
def test_folders_are_read(tmp_path, name):
    """Whole, in parts, and by ranks: whatever the parts cut."""
    floats = write(tmp_path / "model", name)
    checkpoint = open_checkpoint(tmp_path / "model")
    check_weights(checkpoint, tiny.expected_shapes())
    assert sorted(checkpoint.names()) == sorted(floats)
    random = np.random.default_rng(5)
    for tensor, values in floats.items():
        assert_same(checkpoint.read(tensor), values, tensor)
        for axis, length in enumerate(values.shape):
            start, stop = (int(end) for end in np.sort(random.choice(length + 1, 2, False)))
            part = values.take(range(start, stop), axis)
            assert_same(checkpoint.read_part(tensor, axis, start, stop), part, f"{tensor} {axis} {start} {stop}")
    for rank in range(4):
        part = ShardedCheckpoint(checkpoint, TensorParallel(rank, 4).cuts(tiny.CONFIG))
        for tensor in (UP, DOWN, OUT, f"{LAYER}self_attn.k_proj.weight", "lm_head.weight"):
            assert_same(part.read(tensor), part_by_hand(tensor, floats[tensor], rank, 4), f"{tensor} {rank}")


WIDE = {
    "gptq": INT4_G32,
    "gptq, version 2": INT4_G32,
    "gptq, act-order": None,
    "gptq, a group a row": INT4_G128,
    "gptq, odd groups": None,
    "gptq, 8 bits": INT8_G32,
    "gptq, 8 bits, not symmetric": None,
    "awq": INT4_G32,
    "awq, without zero points": INT4_G32,
    "W4A16": INT4_G32,
    "W4A16, not symmetric": INT4_G32,
    "W4A16, zero points of bytes": INT4_G32,
    "W4A16, act-order": None,
    "W4A16, a scale a row": INT4_G128,
    "W8A16": INT8_G32,
    "W8A8": INT8_G128,
    "W8A8, not symmetric": None,
    "FP8, a scale a row": FP8_G128,
    "FP8, one scale": FP8_G128,
    "FP8, tiles": FP8_G32,
    "fp8, as DeepSeek": FP8_G32,
    "fp8, as AutoFP8": FP8_G128,
}


@pytest.mark.parametrize("name", WIDE)
def test_numbers_and_scales_are_held_as_they_are(tmp_path, name):
    """256 columns, so that there are blocks of every length."""
    weights = tiny.make_weights()
    weights |= {tensor: np.tile(values, (1, 4)) for tensor, values in weights.items() if "down_proj" in tensor}
    floats = write(tmp_path / "model", name, weights)
    (tmp_path / "model" / "config.json").write_text(
        json.dumps(tiny.HF_CONFIG | {"intermediate_size": 256, "quantization_config": CASES[name].config})
    )
    with pytest.raises(CheckpointError, match="gate_proj.weight has shape"):
        open_checkpoint(tmp_path / "model")
    tensors = SafetensorsFiles([tmp_path / "model" / "model.safetensors"])
    files = quantized_files.QuantizedFiles(tmp_path, tensors, quantization_of(tmp_path / "model"), tiny.CONFIG)
    form = files.block_format(DOWN)
    assert form == WIDE[name]
    if form is None:
        assert files.float_dtype(DOWN) == np.float16
        return
    blocks = files.read_blocks(DOWN, 0, 0, 32)
    assert blocks.shape == form.stored_shape((32, 256))
    assert (blocks.dtype, blocks.flags.c_contiguous, blocks.flags.writeable) == (np.uint8, True, True)
    np.testing.assert_array_equal(values_of(blocks, form), floats[DOWN])
    np.testing.assert_array_equal(files.read_blocks(DOWN, 0, 5, 12), blocks[5:12])
    within = ((5, 37), (16, 176)) if WIDE[name].group == 128 else ()
    for start, stop in ((0, 128), (64, 128), (32, 256), (96, 128), *within):
        form = files.block_format(DOWN, start, stop)
        part = files.read_blocks(DOWN, 1, start, stop)
        np.testing.assert_array_equal(values_of(part, form), floats[DOWN][:, start:stop])
    assert files.block_format(DOWN, 16, 40) is None


def test_columns_of_ranks_at_borders_of_groups_and_between(tmp_path):
    """64 columns in groups of 32: halves are groups, quarters are shared out as floats, and other cuts as int8."""
    floats = write(tmp_path / "model", "gptq")
    checkpoint = open_checkpoint(tmp_path / "model")
    for rank in range(2):
        part = ShardedCheckpoint(checkpoint, TensorParallel(rank, 2).cuts(tiny.CONFIG))
        packed = read_packed(part, DOWN, stored_format(part, DOWN))
        np.testing.assert_array_equal(values_of(packed, INT4_G32), floats[DOWN][:, 32 * rank : 32 * rank + 32])
        packed = read_packed(part, UP, stored_format(part, UP))
        np.testing.assert_array_equal(values_of(packed, INT4_G32), floats[UP][32 * rank : 32 * rank + 32])
        quarter = ShardedCheckpoint(checkpoint, TensorParallel(rank, 4).cuts(tiny.CONFIG))
        assert stored_format(quarter, DOWN) == FLOAT16
        assert read_packed(quarter, DOWN, FLOAT16).shape == (32, 16)

    class Cuts:
        def of(self, name):
            return replace(TensorParallel(0, 2).cuts(tiny.CONFIG).of(DOWN), start=16, stop=48)

        def whole_length(self, name):
            return 64

    between = ShardedCheckpoint(checkpoint, Cuts())
    assert stored_format(between, DOWN) == INT8
    np.testing.assert_array_equal(read_packed(between, DOWN, INT8), INT8.pack(floats[DOWN][:, 16:48]))


@pytest.mark.parametrize(
    ("name", "form"),
    [("gptq, act-order", FLOAT16), ("W8A8, not symmetric", FLOAT16), ("gptq, odd groups", FLOAT16)],
)
def test_what_no_blocks_hold_is_held_as_the_floats_of_its_scales(tmp_path, name, form):
    floats = write(tmp_path / "model", name)
    checkpoint = open_checkpoint(tmp_path / "model")
    for weight_dtype in ("auto", "stored"):
        assert formats_of(checkpoint, weight_dtype, "bfloat16")(DOWN) == form
    assert formats_of(checkpoint, "auto", "bfloat16")("lm_head.weight") == BF16
    assert formats_of(checkpoint, "stored", "bfloat16")("lm_head.weight") == FLOAT32
    np.testing.assert_array_equal(read_packed(checkpoint, DOWN, form), floats[DOWN].astype(np.float16))


def test_scales_of_bfloat16(tmp_path):
    weights = tiny.make_weights() | {DOWN: tiny.make_weights()[DOWN][:, :48]}
    tensors, _ = quantize_model(CASES["W8A8"], weights)
    write_folder(tmp_path, tiny.HF_CONFIG, tensors, CASES["W8A8"].config)
    files = quantized_files.QuantizedFiles(
        tmp_path, SafetensorsFiles([tmp_path / "model.safetensors"]), quantization_of(tmp_path), tiny.CONFIG
    )
    assert stored_format(files, DOWN) == BF16  # 48 columns are no blocks of 32
    assert stored_format(files, UP) == INT8_G32


def test_one_matrix_of_several_weights(tmp_path):
    """Phi-3's: the blocks of each are rows of the one that is stored, along both axes."""
    checkpoint = open_checkpoint(write_model(tmp_path / "model", "W4A16, not symmetric"))
    sizes = {"self_attn.q_proj": 64, "self_attn.k_proj": 64, "self_attn.v_proj": 64, "mlp.gate_proj": 96}
    for cell, rows in sizes.items():
        name = f"{LAYER}{cell}.weight"
        assert checkpoint.shape(name) == (rows, 64)
        assert checkpoint.block_format(name) == INT4_G32
        floats = checkpoint.read(name)
        np.testing.assert_array_equal(values_of(checkpoint.read_blocks(name, 0, 0, rows), INT4_G32), floats)
        np.testing.assert_array_equal(values_of(checkpoint.read_blocks(name, 0, 7, 9), INT4_G32), floats[7:9])
        np.testing.assert_array_equal(values_of(checkpoint.read_blocks(name, 1, 32, 64), INT4_G32), floats[:, 32:])


def test_zero_points_of_version_1_are_borrowed_from_their_neighbours(tmp_path):
    """As GPTQModel writes them: one less than the word, in which a zero point of 0 takes one from the next."""
    zeros = np.array([[0, 15, 0, 0, 7, 1, 8, 0], [3, 0, 0, 0, 0, 0, 0, 0]])
    tensors = {
        "a.qweight": np.zeros((8, 8), np.int32),
        "a.qzeros": (words(zeros, 4, 1).view(np.uint32) - np.uint32(0x11111111)).view(np.int32),
        "a.scales": np.ones((2, 8), np.float16),
    }
    write_folder(tmp_path, {}, tensors, CASES["gptq"].config)
    stored = StoredTensors(tmp_path, SafetensorsFiles([tmp_path / "model.safetensors"]))
    weight = quantization_of(tmp_path)(stored)["a.weight"]
    np.testing.assert_array_equal(weight.read_part(0, 0, 8)[:, ::32], -zeros.T)


@pytest.mark.parametrize(
    ("file", "said", "name"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 32, "desc_act": False, "sym": True}, "gptq"),
        ("quantize_config.json", {"bits": 4, "group_size": 32, "checkpoint_format": "gptq_v2"}, "gptq, version 2"),
        ("quantize_config.json", {"w_bit": 4, "q_group_size": 32, "version": "GEMM", "zero_point": True}, "awq"),
        ("quant_config.json", {"w_bit": 4, "q_group_size": 32, "version": "GEMM", "zero_point": True}, "awq"),
        ("quant_config.json", {"quant_method": "gptq", "bits": 4, "group_size": 32}, "gptq"),
    ],
)
def test_files_in_which_older_programs_say_it(tmp_path, file, said, name):
    floats = write(tmp_path, name)
    (tmp_path / "config.json").write_text(json.dumps(tiny.HF_CONFIG))
    (tmp_path / file).write_text(json.dumps(said))
    np.testing.assert_array_equal(open_checkpoint(tmp_path).read(DOWN), floats[DOWN])


@pytest.mark.parametrize(
    ("packing_format", "name"),
    [
        ("auto_round:auto_gptq", "gptq"),
        ("auto_round", "gptq, version 2"),
        ("auto_round:gptqmodel", "gptq, version 2"),
        ("auto_round:auto_awq", "awq"),
    ],
)
def test_folders_of_auto_round(tmp_path, packing_format, name):
    floats = write(tmp_path, name)
    said = {"quant_method": "auto-round", "packing_format": packing_format, "bits": 4, "group_size": 32, "sym": False}
    (tmp_path / "config.json").write_text(json.dumps(tiny.HF_CONFIG | {"quantization_config": said}))
    np.testing.assert_array_equal(open_checkpoint(tmp_path).read(DOWN), floats[DOWN])
    for changes in ({"packing_format": "auto_round:fp8"}, {"data_type": "mx_fp"}, {"rotation_config": {"a": 1}}):
        config = tiny.HF_CONFIG | {"quantization_config": said | changes}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=f"config.json: quantization_config: {next(iter(changes))} is"):
            open_checkpoint(tmp_path)


def test_biases_of_zeros_that_the_model_lacks(tmp_path):
    """AutoGPTQ used to write them."""
    tensors, _ = quantize_model(CASES["gptq"], tiny.make_weights())
    bias = f"{LAYER}self_attn.q_proj.bias"
    write_folder(tmp_path, tiny.HF_CONFIG, tensors | {bias: np.zeros(32, np.float16)}, CASES["gptq"].config)
    checkpoint = open_checkpoint(tmp_path)
    check_weights(checkpoint, tiny.expected_shapes())
    write_folder(tmp_path, tiny.HF_CONFIG, tensors | {bias: np.eye(32, dtype=np.float16)[3]}, CASES["gptq"].config)
    with pytest.raises(CheckpointError, match=f"tensor {bias} is not part of the model"):
        check_weights(open_checkpoint(tmp_path), tiny.expected_shapes())
    config = tiny.HF_CONFIG | {"attention_bias": True}
    biases = {name: np.zeros_like(values) for name, values in tiny.make_biases("q_proj").items()}
    write_folder(tmp_path, config, tensors | biases, CASES["gptq"].config)
    assert open_checkpoint(tmp_path).model_config.biases == ("q_proj",)


def test_scales_of_activations_are_left_out(tmp_path):
    tensors, floats = quantize_model(CASES["fp8, as AutoFP8"], tiny.make_weights())
    scales = {f"{name.removesuffix('.weight')}.input_scale": np.float32(0.5) for name in floats if "_proj" in name}
    write_folder(tmp_path, tiny.HF_CONFIG, tensors | scales, CASES["fp8, as AutoFP8"].config)
    check_weights(open_checkpoint(tmp_path), tiny.expected_shapes())


def write_golden_stick(folder, smooth=None, **types):
    """The tiny model as Golden Stick writes it; its weights as float32."""
    tensors, floats = {}, {}
    for name, weight in tiny.make_weights().items():
        tensors[name], floats[name] = weight, weight
        if "_proj" in name:
            stem, factors = (
                name.removesuffix(".weight"),
                smooth and np.linspace(0.5, 2, weight.shape[1], dtype=np.float16),
            )
            made = quantized(weight / (1 if factors is None else factors), 8, -1)
            tensors |= {f"{stem}.{part}": values for part, values in golden_stick(made, factors).items()}
            floats[name] = made.weight * (np.float32(1) if factors is None else factors.astype(np.float32))
    write_folder(folder, tiny.HF_CONFIG, tensors)
    said = {name: "W8A8" if "_proj" in name else "FLOAT" for name in tensors}
    (folder / "quantization_description.json").write_text(json.dumps(said | types))
    return tensors, floats


@pytest.mark.parametrize("smooth", [None, True])
def test_golden_stick(tmp_path, smooth):
    _, floats = write_golden_stick(tmp_path, smooth, quantization="golden-stick")
    checkpoint = open_checkpoint(tmp_path)
    check_weights(checkpoint, tiny.expected_shapes())
    for name, values in floats.items():
        np.testing.assert_array_equal(checkpoint.read(name), values)
    np.testing.assert_array_equal(checkpoint.read_part(DOWN, 1, 7, 20), floats[DOWN][:, 7:20])
    assert stored_format(checkpoint, DOWN) == (FLOAT16 if smooth else INT8_G32)


@pytest.mark.parametrize(
    ("file", "said", "message"),
    [
        (
            "quantization_description.json",
            {"a": "W4A16"},
            "a is 'W4A16'; it must be 'FLOAT', 'W8A16', 'W8A8' or",
        ),
        ("quantization_description.json", {"a": "FAQuant"}, "a is 'FAQuant'"),
        ("quantization_description.json", {"a": {}}, "a is {}"),
        ("quant_model_description.json", {"a": "W8A8"}, "quantized by 'ModelSlim', which is not read; read are gptq"),
    ],
)
def test_descriptions_by_golden_stick_and_others(tmp_path, file, said, message):
    write_golden_stick(tmp_path)
    (tmp_path / "quantization_description.json").unlink()
    (tmp_path / file).write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match=f"{tmp_path / file}: .*{message}"):
        open_checkpoint(tmp_path)


def test_golden_stick_with_offsets(tmp_path):
    tensors, _ = write_golden_stick(tmp_path)
    tensors[f"{Q}.weight_offset"] = np.ones(32, np.int32)
    write_folder(tmp_path, tiny.HF_CONFIG, tensors)
    with pytest.raises(CheckpointError, match="q_proj.weight_offset is not zero"):
        open_checkpoint(tmp_path)


def test_a_quantized_head_of_tied_embeddings(tmp_path):
    weights = {name.replace("lm_head", "lm_head_proj"): values for name, values in tiny.make_weights().items()}
    weights["lm_head_proj.weight"] = weights["lm_head_proj.weight"][:48]
    tensors, floats = quantize_model(CASES["gptq"], weights)
    tensors = {name.replace("lm_head_proj", "lm_head"): values for name, values in tensors.items()}
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:48]
    config = tiny.HF_CONFIG | {"vocab_size": 48}
    write_folder(tmp_path, config, tensors, CASES["gptq"].config)
    np.testing.assert_array_equal(open_checkpoint(tmp_path).read("lm_head.weight"), floats["lm_head_proj.weight"])
    write_folder(tmp_path, config | {"tie_word_embeddings": True}, tensors, CASES["gptq"].config)
    with pytest.raises(CheckpointError, match="lm_head.weight is quantized by itself, but config.json says that it is"):
        open_checkpoint(tmp_path)
