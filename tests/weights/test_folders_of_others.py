"""Hugging Face folders as others write them: read as transformers reads them, or named for what they are."""

import json

import numpy as np
import pytest
import safetensors.numpy

from mindspore_paged.errors import CheckpointError
from mindspore_paged.weights.check import check_weights
from mindspore_paged.weights.checkpoint import open_checkpoint
from tests.weights import tiny

INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def weights():
    return tiny.make_weights()


@pytest.fixture
def sharded(tmp_path, weights):
    return tiny.write_hf_folder(tmp_path / "hf", weights, shards=2)


@pytest.fixture
def single(tmp_path, weights):
    return tiny.write_hf_folder(tmp_path / "hf", weights)


def add_to(path, tensors):
    safetensors.numpy.save_file(safetensors.numpy.load_file(path) | tensors, path)


def assert_equal(checkpoint, weights):
    check_weights(checkpoint, tiny.expected_shapes())
    for name, written in weights.items():
        np.testing.assert_array_equal(checkpoint.read(name), written, err_msg=name)


@pytest.mark.parametrize(
    "more",
    [
        {"model.norm.weight": np.full(32, 7.0, np.float32)},
        {"model.norm.weight": np.full((3, 5), 7.0, np.float16)},
        {"mtp.fc.weight": np.ones((4, 4), np.float32)},
        {"model.layers.9.mlp.up_proj.weight": np.ones((4, 4), np.float32)},
    ],
    ids=["stale copy", "stale copy of another shape", "unnamed", "unnamed layer"],
)
@pytest.mark.parametrize("shard", [1, 2])
def test_an_index_says_what_is_part_of_the_checkpoint(sharded, weights, shard, more):
    weight_map = json.loads((sharded / INDEX).read_text())["weight_map"]
    file = f"model-{shard:05}-of-00002.safetensors"
    add_to(sharded / file, {name: values for name, values in more.items() if weight_map.get(name) != file})
    assert_equal(open_checkpoint(sharded), weights)


def test_the_single_file_comes_before_the_index(sharded, weights):
    safetensors.numpy.save_file({name: values * 2 for name, values in weights.items()}, sharded / "model.safetensors")
    assert_equal(open_checkpoint(sharded), {name: values * 2 for name, values in weights.items()})


@pytest.mark.parametrize(
    "shard",
    [
        "../other.safetensors",
        "/etc/passwd",
        "..",
        "",
        "a\0.safetensors",
        "sub/x.safetensors",
        "x" * 50000,
        "config.json",
        "x" * 300 + ".safetensors",
        ".hidden.safetensors",
        "~/x.safetensors",
        "model\n.safetensors",
        "model\x1b[31m.safetensors",
        "model\ud800.safetensors",
    ],
)
def test_a_shard_is_a_file_beside_the_index(sharded, weights, shard):
    safetensors.numpy.save_file(weights, sharded.parent / "other.safetensors")
    names = dict.fromkeys(weights, shard)
    (sharded / INDEX).write_text(json.dumps({"weight_map": names}))
    with pytest.raises(CheckpointError, match=rf"{INDEX}: names .* as a shard") as error:
        open_checkpoint(sharded)
    assert_one_short_line(error)


def assert_one_short_line(error):
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


