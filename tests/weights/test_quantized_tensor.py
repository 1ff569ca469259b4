"""Parts of quantized tensors are what dequantizing everything and slicing gives, and touch nothing else."""

import tracemalloc

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Quantization

from mindspore_paged.weights import quantized_tensor
from mindspore_paged.weights.checkpoint import open_checkpoint
from mindspore_paged.weights.quantized_tensor import dequantize_part
from tests.weights import tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
KINDS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]


def stored_tensor(kind, rows, blocks):
    """Bytes at random: any block of a quantized tensor has a meaning, if only that of an infinite scale."""
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    return np.random.default_rng(1).integers(0, 256, (rows, blocks * block_bytes), np.uint8)


@pytest.mark.parametrize("slice_bytes", [1, 5000, 4 << 20])
@pytest.mark.parametrize("name", KINDS)
def test_a_part_is_what_slicing_the_whole_gives(name, slice_bytes, monkeypatch):
    monkeypatch.setattr(quantized_tensor, "_SLICE_BYTES", slice_bytes)
    kind = Quantization[name]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    stored = stored_tensor(kind, 7, 3)
    whole = gguf.dequantize(stored, kind)
    for start, stop in [(0, 3 * block), (block, 2 * block), (0, 1), (block - 1, block + 1), (5, 2 * block + 7)]:
        np.testing.assert_array_equal(dequantize_part(stored, kind, 1, start, stop), whole[:, start:stop])
    for start, stop in ((0, 7), (2, 5), (6, 7)):
        np.testing.assert_array_equal(dequantize_part(stored, kind, 0, start, stop), whole[start:stop])
    np.testing.assert_array_equal(dequantize_part(stored[0], kind, 0, 3, 2 * block), whole[0, 3 : 2 * block])


@pytest.mark.parametrize(
    ("axis", "start", "stop", "expected_bytes"),
    [
        (0, 2, 5, 3 * 4 * 20),  # 3 rows of 4 blocks; a block of Q4_1 has 32 weights in 20 bytes
        (1, 32, 96, 9 * 2 * 20),  # 9 rows of 2 blocks
        (1, 40, 70, 9 * 2 * 20),  # the two blocks around it
        (1, 63, 65, 9 * 2 * 20),
        (1, 64, 65, 9 * 1 * 20),
    ],
)
def test_only_the_blocks_of_the_part_are_dequantized(axis, start, stop, expected_bytes, monkeypatch):
    stored = stored_tensor(Quantization.Q4_1, 9, 4)
    seen, dequantize = [], gguf.dequantize
    monkeypatch.setattr(gguf, "dequantize", lambda data, kind: seen.append(data.nbytes) or dequantize(data, kind))
    dequantize_part(stored, Quantization.Q4_1, axis, start, stop)
    assert sum(seen) == expected_bytes


def test_memory_beside_the_result_is_some_mb():
    """LLaMA 7B's down projection in Q4_1: 28 MB stored, 180 MB as float32, an eighth of the columns 22.5 MB."""
    stored = np.zeros((4096, 11008 // 32 * 20), np.uint8)
    tracemalloc.start()
    part = dequantize_part(stored, Quantization.Q4_1, 1, 1376, 2752)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert part.nbytes == 4096 * 1376 * 4
    assert part.nbytes < peak < part.nbytes + (12 << 20)


def test_whole_tensors_are_what_gguf_itself_dequantizes(demo_model):
    """q and k in their stored order after the permutation is undone by hand; the rest as they are."""
    checkpoint = open_checkpoint(demo_model)
    file = checkpoint.tokenizer_source.tensors
    for stored_name, name, heads in (
        ("blk.7.attn_q.weight", "model.layers.7.self_attn.q_proj.weight", 9),
        ("blk.7.attn_k.weight", "model.layers.7.self_attn.k_proj.weight", 3),
        ("blk.7.ffn_down.weight", "model.layers.7.mlp.down_proj.weight", 0),
        ("token_embd.weight", "model.embed_tokens.weight", 0),
    ):
        read = checkpoint.read(name)
        expected = gguf.dequantize(file[stored_name].data, file[stored_name].tensor_type)
        np.testing.assert_array_equal(tiny.interleave_rows(read, heads) if heads else read, expected, err_msg=name)
