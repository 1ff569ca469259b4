"""A folder of rank_0, rank_1, … as MindFormers saves it: each rank opens its own, and what does not fit is refused."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from mindspore_paged.errors import CheckpointError, ConfigError
from mindspore_paged.tensor_parallel import TensorParallel
from mindspore_paged.weights.check import check_weights
from mindspore_paged.weights.checkpoint import open_checkpoint
from mindspore_paged.weights.sharded_checkpoint import ShardedCheckpoint
from tests.weights import tiny
from tests.weights.parts import assert_same, expected_shapes, part_by_hand

SUMMED_BIASES = ("o_proj.bias", "down_proj.bias")


def whole_tables(name):
    return name.startswith(("model.embed_tokens", "lm_head"))


def saved_by(rank, size, weights, cut_vocab, qkv_concat):
    """What MindFormers saves on `rank`: fused matrices are cut by rows as they stand, the vocabulary if asked."""

    def is_whole(name):
        return (whole_tables(name) and not cut_vocab) or name.endswith(SUMMED_BIASES)

    if not qkv_concat:
        parts = {
            name: values if is_whole(name) else part_by_hand(name, values, rank, size)
            for name, values in weights.items()
        }
        return tiny.to_mindformers(parts, qkv_concat=False)
    parts = {}
    for name, values in tiny.to_mindformers(weights, qkv_concat=True).items():
        by_rows = name.endswith(("w_qkv.weight", "w_qkv.bias", "w_gate_hidden.weight")) or (
            cut_vocab and name.endswith(("embedding_weight", "lm_head.weight"))
        )
        axis = 0 if by_rows else 1 if name.endswith(("wo.weight", "w2.weight")) else None
        parts[name] = values if axis is None else np.split(values, size, axis)[rank]
    return parts


def write_folders(root, size, weights, suffix=".safetensors", cut_vocab=True, qkv_concat=False):
    for rank in range(size):
        folder = root / f"rank_{rank}"
        folder.mkdir(parents=True)
        saved = saved_by(rank, size, weights, cut_vocab, qkv_concat)
        if suffix == ".ckpt":
            tiny.write_ckpt(folder / f"llama_rank_{rank}-1_1.ckpt", saved)
        else:
            # save_file writes the memory of an array as it lies, whatever its strides are.
            contiguous = {name: np.ascontiguousarray(values) for name, values in saved.items()}
            safetensors.numpy.save_file(contiguous, folder / f"llama_rank_{rank}-1_1.safetensors")
    return root


@pytest.fixture
def folders(tmp_path):
    return write_folders(tmp_path / "ranks", 2, tiny.make_weights())


@pytest.mark.parametrize(
    ("size", "suffix", "cut_vocab", "qkv_concat", "dtype"),
    [
        (2, ".safetensors", True, False, np.float32),
        (2, ".safetensors", False, True, ml_dtypes.bfloat16),
        (2, ".ckpt", True, True, np.float32),
        (2, ".ckpt", False, False, ml_dtypes.bfloat16),
        (4, ".safetensors", False, False, np.float16),  # 4 ranks do not divide 50 tokens: saved whole
        (4, ".ckpt", False, False, np.float32),
        (8, ".safetensors", False, False, np.float32),
    ],
)
def test_each_rank_finds_its_parts(tmp_path, size, suffix, cut_vocab, qkv_concat, dtype):
    weights = tiny.make_weights(dtype)
    write_folders(tmp_path / "ranks", size, weights, suffix, cut_vocab, qkv_concat)
    for rank in range(size):
        checkpoint = open_checkpoint(tmp_path / "ranks", tiny.CONFIG, TensorParallel(rank, size))
        assert isinstance(checkpoint, ShardedCheckpoint)
        assert sorted(checkpoint.names()) == sorted(weights)
        check_weights(checkpoint, expected_shapes(size))
        for name, values in weights.items():
            assert checkpoint.dtype(name) == dtype
            assert_same(checkpoint.read(name), part_by_hand(name, values, rank, size), f"{name}, rank {rank} of {size}")


def test_one_rank_is_a_folder_like_any_other(tmp_path):
    weights = tiny.make_weights()
    (tmp_path / "rank_0").mkdir()
    safetensors.numpy.save_file(tiny.to_mindformers(weights, qkv_concat=True), tmp_path / "rank_0" / "a.safetensors")
    checkpoint = open_checkpoint(tmp_path, tiny.CONFIG)
    check_weights(checkpoint, tiny.expected_shapes())
    for name, values in weights.items():
        assert_same(checkpoint.read(name), values, name)


def test_what_the_folder_says_of_the_model(folders):
    """Bare weights describe none; a config.json beside the ranks' folders does. The tokenizer is beside them too."""
    bare = open_checkpoint(folders, tiny.CONFIG, TensorParallel(1, 2))
    assert (bare.path, bare.model_config, bare.tokenizer_source) == (folders / "rank_1", None, folders)
    with pytest.raises(CheckpointError, match="do not describe their model"):
        open_checkpoint(folders, None, TensorParallel(1, 2))

    tiny.write_hf_folder(folders, {})
    described = open_checkpoint(folders, None, TensorParallel(1, 2))
    assert described.model_config == tiny.CONFIG
    check_weights(described, expected_shapes(2))