def test_links_as_in_the_caches_of_the_hub(sharded, weights):
    blobs = sharded.parent / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(sharded.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    assert_equal(open_checkpoint(sharded), weights)


def test_a_model_that_was_saved_without_its_head(single, weights):
    """transformers reads it too: the names lack `model.`."""
    tied = {name.removeprefix("model."): values for name, values in weights.items() if name != "lm_head.weight"}
    safetensors.numpy.save_file(tied, single / "model.safetensors")
    (single / "config.json").write_text(json.dumps(tiny.HF_CONFIG | {"tie_word_embeddings": True}))
    checkpoint = open_checkpoint(single)
    for name, values in tied.items():
        np.testing.assert_array_equal(checkpoint.read(f"model.{name}"), values)


def test_names_of_a_wrapper_are_named(single, weights):
    wrapped = {f"base_model.model.{name}": values for name, values in weights.items()}
    safetensors.numpy.save_file(wrapped, single / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing.*names begin with base_model.model., which is another"):
        open_checkpoint(single)


@pytest.mark.parametrize(
    ("quantization", "method"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes'"),
        ({}, "None"),
        ("gptq", "'gptq'"),
        (["x" * 9999], "x"),
    ],
)
def test_quantized_weights_are_named(tmp_path, weights, quantization, method):
    folder = tiny.write_hf_folder(tmp_path / "hf", weights, quantization_config=quantization)
    with pytest.raises(CheckpointError, match=f"config.json: the weights are quantized by .*{method}") as error:
        open_checkpoint(folder)
    assert_one_short_line(error)


def test_tensors_of_types_that_are_not_read_are_named(single):
    tensors = {name: {"dtype": "F8_E5M2", "shape": list(shape)} for name, shape in tiny.expected_shapes().items()}
    offset = 0
    for entry in tensors.values():
        size = int(np.prod(entry["shape"]))
        entry["data_offsets"] = [offset, offset + size]
        offset += size
    header = json.dumps(tensors).encode()
    (single / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(offset))
    with pytest.raises(
        CheckpointError, match="model.safetensors: tensor .* is of type F8_E5M2, which is not read; read are F64, F32"
    ):
        check_weights(open_checkpoint(single), tiny.expected_shapes())


FOREIGN = {
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n": "a Git LFS pointer",
    b"\n<!DOCTYPE html><html></html>": "an HTML page",
    b"PK\x03\x04" + bytes(60): "a ZIP archive or a PyTorch file",
    b"\x80\x02}q\x00." + bytes(60): "a Python pickle",
    b"GGUF\x03" + bytes(60): "a GGUF file under another name",
}


@pytest.mark.parametrize("content", FOREIGN, ids=FOREIGN.values())
def test_other_files_in_the_place_of_weights_are_named(single, content):
    (single / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"model.safetensors: {FOREIGN[content]}"):
        open_checkpoint(single)
    (single / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"config.json: {FOREIGN[content]}"):
        open_checkpoint(single)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"adapter_config.json": "{}", "adapter_model.safetensors": "x"}, "an adapter .LoRA., not a model: merge it"),
        ({"pytorch_model-00001-of-00002.bin": "x"}, "pytorch_model-00001-of-00002.bin is a PyTorch file"),
        ({"consolidated.00.pth": "x"}, "consolidated.00.pth is a PyTorch file"),
        ({"snapshots/ab12/config.json": "{}"}, "a cache of the Hub: the model is in snapshots/ab12"),
        ({}, "it is empty"),
    ],
)
@pytest.mark.parametrize("with_config", [False, True])
def test_folders_that_nobody_can_read_are_named(tmp_path, files, message, with_config):
    if with_config and files:
        files = {"config.json": json.dumps(tiny.HF_CONFIG)} | files
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=message) as error:
        open_checkpoint(tmp_path)
    assert_one_short_line(error)
    assert "damaged" not in str(error.value)


DEEP = "[" * 100000
BAD_JSON = [DEEP, '{"a": ' * 100000, b"\xff\xfe", "{", "", "null", "[]", '"x"', "9" * 5000, '{"a": ' + "9" * 5000 + "}"]


@pytest.mark.parametrize("content", BAD_JSON, ids=range(len(BAD_JSON)))
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", INDEX])
def test_json_that_is_none(sharded, name, content):
    (sharded / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=name) as error:
        open_checkpoint(sharded)
    assert_one_short_line(error)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", INDEX])
