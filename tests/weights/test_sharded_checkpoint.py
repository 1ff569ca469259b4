"""A rank reads the part of each tensor that slicing the whole by hand gives, from every format, and no more memory."""

import tracemalloc
from dataclasses import replace

import gguf
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from mindspore_paged.errors import CheckpointError
from mindspore_paged.models.registry import MODEL_CONFIGS
from mindspore_paged.tensor_parallel import TensorParallel
from mindspore_paged.weights.check import check_weights
from mindspore_paged.weights.checkpoint import open_checkpoint
from mindspore_paged.weights.random_checkpoint import RandomCheckpoint
from mindspore_paged.weights.sharded_checkpoint import ShardedCheckpoint
from tests.weights import tiny
from tests.weights.parts import SIZES, assert_same, expected_shapes, part_by_hand

MATRICES = [name for name, shape in tiny.expected_shapes().items() if len(shape) == 2]


def sharded(checkpoint, rank, size, config=tiny.CONFIG):
    return ShardedCheckpoint(checkpoint, TensorParallel(rank, size).cuts(config))


def quantized_gguf(*kinds):
    def write(path, weights):
        quantize = {name: kinds[place % len(kinds)] for place, name in enumerate(MATRICES)}
        return tiny.write_gguf(path, weights, quantize=quantize)

    return write


Quantization = gguf.GGMLQuantizationType
QUANTIZED = {
    "Q4_0": quantized_gguf(Quantization.Q4_0),
    "Q4_1": quantized_gguf(Quantization.Q4_1),
    "Q5_1": quantized_gguf(Quantization.Q5_1),
    "Q8_0": quantized_gguf(Quantization.Q8_0),
    "mixed": quantized_gguf(Quantization.Q4_1, Quantization.Q8_0, Quantization.Q5_0),
}
CASES = [
    *[(kind, writer, np.float32) for kind, writer in (tiny.WRITERS | QUANTIZED).items()],
    *[(kind, tiny.WRITERS[kind], np.float16) for kind in ("gguf", "hf")],
    *[(kind, writer, ml_dtypes.bfloat16) for kind, writer in tiny.WRITERS.items()],
]


@pytest.fixture(params=CASES, ids=[f"{kind}-{np.dtype(dtype).name}" for kind, _, dtype in CASES])
def checkpoint(request, tmp_path):
    kind, write, dtype = request.param
    return open_checkpoint(write(tmp_path / kind, tiny.make_weights(dtype)), tiny.CONFIG)


def test_each_rank_reads_what_slicing_the_whole_gives(checkpoint):
    for size in SIZES:
        for rank in range(size):
            part = sharded(checkpoint, rank, size)
            check_weights(part, expected_shapes(size))
            assert part.names() == checkpoint.names()
            for name in checkpoint.names():
                expected = part_by_hand(name, checkpoint.read(name), rank, size)
                read = part.read(name)
                assert read.shape == part.shape(name) == expected_shapes(size)[name]
                assert read.dtype == part.dtype(name)
                assert_same(read, expected, f"{name}, rank {rank} of {size}")


def test_any_part_of_any_tensor_can_be_read(checkpoint):
    """Inside heads, groups of a fused tensor and quantization blocks too, along either axis."""
    random = np.random.default_rng(3)
    for name in checkpoint.names():
        whole = checkpoint.read(name)
        for axis in range(whole.ndim):
            length = whole.shape[axis]
            for start, stop in [(0, length), (length - 1, length), *np.sort(random.choice(length, (4, 2), False), 1)]:
                part = checkpoint.read_part(name, axis, int(start), int(stop))
                assert_same(part, whole.take(range(start, stop), axis), f"{name}, axis {axis}, {start} to {stop}")


def test_a_part_of_a_part(tmp_path):
    checkpoint = open_checkpoint(tiny.write_hf_folder(tmp_path / "hf", tiny.make_weights()))
    for rank in range(8):
        part = sharded(checkpoint, rank, 8)
        for name in part.names():
            held = part.read(name)
            for axis in range(held.ndim):
                for start, stop in ((0, 1), (1, 3), (2, held.shape[axis])):
                    expected = held.take(range(start, stop), axis)
                    assert_same(part.read_part(name, axis, start, stop), expected, f"{name} {axis} {start} {stop}")


def test_what_is_not_a_tensor_is_the_wholes(tmp_path):
    for path in (
        tiny.write_hf_folder(tmp_path / "hf", tiny.make_weights()),
        tiny.write_gguf(tmp_path / "a.gguf", tiny.make_weights()),
    ):
        whole = open_checkpoint(path)
        part = sharded(whole, 1, 2)
        assert (part.path, part.model_config) == (path, tiny.CONFIG)
        assert part.tokenizer_source is whole.tokenizer_source


