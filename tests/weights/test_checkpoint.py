"""Every format yields the same tensors; what is no checkpoint is refused in one line."""

import json
import subprocess
import sys
from dataclasses import replace

import gguf
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from mindspore_paged.errors import CheckpointError
from mindspore_paged.weights.check import check_weights
from mindspore_paged.weights.checkpoint import open_checkpoint
from tests.weights import tiny

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", tiny.WRITERS)
def test_every_format_yields_the_tensors_that_were_written(kind, dtype, tmp_path):
    weights = tiny.make_weights(dtype)
    path = tiny.WRITERS[kind](tmp_path / kind, weights)

    checkpoint = open_checkpoint(path, tiny.CONFIG)

    check_weights(checkpoint, tiny.expected_shapes())
    assert sorted(checkpoint.names()) == sorted(weights)
    for name, written in weights.items():
        read = checkpoint.read(name)
        assert type(read) is np.ndarray
        assert read.flags.c_contiguous
        assert read.dtype == checkpoint.dtype(name) == dtype
        assert read.shape == checkpoint.shape(name)
        np.testing.assert_array_equal(read.astype(np.float32), written.astype(np.float32), err_msg=name)


@pytest.mark.parametrize("kind", ["gguf", "hf"])
def test_gguf_files_and_hf_folders_describe_their_model(kind, tmp_path):
    checkpoint = open_checkpoint(tiny.WRITERS[kind](tmp_path / kind, tiny.make_weights()))
    assert checkpoint.model_config == tiny.CONFIG


def test_quantized_tensors_are_read_as_float32_in_rotate_half_order(tmp_path):
    weights = tiny.make_weights()
    quantized = {name: gguf.GGMLQuantizationType.Q8_0 for name, values in weights.items() if values.ndim == 2}
    checkpoint = open_checkpoint(tiny.write_gguf(tmp_path / "q8.gguf", weights, quantize=quantized))
    for name, written in weights.items():
        read = checkpoint.read(name)
        assert read.dtype == np.float32
        np.testing.assert_allclose(read, written, atol=0.02, err_msg=name)


def test_bare_weights_need_a_model_config(tmp_path):
    path = tiny.write_ckpt(tmp_path / "tiny.ckpt", tiny.make_weights())
    assert open_checkpoint(path, tiny.CONFIG).model_config is None
    with pytest.raises(CheckpointError, match="do not describe their model"):
        open_checkpoint(path)


def test_fused_tensors_that_do_not_fit_the_model_are_refused(tmp_path):
    path = tiny.write_ckpt(tmp_path / "tiny.ckpt", tiny.to_mindformers(tiny.make_weights(), qkv_concat=True))
    other_heads = replace(tiny.CONFIG, num_key_value_heads=4)
    with pytest.raises(CheckpointError, match=r"w_qkv.weight has shape \(48, 32\); the model needs \(64, 32\)"):
        open_checkpoint(path, other_heads)


@pytest.mark.parametrize("content", [b"", b"GG", b"hello world, this is no checkpoint", b"GGUF" + b"\xff" * 200])
@pytest.mark.parametrize("name", ["x.gguf", "x.safetensors", "x.ckpt", "x.bin"])
def test_files_that_are_no_checkpoint(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=name) as error:
        open_checkpoint(path, tiny.CONFIG)
    assert "\n" not in str(error.value)


def test_paths_that_are_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no such file or folder"):
        open_checkpoint(tmp_path / "absent.gguf")
    with pytest.raises(CheckpointError, match=r"holds no config.json, no .ckpt and no .safetensors"):
        open_checkpoint(tmp_path)


def test_a_gguf_file_cut_anywhere_is_refused(tmp_path):
    """Header, metadata, tensor table or data: whichever byte is the last, the file is refused when opened."""
    whole = tiny.write_gguf(tmp_path / "whole.gguf", tiny.make_weights()).read_bytes()
    end_of_last_tensor = max(
        tensor.data_offset + tensor.n_bytes for tensor in gguf.GGUFReader(tmp_path / "whole.gguf").tensors
    )
    cut = tmp_path / "cut.gguf"
    for size in [*range(0, 3000, 7), *range(3000, end_of_last_tensor, 1009), end_of_last_tensor - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"cut.gguf"):
            open_checkpoint(cut)


def test_a_gguf_file_that_hides_its_name_is_still_read(tmp_path):
    weights = tiny.make_weights()
    path = tiny.write_gguf(tmp_path / "blob", weights)
    np.testing.assert_array_equal(open_checkpoint(path).read("lm_head.weight"), weights["lm_head.weight"])


def test_a_cut_ckpt_is_refused(tmp_path):
    path = tiny.write_ckpt(tmp_path / "tiny.ckpt", tiny.make_weights())
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content[:-5])
    with pytest.raises(CheckpointError, match=r"tiny.ckpt: damaged MindSpore checkpoint"):
        open_checkpoint(path, tiny.CONFIG)


def test_a_cut_safetensors_file_is_refused(tmp_path):
    folder = tiny.write_hf_folder(tmp_path / "hf", tiny.make_weights())
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="damaged safetensors file"):
        open_checkpoint(folder)


def test_an_hf_folder_without_weights_is_refused(tmp_path):
    folder = tiny.write_hf_folder(tmp_path / "hf", tiny.make_weights())
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor model.safetensors.index.json"):
        open_checkpoint(folder)


def test_a_missing_shard_is_named(tmp_path):
    folder = tiny.write_hf_folder(tmp_path / "hf", tiny.make_weights(), shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003.safetensors: this shard"):
        open_checkpoint(folder)


def test_an_index_that_names_a_tensor_nobody_holds(tmp_path):
    folder = tiny.write_hf_folder(tmp_path / "hf", tiny.make_weights(), shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.layers.9.mlp.up_proj.weight"] = "model-00001-of-00002.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"lacks tensor model.layers.9.mlp.up_proj.weight"):
        open_checkpoint(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": ["a"]}', '{"weight_map": {"a": 3}}'])
def test_an_index_that_is_none(content, tmp_path):
    folder = tiny.write_hf_folder(tmp_path / "hf", tiny.make_weights(), shards=2)
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(
        CheckpointError, match=r"model.safetensors.index.json: (not an index|not readable|holds a list)"
    ):
        open_checkpoint(folder)


def test_a_tensor_in_two_files_is_refused(tmp_path):
    for name in ("a", "b"):
        safetensors.numpy.save_file({"lm_head.weight": np.zeros((50, 32))}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"b.safetensors: tensor lm_head.weight is in another file"):
        open_checkpoint(tmp_path, tiny.CONFIG)


def test_mindspore_is_imported_only_for_its_own_files(tmp_path):
    path = tiny.write_gguf(tmp_path / "tiny.gguf", tiny.make_weights())
    program = (
        "import sys\n"
        "from mindspore_paged.tokenizer import load_tokenizer\n"
        "from mindspore_paged.weights.checkpoint import open_checkpoint\n"
        f"checkpoint = open_checkpoint({str(path)!r})\n"
        "load_tokenizer(checkpoint.tokenizer_source)\n"
        "print('mindspore' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
