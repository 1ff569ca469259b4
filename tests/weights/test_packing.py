"""How weights are held: shapes and numbers of each form, and the blocks of a GGUF file, which stay as they are."""

import gguf
import numpy as np
import pytest

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.weight_format import BF16, BLOCK_FORMATS, FLOAT16, FLOAT32, FORMATS, INT8, Q4_0, Q4_1
from mindspore_paged.tensor_parallel import Cut, TensorParallel
from mindspore_paged.weights.bfloat16 import BFLOAT16
from mindspore_paged.weights.checkpoint import open_checkpoint
from mindspore_paged.weights.packing import BlockSource, formats_of, read_packed, stored_format
from mindspore_paged.weights.random_checkpoint import RandomCheckpoint
from mindspore_paged.weights.sharded_checkpoint import ShardedCheckpoint
from tests.weights import tiny
from tests.weights.parts import PADDED_VOCAB

Quantization = gguf.GGMLQuantizationType
BLOCKS = {"int8": Quantization.Q8_0, "Q4_0": Quantization.Q4_0, "Q4_1": Quantization.Q4_1}
LAYER = "model.layers.1."
MATRICES = [name for name, shape in tiny.expected_shapes().items() if len(shape) == 2]
FLOATS = {"float32": np.float32, "float16": np.float16, "bfloat16": BFLOAT16}


def write(path, quantization, weights=None):
    """The tiny model with all matrices in one quantization."""
    return tiny.write_gguf(path, weights or tiny.make_weights(), quantize=dict.fromkeys(MATRICES, quantization))


def in_gguf_order(name, weights):
    """Rows as a GGUF file has them."""
    heads = {"q_proj": 8, "k_proj": 2}.get(name.removesuffix(".weight").rsplit(".", 1)[-1])
    return tiny.interleave_rows(weights, heads) if heads else weights


def blocks_of(weights, quantization):
    """A row's blocks do not depend on its place, so those of a row can be had without the file."""
    return gguf.quantize(weights, quantization)


