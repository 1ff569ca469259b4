"""Rows where a file has them, against what is read of it in copies; and that no copy of them is made."""

import re
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from mindspore_paged.formats.weight_format import FORMATS
from mindspore_paged.tensor_parallel import TensorParallel
from mindspore_paged.weights import packing
from mindspore_paged.weights.bfloat16 import BFLOAT16
from mindspore_paged.weights.checkpoint import open_checkpoint
from mindspore_paged.weights.gguf_checkpoint import GgufCheckpoint
from mindspore_paged.weights.packing import parts_of, read_packed, stored_format
from mindspore_paged.weights.sharded_checkpoint import ShardedCheckpoint
from mindspore_paged.weights.stored_rows import RowSource
from tests.weights import tiny

Quantization = gguf.GGMLQuantizationType
MATRICES = [name for name, shape in tiny.expected_shapes().items() if len(shape) == 2]
FLOATS = {"float32": np.float32, "float16": np.float16, "bfloat16": BFLOAT16}
QUERIES, DOWN, HEAD = "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj", "lm_head.weight"


def gathered(checkpoint, name, form):
    """A tensor put together of its parts, as a model takes them; and the parts."""
    whole = np.zeros(form.stored_shape(checkpoint.shape(name)), form.dtype)
    parts = []
    for part in parts_of(checkpoint, name, form):
        assert part.rows.start % packing.ROWS_TOGETHER == 0
        whole[part.rows] = part.stored if part.order is None else part.stored[part.order]
        parts.append(part)
    assert [part.rows.start for part in parts] == [0, *(part.rows.stop for part in parts[:-1])]
    assert parts[-1].rows.stop == len(whole)
    return whole, parts


def write(path, kind):
    """The tiny model with biases of q, in one type of floats or with all matrices in one quantization."""
    if kind in FLOATS:
        return tiny.write_gguf(path, tiny.make_weights(FLOATS[kind]) | tiny.make_biases("q_proj", dtype=FLOATS[kind]))
    weights = tiny.make_weights() | tiny.make_biases("q_proj")
    return tiny.write_gguf(path, weights, quantize=dict.fromkeys(MATRICES, Quantization[kind]))


@pytest.mark.parametrize("rows_at_once", [16, 1000])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", [*FLOATS, "Q8_0", "Q4_0"])
def test_every_tensor_is_what_is_read_in_copies(kind, size, rows_at_once, tmp_path, monkeypatch):
    """Of any rank: whole rows, cut columns, a vocabulary filled up, columns that cut blocks."""
    monkeypatch.setattr(packing, "BYTES_OF_A_PART", rows_at_once * 32)
    whole = open_checkpoint(write(tmp_path / "a.gguf", kind))
    for rank in range(size):
        checkpoint = ShardedCheckpoint(whole, TensorParallel(rank, size).cuts(tiny.CONFIG)) if size > 1 else whole
        assert isinstance(checkpoint, RowSource)
        for name in checkpoint.names():
            form = stored_format(checkpoint, name)
            found, _ = gathered(checkpoint, name, form)
            expected = read_packed(checkpoint, name, form)
            assert (found.dtype, found.tobytes()) == (expected.dtype, expected.tobytes()), name


@pytest.mark.parametrize("kind", ["float16", "Q8_0"])
def test_they_are_the_files_own_bytes(kind, tmp_path):
    """Also a rank's rows and columns, and the rows of q, whose order is said beside them."""
    whole = open_checkpoint(write(tmp_path / "a.gguf", kind))
    part = ShardedCheckpoint(whole, TensorParallel(1, 2).cuts(tiny.CONFIG))
    for checkpoint in (whole, part):
        for name in (f"{QUERIES}.weight", f"{DOWN}.weight", HEAD, "model.norm.weight"):
            stored = checkpoint.stored_rows(name)
            assert not stored.rows.flags.owndata
            assert not stored.rows.flags.writeable
            assert np.shares_memory(stored.rows, whole._tensors[name].data)
            assert (stored.order is not None) == ("q_proj" in name)


def test_what_has_to_be_made_is_made(tmp_path):
    """Blocks that a rank's columns cut, rows that fill up a vocabulary, and other formats."""
    whole = open_checkpoint(write(tmp_path / "a.gguf", "Q8_0"))
    cut = ShardedCheckpoint(whole, TensorParallel(3, 4).cuts(tiny.CONFIG))
    assert cut.stored_rows(f"{DOWN}.weight") is None  # 16 of its columns
    assert cut.stored_rows(HEAD) is None  # 50 tokens of 52
    assert ShardedCheckpoint(whole, TensorParallel(0, 4).cuts(tiny.CONFIG)).stored_rows(HEAD) is not None
    for name in ("float32", "bfloat16", "Q4_0"):
        found, _ = gathered(whole, f"{QUERIES}.weight", FORMATS[name])
        np.testing.assert_array_equal(found, read_packed(whole, f"{QUERIES}.weight", FORMATS[name]))


def test_other_checkpoints_are_read_as_ever(tmp_path):
    checkpoint = open_checkpoint(tiny.WRITERS["hf"](tmp_path / "hf", tiny.make_weights(np.float16)))
    assert not isinstance(checkpoint, RowSource)
    for name in ("float32", "float16", "int8"):
        found, _ = gathered(checkpoint, HEAD, FORMATS[name])
        np.testing.assert_array_equal(found, read_packed(checkpoint, HEAD, FORMATS[name]))


def in_memory_of_files() -> int:
    """Bytes of files that this process has mapped and looked at."""
    return int(re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def test_neither_copies_nor_the_file_stay_in_memory(tmp_path, monkeypatch):
    """A model of 47 MB: of each tensor a MB at a time."""
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    for key, value in tiny.gguf_metadata().items():
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
    names = ["token_embd.weight", *(f"blk.{layer}.ffn_{kind}.weight" for layer in range(2) for kind in ("gate", "up"))]
    random = np.random.default_rng(0)
    stored = {name: random.integers(0, 60, (4096, 68 * 34), np.uint8) for name in names}
    for name, blocks in stored.items():
        writer.add_tensor(name, blocks, raw_dtype=Quantization.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    monkeypatch.setattr(packing, "BYTES_OF_A_PART", 2**20)
    checkpoint = GgufCheckpoint(tmp_path / "a.gguf")
    before, most = in_memory_of_files(), 0
    tracemalloc.start()
    for name in checkpoint.names():
        for part in parts_of(checkpoint, name, FORMATS["int8"]):
            assert (part.stored == stored[checkpoint._tensors[name].name][part.rows]).all(axis=1)[[0, -1]].all()
            most = max(most, in_memory_of_files() - before)
    allocated = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(blocks.nbytes for blocks in stored.values()) > 45e6
    assert most < 12e6
    assert allocated < 8e6