def test_a_folder_in_the_place_of_a_file(sharded, name):
    (sharded / name).unlink(missing_ok=True)
    (sharded / name).mkdir()
    with pytest.raises(CheckpointError):
        open_checkpoint(sharded)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_file_of_absurd_size_is_not_read(sharded, name):
    with (sharded / name).open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(CheckpointError, match=f"{name}: has more than"):
        open_checkpoint(sharded)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 2048.5}, "hidden_size is 2048.5; it must be a whole number"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"vocab_size": 2**40}, "vocab_size is 1099511627776; it must be less than or equal to"),
        ({"vocab_size": 10**4000}, "vocab_size is a number of 13288 bits"),
        ({"num_hidden_layers": 2**24}, r"model.layers.16777215.input_layernorm.weight is missing"),
        ({"intermediate_size": 2**24}, r"gate_proj.weight has shape \(64, 32\); the model needs"),
        ({"num_attention_heads": -8}, "num_attention_heads is -8"),
        ({"num_attention_heads": 64}, "head_dim is 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps is inf"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps is"),
        ({"rms_norm_eps": []}, "rms_norm_eps is .*a number"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'"),
        ({"bos_token_id": -2}, "bos_token_id is -2"),
        ({"bos_token_id": [1]}, "bos_token_id is"),
        ({"bos_token_id": 2**63}, "bos_token_id is 9223372036854775808"),
        ({"eos_token_id": -7}, "eos_token_id is -7"),
        ({"eos_token_id": {"a": 1}}, "eos_token_id is {'a': 1}"),
        ({"eos_token_id": [2, [3]]}, r"eos_token_id is \[3\]"),
        ({"eos_token_id": 1e300}, "eos_token_id is 1000"),
        ({"hidden_act": ["silu"]}, "hidden_act is"),
        ({"model_type": {"a": "b" * 9999}}, "model_type is"),
    ],
)
def test_values_that_no_model_has(tmp_path, weights, changes, message):
    folder = tiny.write_hf_folder(tmp_path / "hf", weights, **changes)
    with pytest.raises(CheckpointError, match=message) as error:
        open_checkpoint(folder)
    assert_one_short_line(error)


def test_whole_floats_are_whole_numbers_and_null_is_absent(tmp_path, weights):
    floats = {key: float(value) for key, value in tiny.HF_CONFIG.items() if type(value) is int}
    nulls = dict.fromkeys(("head_dim", "hidden_act", "attention_bias", "mlp_bias", "quantization_config"))
    folder = tiny.write_hf_folder(tmp_path / "hf", weights, **floats, **nulls)
    assert open_checkpoint(folder).model_config == tiny.CONFIG


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        (2, [7, 2], (7, 2)),
        ([5, 6], 7, (7, 5, 6)),
        (None, [3.0], (3,)),
        (-1, -1, ()),
        (50, None, (50,)),
        ([2, -1], None, (2,)),
    ],
)
def test_the_ends_of_both_files_count(tmp_path, weights, config, generation, ends):
    """As vLLM takes them; -1 is none, and an id beyond the vocabulary never comes."""
    folder = tiny.write_hf_folder(tmp_path / "hf", weights, eos_token_id=config, bos_token_id=-1)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    described = open_checkpoint(folder).model_config
    assert (described.bos_token_id, described.eos_token_ids) == (None, ends)


def header_of(single):
    content = (single / "model.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def with_header(single, header, data):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    (single / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)


def shifted(header):
    header["model.norm.weight"]["data_offsets"] = header["lm_head.weight"]["data_offsets"]


def negative(header):
    header["model.norm.weight"]["shape"] = [-32]


def wrapped(header):
    header["model.norm.weight"]["shape"] = [2**62, 4, 32]


def beyond(header):
    start, stop = header["model.norm.weight"]["data_offsets"]
    header["model.norm.weight"]["data_offsets"] = [start + 2**40, stop + 2**40]


def unknown_dtype(header):
    header["model.norm.weight"]["dtype"] = "\0\x1b[31m"


@pytest.mark.parametrize("change", [shifted, negative, wrapped, beyond, unknown_dtype])
def test_a_table_of_tensors_that_lies(single, change):
    header, data = header_of(single)
    change(header)
    with_header(single, header, data)
    with pytest.raises(CheckpointError, match="model.safetensors: damaged safetensors file") as error:
        open_checkpoint(single)
    assert_one_short_line(error)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        b"\xff" * 64,
        (2**30).to_bytes(8, "little") + bytes(64),
        b"\x02" + bytes(7) + b"[]",
        (100000).to_bytes(8, "little") + b"[" * 100000,
        (100000).to_bytes(8, "little") + b'{"a":' * 20000,
        (8).to_bytes(8, "little") + b'{"\xff\xfe": ',
    ],
    ids=range(8),
)
def test_files_that_are_no_safetensors(single, content):
    (single / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model.safetensors: damaged safetensors file") as error:
        open_checkpoint(single)
    assert_one_short_line(error)


def test_a_table_of_tensors_is_bounded(single):
    with_header(single, b"{".ljust(17 * 2**20), b"")
    with pytest.raises(CheckpointError, match="its header has 17825792 bytes; allowed: 16777216"):
        open_checkpoint(single)