@pytest.mark.parametrize(
    ("name", "kind", "row_bytes"),
    [
        ("float32", 0, None),
        ("float16", 1, None),
        ("bfloat16", 30, None),
        ("int8", 8, 34),
        ("Q4_0", 2, 18),
        ("Q4_1", 3, 20),
    ],
)
def test_shapes_in_memory(name, kind, row_bytes):
    form = FORMATS[name]
    assert form.kind == kind
    for shape in ((5, 32), (3, 96), (2, 7, 64)):
        stored = form.stored_shape(shape)
        assert stored == (shape if row_bytes is None else (*shape[:-1], shape[-1] // 32 * row_bytes))
        assert form.logical_shape(stored) == shape
        packed = form.pack(np.ones(shape, np.float32))
        assert packed.shape == stored
        assert packed.dtype == form.dtype


def test_a_kind_leads_to_its_blocks_which_are_as_long_as_ggufs():
    assert (BLOCK_FORMATS[8], BLOCK_FORMATS[2], BLOCK_FORMATS[3]) == (INT8, Q4_0, Q4_1)
    for kind, form in BLOCK_FORMATS.items():
        assert FORMATS[form.name] is form
        if kind < 100:
            assert (form.group, form.block_bytes) == gguf.GGML_QUANT_SIZES[kind]


@pytest.mark.parametrize("name", BLOCKS)
def test_rows_that_blocks_do_not_divide(name):
    with pytest.raises(CheckpointError) as caught:
        FORMATS[name].stored_shape((4, 48))
    assert str(caught.value) == (
        f"a weight of shape (4, 48) cannot be held as {name}: its rows must be a multiple of 32 long"
    )


@pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
@pytest.mark.parametrize("name", [*FLOATS, "int8", "Q4_1"])
def test_pack_rounds_as_gguf_and_numpy_do(name, dtype):
    weights = np.random.default_rng(0).normal(size=(6, 64)).astype(dtype)[::2]  # with gaps between the rows
    packed = FORMATS[name].pack(weights)
    if name in BLOCKS:
        np.testing.assert_array_equal(packed, gguf.quantize(weights.astype(np.float32), BLOCKS[name]))
    else:
        np.testing.assert_array_equal(packed, weights.astype(FLOATS[name]))
    assert packed.flags.c_contiguous


def test_formats_that_a_configuration_asks_for(tmp_path):
    names = {
        MATRICES[0]: Quantization.Q8_0, MATRICES[1]: Quantization.Q4_0, MATRICES[2]: Quantization.Q4_1,
        MATRICES[3]: Quantization.Q5_1,
    }  # fmt: skip
    checkpoint = open_checkpoint(tiny.write_gguf(tmp_path / "a.gguf", tiny.make_weights(), quantize=names))
    stored = formats_of(checkpoint, "stored", "float32")
    assert [stored(name) for name in MATRICES[:5]] == [INT8, Q4_0, Q4_1, FORMATS["Q5_1"], FLOAT32]
    assert [stored(name) for name in MATRICES[:5]] == [stored_format(checkpoint, name) for name in MATRICES[:5]]
    for dtype, form in (("float32", FLOAT32), ("float16", FLOAT16), ("bfloat16", BF16)):
        assert [formats_of(checkpoint, "auto", dtype)(name) for name in MATRICES[3:5]] == [FORMATS["Q5_1"], form]
        assert formats_of(None, "auto", dtype)(MATRICES[0]) == form
        assert formats_of(None, "stored", dtype)(MATRICES[0]) == form
        assert formats_of(checkpoint, dtype, "float32")(MATRICES[0]) == form
    assert formats_of(checkpoint, "int8", "float32")(MATRICES[4]) == INT8
    assert formats_of(checkpoint, "int4", "float32")(MATRICES[0]) == Q4_0


@pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
@pytest.mark.parametrize("kind", ["gguf", "hf"])
def test_floats_are_held_as_they_are_stored(kind, dtype, tmp_path):
    weights = tiny.make_weights(dtype)
    checkpoint = open_checkpoint(tiny.WRITERS[kind](tmp_path / kind, weights))
    form = formats_of(checkpoint, "stored", "float32")(MATRICES[0])
    assert form.dtype == dtype
    np.testing.assert_array_equal(read_packed(checkpoint, MATRICES[0], form), weights[MATRICES[0]])


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_come_out_as_they_went_in(name, tmp_path):
    """Rows of q and k in rotate-half order, by themselves unchanged."""
    weights = tiny.make_weights()
    checkpoint = open_checkpoint(write(tmp_path / "a.gguf", BLOCKS[name], weights))
    assert isinstance(checkpoint, BlockSource)
    for tensor in MATRICES:
        form = stored_format(checkpoint, tensor)
        assert form == FORMATS[name]
        packed = read_packed(checkpoint, tensor, form)
        assert packed.flags.c_contiguous
        assert packed.flags.writeable
        assert packed.shape == form.stored_shape(weights[tensor].shape)
        np.testing.assert_array_equal(packed, blocks_of(weights[tensor], BLOCKS[name]), err_msg=tensor)
        np.testing.assert_array_equal(gguf.dequantize(packed, BLOCKS[name]), checkpoint.read(tensor), err_msg=tensor)
    assert checkpoint.block_format("model.norm.weight") is None


def test_the_file_itself_has_other_rows_of_q_and_k(tmp_path):
    """Else the test above would not tell whether their order was looked at."""
    weights = tiny.make_weights()
    path = write(tmp_path / "a.gguf", Quantization.Q8_0, weights)
    in_file = {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}
    for name in (f"{LAYER}self_attn.q_proj.weight", f"{LAYER}self_attn.k_proj.weight"):
        written = blocks_of(in_gguf_order(name, weights[name]), Quantization.Q8_0)
        np.testing.assert_array_equal(in_file[tiny.gguf_name(name)], written)
        assert (written != blocks_of(weights[name], Quantization.Q8_0)).any()


def test_blocks_that_differ_from_those_wanted_are_rounded_anew(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path / "a.gguf", Quantization.Q4_1))
    for name in (f"{LAYER}self_attn.q_proj.weight", "lm_head.weight"):
        floats = checkpoint.read(name)
        np.testing.assert_array_equal(read_packed(checkpoint, name, INT8), blocks_of(floats, Quantization.Q8_0))
        np.testing.assert_array_equal(read_packed(checkpoint, name, BF16), floats.astype(BFLOAT16))
        np.testing.assert_array_equal(read_packed(checkpoint, name, FLOAT32), floats)


def test_a_checkpoint_without_blocks_is_rounded():
    checkpoint = RandomCheckpoint(tiny.CONFIG, seed=1)
    assert not isinstance(checkpoint, BlockSource)
    assert stored_format(checkpoint, "lm_head.weight").dtype == checkpoint.dtype("lm_head.weight")
    expected = blocks_of(np.asarray(checkpoint.read("lm_head.weight"), np.float32), Quantization.Q8_0)
    np.testing.assert_array_equal(read_packed(checkpoint, "lm_head.weight", INT8), expected)


def sharded(checkpoint, rank, size):
    return ShardedCheckpoint(checkpoint, TensorParallel(rank, size).cuts(tiny.CONFIG))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("size", [2, 4, 8])
def test_a_rank_has_its_rows_of_blocks(name, size, tmp_path):
    """What the rows that it reads as floats are; those that fill up the vocabulary are bytes of zeros, and so zeros."""
    checkpoint = open_checkpoint(write(tmp_path / "a.gguf", BLOCKS[name]))
    by_rows = [tensor for tensor in MATRICES if "o_proj" not in tensor and "down_proj" not in tensor]
    for rank in range(size):
        part = sharded(checkpoint, rank, size)
        for tensor in by_rows:
            packed = read_packed(part, tensor, stored_format(part, tensor))
            assert packed.shape == FORMATS[name].stored_shape(part.shape(tensor))
            assert packed.flags.c_contiguous
            np.testing.assert_array_equal(gguf.dequantize(packed, BLOCKS[name]), part.read(tensor), err_msg=tensor)
    length = PADDED_VOCAB[size] // size
    own = 50 - (size - 1) * length
    assert not read_packed(sharded(checkpoint, size - 1, size), "lm_head.weight", FORMATS[name])[own:].any()


@pytest.mark.parametrize("name", BLOCKS)
def test_a_rank_has_its_columns_of_blocks(name, tmp_path):
    """64 columns for two ranks: a block each."""
    weights = tiny.make_weights()
    checkpoint = open_checkpoint(write(tmp_path / "a.gguf", BLOCKS[name], weights))
    for rank in range(2):
        packed = read_packed(sharded(checkpoint, rank, 2), f"{LAYER}mlp.down_proj.weight", FORMATS[name])
        columns = weights[f"{LAYER}mlp.down_proj.weight"][:, 32 * rank : 32 * (rank + 1)]
        np.testing.assert_array_equal(packed, blocks_of(columns, BLOCKS[name]))
    both = checkpoint.read_blocks(f"{LAYER}mlp.down_proj.weight", 1, 0, 64)
    np.testing.assert_array_equal(both, blocks_of(weights[f"{LAYER}mlp.down_proj.weight"], BLOCKS[name]))


@pytest.mark.parametrize("name", BLOCKS)
def test_parts_of_a_ranks_blocks(name, tmp_path):
    """Along the axis that is cut and the other."""
    checkpoint = open_checkpoint(write(tmp_path / "a.gguf", BLOCKS[name]))
    part, form = sharded(checkpoint, 1, 2), FORMATS[name]
    for tensor, axis in (("mlp.up_proj", 0), ("mlp.down_proj", 0), ("self_attn.q_proj", 0), ("mlp.down_proj", 1)):
        whole = read_packed(part, f"{LAYER}{tensor}.weight", form)
        first, last = (0, 32) if axis else (3, 9)
        expected = whole if axis else whole[3:9]
        np.testing.assert_array_equal(part.read_blocks(f"{LAYER}{tensor}.weight", axis, first, last), expected)


def test_columns_that_cut_a_block_are_rounded_anew(tmp_path):
    """To int8 where its blocks divide them, or else to floats."""
    weights = {name: np.tile(values, (1, 3)) for name, values in tiny.make_weights().items() if "down_proj" in name}
    checkpoint = open_checkpoint(write(tmp_path / "a.gguf", Quantization.Q4_1, tiny.make_weights() | weights))
    name = f"{LAYER}mlp.down_proj.weight"

    class Cuts:
        """Columns 64 to 128 of 192 for one rank, 16 to 80 for another, 16 to 64 for the last."""

        columns = (64, 128)

        def of(self, name):
            return Cut(1, *self.columns, self.columns[1] - self.columns[0])

        def whole_length(self, name):
            return 192

    cuts = Cuts()
    part = ShardedCheckpoint(checkpoint, cuts)
    assert stored_format(part, name) == Q4_1
    np.testing.assert_array_equal(read_packed(part, name, Q4_1), checkpoint.read_blocks(name, 1, 64, 128))
    cuts.columns = (16, 80)
    assert stored_format(part, name) == INT8
    floats = checkpoint.read(name)[:, 16:80]
    np.testing.assert_array_equal(read_packed(part, name, INT8), blocks_of(floats, Quantization.Q8_0))
    np.testing.assert_array_equal(part.read_blocks(name, 1, 32, 64), blocks_of(floats[:, 32:], Quantization.Q8_0))
    assert part.block_format(name, 16, 48) is None
    cuts.columns = (16, 64)
    assert stored_format(part, name) == FLOAT32
    np.testing.assert_array_equal(read_packed(part, name, FLOAT32), checkpoint.read(name)[:, 16:64])
