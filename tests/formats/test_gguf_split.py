"""A model in several GGUF files is the model in one; parts that do not belong together are named."""

import shutil

import gguf
import numpy as np
import pytest

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.gguf_file import GgufFile
from mindspore_paged.tensor_parallel import TensorParallel
from mindspore_paged.tokenizer import load_tokenizer
from mindspore_paged.weights.checkpoint import open_checkpoint
from mindspore_paged.weights.sharded_checkpoint import ShardedCheckpoint
from tests.formats.gguf_bytes import gguf_bytes, uint32
from tests.tokenizer.vocabularies import small_bpe
from tests.weights import tiny

QUANTIZED = {"model.layers.1.mlp.up_proj.weight": gguf.GGMLQuantizationType.Q8_0}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The same model as whole.gguf and as m-0000N-of-00003.gguf."""
    folder = tmp_path_factory.mktemp("split")
    vocabulary = small_bpe()
    rows = len(vocabulary["tokens"])
    weights = tiny.make_weights() | {"model.embed_tokens.weight": np.ones((rows, 32), np.float32)}
    metadata = tiny.gguf_metadata(**{f"tokenizer.ggml.{key}": value for key, value in vocabulary.items()})
    tiny.write_gguf(folder / "whole.gguf", weights, metadata, quantize=QUANTIZED)
    tiny.write_gguf(folder / "m.gguf", weights, metadata, quantize=QUANTIZED, split=8)
    return folder


@pytest.fixture
def parts(written, tmp_path):
    paths = sorted(written.glob("m-*.gguf"))
    assert [path.name for path in paths] == [f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    return [shutil.copy(path, tmp_path / path.name) for path in paths]


def test_all_parts_are_one_model(written):
    whole, joined = (open_checkpoint(written / name) for name in ("whole.gguf", "m-00001-of-00003.gguf"))
    assert joined.names() == whole.names()
    assert joined.model_config == whole.model_config
    for name in whole.names():
        np.testing.assert_array_equal(joined.read(name), whole.read(name), strict=True)
    text = "abc<|user|> 1"
    assert load_tokenizer(joined.tokenizer_source).encode(text) == load_tokenizer(whole.tokenizer_source).encode(text)


@pytest.mark.parametrize("rank", [0, 1])
def test_each_rank_gets_its_share_of_all_parts(written, rank):
    checkpoints = [open_checkpoint(written / name) for name in ("whole.gguf", "m-00001-of-00003.gguf")]
    cuts = TensorParallel(rank, 2).cuts(checkpoints[0].model_config)
    shares = [ShardedCheckpoint(checkpoint, cuts) for checkpoint in checkpoints]
    for name in shares[0].names():
        np.testing.assert_array_equal(shares[1].read(name), shares[0].read(name), strict=True)


@pytest.mark.parametrize("number", [2, 3])
def test_another_part_names_the_first(parts, number):
    with pytest.raises(
        CheckpointError, match=rf"is part {number} of 3 of a model; open the first, m-00001-of-00003.gguf"
    ):
        open_checkpoint(parts[number - 1])


@pytest.mark.parametrize("number", [2, 3])
def test_a_missing_part_is_named(parts, number):
    parts[number - 1].unlink()
    with pytest.raises(CheckpointError, match=rf"m-0000{number}-of-00003.gguf: this part of the model is missing"):
        open_checkpoint(parts[0])


def test_a_part_in_the_place_of_another(parts):
    shutil.copy(parts[2], parts[1])
    with pytest.raises(CheckpointError, match=r"m-00002-of-00003.gguf: says it is part 3 of 3, and not 2 of 3"):
        open_checkpoint(parts[0])


def test_a_part_under_another_name(parts):
    renamed = parts[0].rename(parts[0].with_name("model.gguf"))
    with pytest.raises(CheckpointError, match=r"says it is part 1 of 3 .* name does not end in -00001-of-00003.gguf"):
        open_checkpoint(renamed)


def test_a_cut_part_is_named(parts):
    parts[1].write_bytes(parts[1].read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"m-00002-of-00003.gguf: damaged GGUF file"):
        open_checkpoint(parts[0])


def parts_of_two(folder, first=(), second=()):
    """Two parts without tensors; the entries of each come on top of what makes them parts."""
    for number, entries in enumerate((first, second)):
        content = gguf_bytes([uint32("split.no", number), uint32("split.count", 2), *entries])
        (folder / f"x-0000{number + 1}-of-00002.gguf").write_bytes(content)
    return folder / "x-00001-of-00002.gguf"


def test_a_first_part_may_hold_metadata_alone(tmp_path):
    assert GgufFile(parts_of_two(tmp_path, [uint32("key", 5)])).metadata["key"] == 5


def test_another_number_of_tensors_than_promised(tmp_path):
    with pytest.raises(CheckpointError, match="split.tensors.count is 7, but the 2 parts hold 0 tensors"):
        GgufFile(parts_of_two(tmp_path, [uint32("split.tensors.count", 7)]))


def test_a_tensor_in_two_parts(parts):
    first, second = (path.read_bytes() for path in parts[:2])
    name = b"blk.0.attn_q.weight"
    assert name in first
    other = next(n for n in (b"blk.1.attn_q.weight", b"blk.0.ffn_up.weight") if n in second)
    parts[1].write_bytes(second.replace(other, name))
    with pytest.raises(CheckpointError, match="is in a part before it too"):
        open_checkpoint(parts[0])


@pytest.mark.parametrize("count", [4_000_000_000, 100_000])
def test_more_parts_than_there_can_be(tmp_path, count):
    path = tmp_path / "x-00001-of-00002.gguf"
    path.write_bytes(gguf_bytes([uint32("split.no", 0), uint32("split.count", count)]))
    with pytest.raises(CheckpointError, match=rf"split.count is {count}; it must be less than"):
        GgufFile(path)


def test_one_part_is_a_whole_model(tmp_path):
    path = tmp_path / "any.gguf"
    path.write_bytes(gguf_bytes([uint32("split.no", 0), uint32("split.count", 1)]))
    assert GgufFile(path).tensors == {}