@pytest.mark.parametrize(("rank", "size"), [(0, 1), (3, 4), (0, 8)])
def test_another_number_of_ranks_is_refused_with_both_numbers(folders, rank, size):
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(folders, tiny.CONFIG, TensorParallel(rank, size))
    assert str(error.value) == (
        f"{folders}: holds 2 rank folders, but parallel.tensor_parallel_size is {size}; the two must be equal"
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_a_missing_rank_folder_is_named_on_every_rank(folders, rank):
    (folders / "rank_1").rename(folders / "rank_2")
    with pytest.raises(CheckpointError, match=r"rank_1: no such folder; 2 ranks need rank_0 to rank_1$"):
        open_checkpoint(folders, tiny.CONFIG, TensorParallel(rank, 2))


def test_other_names_are_no_rank_folders(folders):
    (folders / "rank_x").mkdir()
    (folders / "rank_02").mkdir()
    (folders / "rank_2").write_text("a file")
    check_weights(open_checkpoint(folders, tiny.CONFIG, TensorParallel(0, 2)), expected_shapes(2))


def test_an_empty_rank_folder_is_refused(folders):
    next((folders / "rank_1").iterdir()).unlink()
    with pytest.raises(CheckpointError, match=r"rank_1: holds no config.json, no .ckpt and no .safetensors"):
        open_checkpoint(folders, tiny.CONFIG, TensorParallel(1, 2))


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_file_cut_short_is_named(tmp_path, suffix):
    folders = write_folders(tmp_path / "ranks", 2, tiny.make_weights(), suffix)
    file = next((folders / "rank_1").iterdir())
    content = file.read_bytes()
    file.chmod(0o600)
    file.write_bytes(content[:-5])
    with pytest.raises(CheckpointError, match=rf"rank_1/llama_rank_1-1_1\{suffix}: damaged"):
        open_checkpoint(folders, tiny.CONFIG, TensorParallel(1, 2))


@pytest.mark.parametrize(
    ("stored_name", "name", "wrong"),
    [
        ("model.layers.0.attention.wo.weight", "model.layers.0.self_attn.o_proj.weight", (32, 32)),
        ("model.layers.1.feed_forward.w1.weight", "model.layers.1.mlp.gate_proj.weight", (16, 32)),
        ("lm_head.weight", "lm_head.weight", (26, 32)),
        ("lm_head.weight", "lm_head.weight", (49, 32)),
        ("model.norm_out.weight", "model.norm.weight", (16,)),
    ],
)
def test_a_part_with_the_wrong_shape_is_refused(folders, stored_name, name, wrong):
    file = next((folders / "rank_1").iterdir())
    tensors = safetensors.numpy.load_file(file)
    safetensors.numpy.save_file(tensors | {stored_name: np.zeros(wrong, np.float32)}, file)
    checkpoint = open_checkpoint(folders, tiny.CONFIG, TensorParallel(1, 2))
    with pytest.raises(CheckpointError, match="the model needs") as error:
        check_weights(checkpoint, expected_shapes(2))
    assert f"rank_1: tensor {name} has shape {wrong}; the model needs {expected_shapes(2)[name]}" in str(error.value)


def test_a_fused_part_with_the_wrong_shape_is_refused(tmp_path):
    folders = write_folders(tmp_path / "ranks", 2, tiny.make_weights(), qkv_concat=True)
    other = replace(tiny.CONFIG, num_key_value_heads=4)
    with pytest.raises(CheckpointError, match=r"w_qkv.weight has shape \(24, 32\); the model needs \(32, 32\)"):
        open_checkpoint(folders, other, TensorParallel(1, 2))


def test_ranks_that_cannot_share_the_model_are_refused(tmp_path):
    for rank in range(3):
        (tmp_path / f"rank_{rank}").mkdir()
        safetensors.numpy.save_file({"a": np.zeros(1)}, tmp_path / f"rank_{rank}" / "a.safetensors")
    with pytest.raises(ConfigError, match="is 3; it must divide the model's num_attention_heads, 8"):
        open_checkpoint(tmp_path, tiny.CONFIG, TensorParallel(0, 3))