def test_rows_of_a_gguf_file_against_numbers_worked_out_by_hand(tmp_path):
    """Row r of q holds r in every column: rank 3 of 4 has heads 6 and 7, rows 24 to 31, in rotate-half order."""
    weights = tiny.make_weights()
    for name, values in weights.items():
        if values.ndim == 2:
            weights[name] = np.broadcast_to(np.arange(len(values), dtype=np.float32)[:, None], values.shape).copy()
    checkpoint = open_checkpoint(tiny.write_gguf(tmp_path / "rows.gguf", weights))
    part = sharded(checkpoint, 3, 4)
    rows = {
        "model.layers.1.self_attn.q_proj.weight": [24, 25, 26, 27, 28, 29, 30, 31],
        "model.layers.1.self_attn.k_proj.weight": [4, 5, 6, 7],
        "model.layers.1.self_attn.v_proj.weight": [4, 5, 6, 7],
        "model.layers.0.mlp.up_proj.weight": list(range(48, 64)),
        "lm_head.weight": [*range(39, 50), 0, 0],
    }
    for name, expected in rows.items():
        assert part.read(name)[:, 5].tolist() == expected


def test_random_weights_are_cut_too():
    config = MODEL_CONFIGS["tiny"]
    whole = RandomCheckpoint(config, seed=5)
    down, head = "model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.k_proj.weight"
    part = sharded(whole, 1, 2, config)
    assert_same(part.read(down), whole.read(down)[:, 64:128], down)
    assert_same(part.read(head), whole.read(head)[16:32], head)


def test_the_demo_model_on_three_ranks(demo_model):
    """9 heads on 3 ranks: 192 of 576 columns are 6 blocks of Q4_1, 512 of 1536 are 16."""
    whole = open_checkpoint(demo_model)
    for rank in range(3):
        heads, kv, width, vocab = (slice(rank * rows, (rank + 1) * rows) for rows in (192, 64, 512, 16384))
        part = sharded(whole, rank, 3, whole.model_config)
        indices = {
            "model.layers.29.self_attn.q_proj.weight": np.s_[heads],
            "model.layers.29.self_attn.k_proj.weight": np.s_[kv],
            "model.layers.29.self_attn.v_proj.weight": np.s_[kv],
            "model.layers.29.self_attn.o_proj.weight": np.s_[:, heads],
            "model.layers.0.mlp.gate_proj.weight": np.s_[width],
            "model.layers.0.mlp.down_proj.weight": np.s_[:, width],
            "model.embed_tokens.weight": np.s_[vocab],
            "model.norm.weight": np.s_[:],
        }
        for name, index in indices.items():
            assert_same(part.read(name), whole.read(name)[index], f"{name}, rank {rank}")


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        (
            {"intermediate_size": 32},
            "model.layers.0.mlp.up_proj.weight",
            r"has shape \(64, 32\); the model needs 32 ro",
        ),
        ({"intermediate_size": 128}, "model.layers.0.mlp.down_proj.weight", r"\(32, 64\); the model needs 128 columns"),
        ({"vocab_size": 49}, "lm_head.weight", r"\(50, 32\); the model needs 49 rows"),
        ({"num_attention_heads": 16}, "model.layers.0.self_attn.q_proj.weight", "the model needs 64 rows"),
    ],
)
def test_a_tensor_of_another_model_is_refused_though_a_part_of_it_might_fit(tmp_path, changes, name, message):
    whole = open_checkpoint(tiny.write_hf_folder(tmp_path / "hf", tiny.make_weights()))
    with pytest.raises(CheckpointError, match=message) as error:
        check_weights(sharded(whole, 0, 2, replace(tiny.CONFIG, **changes)), {name: whole.shape(name)})
    assert name in str(error.value)
    assert str(whole.path) in str(error.value)


def test_a_tensor_that_is_no_matrix_is_refused(tmp_path):
    weights = tiny.make_weights()
    weights["model.layers.1.mlp.down_proj.weight"] = np.zeros(64, np.float32)
    whole = open_checkpoint(tiny.write_hf_folder(tmp_path / "hf", weights))
    with pytest.raises(CheckpointError, match=r"down_proj.weight has shape \(64,\); the model needs 64 columns"):
        sharded(whole, 0, 2).shape("model.layers.1.mlp.down_proj.weight")


def peak_of_reading(checkpoint):
    """Bytes that are allocated at once while every tensor is read and dropped."""
    tracemalloc.start()
    for name in checkpoint.names():
        checkpoint.read(name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_a_rank_of_eight_needs_an_eighth_of_the_memory(tmp_path):
    """A file of 200 MB; its largest tensors have 50 MB, a rank's part of one 6.3 MB."""
    config = replace(
        tiny.CONFIG, hidden_size=2048, intermediate_size=6144, num_attention_heads=16, num_key_value_heads=8,
        head_dim=128, num_hidden_layers=1,
    )  # fmt: skip
    shapes = RandomCheckpoint(config)
    path = tmp_path / "large.safetensors"
    safetensors.numpy.save_file({name: np.zeros(shapes.shape(name), np.float32) for name in shapes.names()}, path)
    assert path.stat().st_size > 200e6

    whole = open_checkpoint(path, config)
    largest = 2048 * 6144 * 4
    assert largest < peak_of_reading(whole) < 1.1 * largest
    for rank in (0, 7):
        assert largest / 8 < peak_of_reading(sharded(whole, rank, 8, config)) < 1.1 * largest / 8
