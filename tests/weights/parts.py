"""The parts of the tiny model's tensors that a rank has, cut by NumPy with lengths worked out by hand."""

import numpy as np

PADDED_VOCAB = {2: 50, 4: 52, 8: 56}
RANKS_OF_ONE_KV_HEAD = {2: 1, 4: 2, 8: 4}
BY_ROWS = ("q_proj", "gate_proj", "up_proj")
BY_COLUMNS = ("o_proj", "down_proj")
SIZES = tuple(PADDED_VOCAB)


def part_by_hand(name, whole, rank, size):
    """Rank's part of a tensor of `tiny.CONFIG`: 8 heads, 2 KV heads, 50 tokens."""
    cell, _, of_cell = name.rpartition(".")
    kind = cell.rpartition(".")[2]
    if of_cell == "bias" and kind in BY_COLUMNS:
        return whole if rank == 0 else np.zeros_like(whole)
    if kind in BY_ROWS:
        return np.split(whole, size, axis=0)[rank]
    if kind in BY_COLUMNS:
        return np.split(whole, size, axis=1)[rank]
    if kind in ("k_proj", "v_proj"):
        return np.split(whole, 2)[rank // RANKS_OF_ONE_KV_HEAD[size]]
    if kind in ("embed_tokens", "lm_head"):
        zeros = np.zeros((PADDED_VOCAB[size] - 50, 32), whole.dtype)
        return np.split(np.concatenate([whole, zeros]), size)[rank]
    return whole


def expected_shapes(size):
    """What a rank's model of `tiny.CONFIG` needs."""
    query, kv, width, vocab = {2: (16, 4, 32, 25), 4: (8, 4, 16, 13), 8: (4, 4, 8, 7)}[size]
    shapes = {"model.embed_tokens.weight": (vocab, 32), "model.norm.weight": (32,), "lm_head.weight": (vocab, 32)}
    for layer in range(2):
        shapes |= {
            f"model.layers.{layer}.{part}.weight": shape
            for part, shape in {
                "input_layernorm": (32,),
                "self_attn.q_proj": (query, 32),
                "self_attn.k_proj": (kv, 32),
                "self_attn.v_proj": (kv, 32),
                "self_attn.o_proj": (32, query),
                "post_attention_layernorm": (32,),
                "mlp.gate_proj": (width, 32),
                "mlp.up_proj": (width, 32),
                "mlp.down_proj": (32, width),
            }.items()
        }
    return shapes


def assert_same(part, expected, message):
    """Equal to the bit, and an array that stands alone."""
    assert type(part) is np.ndarray
    assert part.flags.c_contiguous, message
    assert part.flags.writeable, message
    assert part.dtype == expected.dtype, message
    np.testing.assert_array_equal(part.astype(np.float32), expected.astype(np.float32), err_msg=message)
