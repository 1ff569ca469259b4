"""Bad input of the layer operators is refused with a message that names operator, place, value and bound."""

import numpy as np
import pytest

from tests.custom_ops.kernel_calls import OpRefusedError, packed, packed_kinds, with_biases
from tests.custom_ops.layer_reference import make_weight
from tests.custom_ops.layer_scenes import EPSILON, make_feed_forward, make_layer_scene
from tests.custom_ops.test_refusals import assert_refused, put, swap, swap_caches

INT32, INT64 = np.int32, np.int64
FLOATS = "float32, float16, bfloat16"


def number(value):
    """An int64 scalar in place of another."""
    return lambda _: np.array(value, INT64)


def both(*changes):
    """One change after the other."""

    def change(inputs):
        for each in changes:
            each(inputs)

    return change


def as_float(x):
    return x.astype(np.float32)


def norm_linear_inputs():
    """Three tokens of 64 columns, a weight of five rows as Q8_0: 68 bytes each."""
    rng = np.random.default_rng(0)
    x, norm_weight, _ = make_feed_forward(rng, 3, 64, 32, ("int8",) * 3)
    weight = make_weight(rng, "int8", 5, 64)
    return {
        "x": x,
        "norm_weight": norm_weight,
        "weight": weight.stored,
        "epsilon": np.array(EPSILON, np.float32),
        "kind": np.array(weight.form.kind, INT64),
    }


def embedding_inputs():
    """Four ids of a vocabulary of 12, of which the table has seven rows from 5 on, as Q4_1: 40 bytes each."""
    table = make_weight(np.random.default_rng(0), "Q4_1", 7, 64)
    return {
        "ids": np.array([0, 11, 5, 6], INT32),
        "table": table.stored,
        "like": np.zeros(64, np.float32),
        "kind": np.array(table.form.kind, INT64),
        "first_row": np.array(5, INT64),
        "vocab_size": np.array(12, INT64),
    }


def feed_forward_inputs():
    """Three tokens of 32 columns, width 96: gate and down of blocks, up of float16; biases of gate and down."""
    x, norm_weight, weights = make_feed_forward(np.random.default_rng(0), 3, 32, 96, ("Q4_0", "float16", "Q4_1"))
    stored = {name: weight.stored for name, weight in zip(("gate", "up", "down"), weights)}
    return {
        "x": x,
        "norm_weight": norm_weight,
        **stored,
        "gate_bias": np.ones(96, np.float32),
        "down_bias": np.ones(32, np.float32),
        "epsilon": np.array(EPSILON, np.float32),
        "kinds": packed_kinds(weights),
        "adds_residual": np.array(1, INT64),
        "biases": np.array(0b101, INT64),
    }


def attention_inputs():
    """Rows with 20 and 40 tokens, a new one of the first and two of the second, and one of padding.

    8 blocks of 16; a row has up to 4, 64 tokens, the tables 42 positions; 4 heads and 2 KV heads of 16; 96 columns; a
    bias of out alone.
    """
    scene = make_layer_scene(np.random.default_rng(0), [20, 40], [1, 2], ("Q4_1", "int8", "float32", "Q4_0"), padding=1)
    query, key, value, out = (weight.stored for weight in scene.weights)
    return {
        "x": scene.x,
        "norm_weight": scene.norm_weight,
        "query": query,
        "key": key,
        "value": value,
        "out": out,
        "cos_table": scene.cos_table,
        "sin_table": scene.sin_table,
        "key_cache": scene.key_cache,
        "value_cache": scene.value_cache,
        "block_table": scene.block_table,
        "positions": scene.positions,
        "rows": scene.rows,
        "out_bias": np.ones(96, np.float32),
        "epsilon": np.array(EPSILON, np.float32),
        "scale": np.array(0.25, np.float32),
        "kinds": packed_kinds(scene.weights),
        "adds_residual": np.array(1, INT64),
        "biases": np.array(0b1000, INT64),
    }


def step_inputs():
    """Two layers, each as `attention_inputs` and a SwiGLU of width 64, in two packs; a vocabulary of 12.

    What is to be written into block_table is there already.
    """
    attention = attention_inputs()
    rng = np.random.default_rng(1)
    scene = make_layer_scene(np.random.default_rng(0), [20, 40], [1, 2], ("Q4_1", "int8", "float32", "Q4_0"), padding=1)
    layers = []
    for _ in range(2):
        _, norm_weight, weights = make_feed_forward(rng, 1, 96, 64, ("Q4_0", "float16", "Q4_1"))
        layers.append(with_biases(scene.norm_weight, scene.weights) + with_biases(norm_weight, weights))
    layout, packs = packed(layers, lambda weight: weight.stored)
    table, head = make_weight(rng, "Q4_1", 12, 96), make_weight(rng, "float16", 12, 96)
    inputs = {"input_ids": np.array([0, 11, 5, 6], INT32)}
    inputs |= {name: attention[name] for name in ("positions", "rows", "cos_table", "sin_table")}
    inputs["logit_indices"] = np.array([2, -1, 0], INT32)
    inputs |= {
        "table_indices": np.array([[0, 3], [1, 3]], INT32),
        "table_values": attention["block_table"][:, 3].copy(),
    }
    inputs |= {"block_table": attention["block_table"], "layout": layout, "table": table.stored}
    inputs |= {"norm_weight": scene.norm_weight, "head": head.stored}
    inputs |= {name: np.stack([attention[name]] * 2) for name in ("key_cache", "value_cache")}
    inputs |= {"pack0": packs[0], "pack1": packs[1], "epsilon": attention["epsilon"], "scale": attention["scale"]}
    kinds = {"table_kind": table.form.kind, "head_kind": head.form.kind}
    return inputs | {name: np.array(kind, INT64) for name, kind in kinds.items()}


# Of a layer's weights in `layout`, and of what it says of one.
QUERY, KEY, OUT, KEY_BIAS, MLP_NORM, GATE, UP, DOWN, UP_BIAS = 1, 2, 4, 6, 9, 10, 11, 12, 14
PACK, OFFSET, KIND, ROWS, COLUMNS = range(5)

KINDS = "allowed: 2 (Q4_0), 3 (Q4_1), 8 (Q8_0)"

NORM_LINEAR = {
    "no columns": (
        both(swap("x", lambda x: x[:, :0]), swap("norm_weight", lambda x: x[:0]), swap("weight", lambda x: x[:, :0])),
        "weight has 0 columns, it must have at least 1",
    ),
    "x rank": (swap("x", lambda x: x[0]), "x has shape [64], its rank must be 2"),
    "x dtype": (swap("x", lambda x: x.astype(np.float16)), "x has dtype float16, allowed: float32"),
    "norm_weight shape": (swap("norm_weight", lambda x: x[:63]), "norm_weight has shape [63], it must be [64]"),
    "norm_weight dtype": (
        swap("norm_weight", lambda x: x.astype(np.float16)),
        "norm_weight has dtype float16, allowed: float32",
    ),
    "weight rank": (swap("weight", lambda x: x[0]), "weight has shape [68], its rank must be 2"),
    "weight dtype": (
        swap("weight", lambda x: x.astype(np.float64)),
        f"weight has dtype float64, allowed: {FLOATS}, uint8",
    ),
    "bytes of a row": (swap("weight", lambda x: x[:, :67]), "weight has shape [5, 67], it must be [5, 68]"),
    "blocks of another kind": (swap("kind", number(2)), "weight has shape [5, 68], it must be [5, 36]"),
    "unknown blocks": (swap("kind", number(12)), f"weight has blocks of kind 12, {KINDS}"),
    "floats as bytes": (swap("kind", number(1)), f"weight has blocks of kind 1, {KINDS}"),
    "negative kind": (swap("kind", number(-3)), f"weight has blocks of kind -3, {KINDS}"),
    "columns cut a block": (
        both(swap("x", lambda x: x[:, :48]), swap("norm_weight", lambda x: x[:48])),
        "weight has 48 columns, not a multiple of the 32 of a block",
    ),
    "columns of floats": (
        swap("weight", lambda x: as_float(x[:, :63])),
        "weight has shape [5, 63], it must be [5, 64]",
    ),
    "epsilon dtype": (swap("epsilon", lambda x: x.astype(np.float64)), "epsilon has dtype float64, allowed: float32"),
    "kind dtype": (swap("kind", lambda x: x.astype(INT32)), "kind has dtype int32, allowed: int64"),
}

EMBEDDING = {
    "no columns": (
        both(swap("like", lambda x: x[:0]), swap("table", lambda x: x[:, :0])),
        "table has 0 columns, it must have at least 1",
    ),
    "negative id": (put("ids", 2, -1), "token 2: id -1 is outside [0, 12)"),
    "id beyond the vocabulary": (put("ids", 3, 12), "token 3: id 12 is outside [0, 12)"),
    "ids dtype": (swap("ids", lambda x: x.astype(INT64)), "ids has dtype int64, allowed: int32"),
    "ids rank": (swap("ids", lambda x: x[None]), "ids has shape [1, 4], its rank must be 1"),
    "table dtype": (swap("table", lambda x: x.astype(INT32)), f"table has dtype int32, allowed: {FLOATS}, uint8"),
    "bytes of a row": (swap("table", lambda x: x[:, :39]), "table has shape [7, 39], it must be [7, 40]"),
    "like": (swap("like", lambda x: x[:32]), "table has shape [7, 40], it must be [7, 20]"),
    "like cuts a block": (
        swap("like", lambda x: x[:33]),
        "table has 33 columns, not a multiple of the 32 of a block",
    ),
    "unknown blocks": (swap("kind", number(0)), f"table has blocks of kind 0, {KINDS}"),
    "first_row dtype": (swap("first_row", lambda x: x.astype(INT32)), "first_row has dtype int32, allowed: int64"),
}

FEED_FORWARD = {
    "nothing between": (
        both(*(swap(name, lambda x: x[:0]) for name in ("gate", "up")), swap("down", lambda x: x[:, :0])),
        "down has 0 columns, it must have at least 1",
    ),
    "x rank": (swap("x", lambda x: x[0]), "x has shape [32], its rank must be 2"),
    "norm_weight shape": (swap("norm_weight", lambda x: x[:31]), "norm_weight has shape [31], it must be [32]"),
    "up rows": (swap("up", lambda x: x[:95]), "gate has 96 rows, up has 95"),
    "up columns": (swap("up", lambda x: x[:, :31]), "up has shape [96, 31], it must be [96, 32]"),
    "gate bytes": (swap("gate", lambda x: x[:, :17]), "gate has shape [96, 17], it must be [96, 18]"),
    "gate rows cut a block of down": (
        both(swap("gate", lambda x: x[:95]), swap("up", lambda x: x[:95])),
        "down has 95 columns, not a multiple of the 32 of a block",
    ),
    "down bytes": (swap("down", lambda x: x[:, :40]), "down has shape [32, 40], it must be [32, 60]"),
    "down rows": (swap("down", lambda x: x[:31]), "down has 31 rows, x has 32 columns"),
    "unknown blocks of gate": (swap("kinds", number(3 << 16 | 7)), f"gate has blocks of kind 7, {KINDS}"),
    "unknown blocks of down": (swap("kinds", number(2)), f"down has blocks of kind 0, {KINDS}"),
    "adds_residual dtype": (
        swap("adds_residual", lambda x: x.astype(INT32)),
        "adds_residual has dtype int32, allowed: int64",
    ),
    "bias shape": (swap("down_bias", lambda x: x[:31]), "bias has shape [31], it must be [32]"),
    "bias of another": (swap("biases", number(0b011)), "bias has shape [32], it must be [96]"),
    "a bias more than there is": (
        swap("biases", number(0b111)),
        "bias has shape [32], it must be [96]",
    ),
    "a bias less than there is": (
        swap("biases", number(0b001)),
        "got 2 biases, biases is 1: a bit for each, of 3 at most",
    ),
    "a bias of none": (
        swap("biases", number(0b1101)),
        "got 2 biases, biases is 13: a bit for each, of 3 at most",
    ),
    "no such biases": (swap("biases", number(-1)), "bias has shape [32], it must be [96]"),
}

ATTENTION = {
    "no queries": (
        both(swap("query", lambda x: x[:0]), swap("out", lambda x: x[:, :0])),
        "out has 0 columns, it must have at least 1",
    ),
    "row beyond the table": (put("rows", 1, 2), "token 1: row 2 is outside [-1, 2)"),
    "row below -1": (put("rows", 1, -2), "token 1: row -2 is outside [-1, 2)"),
    "negative position": (put("positions", 2, -1), "token 2: position -1 is outside [0, 42)"),
    "position beyond the tables": (put("positions", 2, 42), "token 2: position 42 is outside [0, 42)"),
    "position of padding": (put("positions", 3, 42), "token 3: position 42 is outside [0, 42)"),
    "position beyond the row": (
        both(
            swap("block_table", lambda x: x[:, :2]),
            put("positions", 1, 31),
            put("positions", 2, 32),
        ),
        "token 2: position 32 is outside [0, 32)",
    ),
    "x rank": (swap("x", lambda x: x[0]), "x has shape [96], its rank must be 2"),
    "norm_weight shape": (swap("norm_weight", lambda x: x[:95]), "norm_weight has shape [95], it must be [96]"),
    "query bytes": (swap("query", lambda x: x[:, :40]), "query has shape [64, 40], it must be [64, 60]"),
    "query rows": (swap("query", lambda x: x[:48]), "out has 48 columns, not a multiple of the 32 of a block"),
    "query heads": (
        both(swap("query", lambda x: x[:48]), swap("out", lambda x: np.zeros((96, 48), np.float32))),
        "query has 48 rows, not a multiple of the 32 of key",
    ),
    "key rows": (
        swap("key", lambda x: x[:31]),
        "key and value have 31 and 32 rows, the pages hold 32 numbers a token",
    ),
    "value rows": (
        swap("value", lambda x: x[:16]),
        "key and value have 32 and 16 rows, the pages hold 32 numbers a token",
    ),
    "value columns": (swap("value", lambda x: x[:, :95]), "value has shape [32, 95], it must be [32, 96]"),
    "out rows": (swap("out", lambda x: x[:95]), "out has 95 rows, x has 96 columns"),
    "out bytes": (swap("out", lambda x: x[:, :18]), "out has shape [96, 18], it must be [96, 36]"),
    "cos_table": (swap("cos_table", lambda x: x[..., :8]), "cos_table has shape [42, 1, 8], it must be [42, 1, 16]"),
    "sin_table": (swap("sin_table", lambda x: x[:41]), "sin_table has shape [41, 1, 16], it must be [42, 1, 16]"),
    "cos_table rank": (swap("cos_table", lambda x: x[:, 0]), "cos_table has shape [42, 16], its rank must be 3"),
    "value_cache shape": (
        swap("value_cache", lambda x: x[:7]),
        "value_cache has shape [7, 16, 2, 16], it must be [8, 16, 2, 16]",
    ),
    "block_size": (swap_caches(lambda x: x[:, :8]), "block_size 8 is not a multiple of 16"),
    "block_table dtype": (
        swap("block_table", lambda x: x.astype(INT64)),
        "block_table has dtype int64, allowed: int32",
    ),
    "positions shape": (swap("positions", lambda x: x[:3]), "positions has shape [3], it must be [4]"),
    "rows shape": (swap("rows", lambda x: x[:3]), "rows has shape [3], it must be [4]"),
    "unknown blocks of query": (swap("kinds", number(8 << 8 | 2 << 24)), f"query has blocks of kind 0, {KINDS}"),
    "unknown blocks of out": (swap("kinds", number(3 | 8 << 8 | 9 << 24)), f"out has blocks of kind 9, {KINDS}"),
    "scale dtype": (swap("scale", lambda x: x.astype(np.float64)), "scale has dtype float64, allowed: float32"),
    "bias shape": (swap("out_bias", lambda x: x[:95]), "bias has shape [95], it must be [96]"),
    "bias rank": (swap("out_bias", lambda x: x[None]), "bias has shape [1, 96], its rank must be 1"),
    "bias dtype": (swap("out_bias", lambda x: x.astype(np.float16)), "bias has dtype float16, allowed: float32"),
    "biases dtype": (swap("biases", lambda x: x.astype(INT32)), "biases has dtype int32, allowed: int64"),
    "no bias": (swap("biases", number(0)), "got 1 biases, biases is 0: a bit for each, of 4 at most"),
    "beyond the four": (swap("biases", number(0b11000)), "got 1 biases, biases is 24: a bit for each, of 4 at most"),
}

ALL_KINDS = "allowed: 0 (float32), 1 (float16), 30 (bfloat16), 2 (Q4_0), 3 (Q4_1), 8 (Q8_0)"

STEP = {
    "nothing between": (
        both(*(put("layout", (0, weight, what), 0) for weight, what in ((GATE, ROWS), (UP, ROWS), (DOWN, COLUMNS)))),
        "layer 0, feed forward: down has 0 columns, it must have at least 1",
    ),
    "no queries": (
        both(put("layout", (1, QUERY, ROWS), 0), put("layout", (1, OUT, COLUMNS), 0)),
        "layer 1, attention: out has 0 columns, it must have at least 1",
    ),
    "row beyond the table": (put("rows", 1, 2), "token 1: row 2 is outside [-1, 2)"),
    "position beyond the tables": (put("positions", 2, 42), "token 2: position 42 is outside [0, 42)"),
    "positions shape": (swap("positions", lambda x: x[:3]), "positions has shape [3], it must be [4]"),
    "id beyond the vocabulary": (put("input_ids", 1, 12), "token 1: id 12 is outside [0, 12)"),
    "negative id": (put("input_ids", 1, -1), "token 1: id -1 is outside [0, 12)"),
    "logits of no token": (put("logit_indices", 0, 4), "logit_indices[0] is 4, outside [-1, 4)"),
    "logits of less than none": (put("logit_indices", 2, -2), "logit_indices[2] is -2, outside [-1, 4)"),
    "row of an entry": (put("table_indices", (1, 0), 2), "table entry 1: [2, 3] is outside [2, 4]"),
    "column of an entry": (put("table_indices", (0, 1), -1), "table entry 0: [0, -1] is outside [2, 4]"),
    "entries shape": (swap("table_indices", lambda x: x[:1]), "table_indices has shape [1, 2], it must be [2, 2]"),
    "layout shape": (swap("layout", lambda x: x[:, :8].copy()), "layout has shape [2, 8, 5], it must be [2, 16, 5]"),
    "layout dtype": (swap("layout", lambda x: x.astype(INT32)), "layout has dtype int32, allowed: int64"),
    "no layers": (swap_caches(lambda x: x[:0]), "key_cache has no layers"),
    "more layers than caches": (
        swap("layout", lambda x: np.concatenate([x, x, x])),
        "layout has shape [6, 16, 5], it must be [2, 16, 5]",
    ),
    "caches of one layer": (
        swap_caches(lambda x: x[0]),
        "key_cache has shape [8, 16, 2, 16], its rank must be 5",
    ),
    "pack dtype": (swap("pack1", lambda x: x.astype(np.int8)), "pack has dtype int8, allowed: uint8"),
    "pack that is short": (
        swap("pack1", lambda x: x[:-10]),
        "layer 1, feed forward: down has 96 rows of 40 bytes from 39400 on in pack 1, which has 43235",
    ),
    "no such pack": (put("layout", (1, QUERY, PACK), 2), "layer 1, attention: query is in pack 2, outside [0, 2)"),
    "negative pack": (put("layout", (1, QUERY, PACK), -1), "layer 1, attention: query is in pack -1, outside [0, 2)"),
    "negative rows": (
        put("layout", (0, GATE, ROWS), -1),
        "layer 0, feed forward: gate has -1 rows of 54 bytes from 23649 on in pack 0, which has 43248",
    ),
    "rows without end": (
        put("layout", (0, GATE, ROWS), 2**62),
        f"layer 0, feed forward: gate has {2**62} rows of 54 bytes from 23649 on in pack 0, which has 43248",
    ),
    "negative offset": (
        put("layout", (0, GATE, OFFSET), -8),
        "layer 0, feed forward: gate has 64 rows of 54 bytes from -8 on in pack 0, which has 43248",
    ),
    "norm_weight of attention": (
        put("layout", (1, 0, COLUMNS), 95),
        "layer 1, attention: norm_weight has kind 0 and shape [1, 95], it must be 0 (float32) and [1, 96]",
    ),
    "norm_weight of SwiGLU": (
        put("layout", (0, MLP_NORM, KIND), 1),
        "layer 0, feed forward: norm_weight has kind 1 and shape [1, 96], it must be 0 (float32) and [1, 96]",
    ),
    "last norm_weight": (
        swap("norm_weight", lambda x: x[:64]),
        "table has shape [12, 60], it must be [12, 40]",
    ),
    "head": (swap("head", lambda x: x[:, :64]), "head has shape [12, 64], it must be [12, 96]"),
    "kind of the table": (swap("table_kind", number(8)), "table has shape [12, 60], it must be [12, 102]"),
    "key of the second layer": (
        put("layout", (1, KEY, ROWS), 31),
        "layer 1, attention: key and value have 31 and 32 rows, the pages hold 32 numbers a token",
    ),
    "value_cache shape": (
        swap("value_cache", lambda x: x[:, :7].copy()),
        "value_cache has shape [2, 7, 16, 2, 16], it must be [2, 8, 16, 2, 16]",
    ),
    "value_cache of fewer layers": (
        swap("value_cache", lambda x: x[:1]),
        "value_cache has shape [1, 8, 16, 2, 16], it must be [2, 8, 16, 2, 16]",
    ),
    "value_cache dtype": (
        swap("value_cache", lambda x: x.astype(np.float16)),
        "value_cache has dtype float16, it must be that of key_cache, float32",
    ),
    "block_size": (swap_caches(lambda x: x[:, :, :8].copy()), "block_size 8 is not a multiple of 16"),
    "up of the second layer": (
        put("layout", (1, UP, ROWS), 63),
        "layer 1, feed forward: gate has 64 rows, up has 63",
    ),
    "columns of the second layer": (
        put("layout", (1, UP, COLUMNS), 95),
        "layer 1, feed forward: up has 95 columns, it must have 96",
    ),
    "bias of more rows": (
        put("layout", (1, KEY_BIAS), [0, 0, 0, 1, 33]),
        "layer 1, attention: bias of key has kind 0 and shape [1, 33], it must be 0 (float32) and [1, 32]",
    ),
    "bias of halves": (
        put("layout", (0, UP_BIAS), [0, 0, 1, 1, 64]),
        "layer 0, feed forward: bias of up has kind 1 and shape [1, 64], it must be 0 (float32) and [1, 64]",
    ),
    "bias in no pack": (
        put("layout", (0, KEY_BIAS), [-2, 0, 0, 1, 32]),
        "layer 0, attention: bias of key is in pack -2, outside [0, 2)",
    ),
    "bias beyond its pack": (
        put("layout", (0, KEY_BIAS), [0, 43_200, 0, 1, 32]),
        "layer 0, attention: bias of key has 1 rows of 128 bytes from 43200 on in pack 0, which has 43248",
    ),
    "a weight that must be there": (
        put("layout", (1, DOWN), [-1, 0, 0, 0, 0]),
        "layer 1, feed forward: down has 0 columns, it must have 64",
    ),
    "columns cut a block": (
        both(put("layout", (0, GATE, ROWS), 60), put("layout", (0, DOWN, COLUMNS), 60)),
        "layer 0, feed forward: down has 60 columns, not a multiple of the 32 of a block",
    ),
    "unknown blocks of query": (
        put("layout", (1, QUERY, KIND), 9),
        f"layer 1, attention: query has kind 9, {ALL_KINDS}",
    ),
    "unknown blocks of gate": (
        put("layout", (0, GATE, KIND), -3),
        f"layer 0, feed forward: gate has kind -3, {ALL_KINDS}",
    ),
}

BLOCKS = {
    "block beyond the pool": (put("block_table", (1, 2), 8), "token 1: block 8 at block_table[1, 2] is outside [0, 8)"),
    "negative block": (put("block_table", (0, 0), -1), "token 0: block -1 at block_table[0, 0] is outside [0, 8)"),
}

CALLS = {
    "NormLinear": ("norm_linear", norm_linear_inputs, (3, 5)),
    "Embedding": ("embedding", embedding_inputs, (4, 64)),
    "FeedForwardLayer": ("feed_forward_layer", feed_forward_inputs, (3, 32)),
    "AttentionLayer": ("attention_layer", attention_inputs, (4, 96)),
    "LlamaStep": ("llama_step", step_inputs, (3, 12)),
}
REFUSALS = {"NormLinear": NORM_LINEAR, "Embedding": EMBEDDING, "FeedForwardLayer": FEED_FORWARD}
REFUSALS |= {"AttentionLayer": ATTENTION, "LlamaStep": STEP}
CASES = {
    f"{function}: {case}": (function, *REFUSALS[function][case]) for function in REFUSALS for case in REFUSALS[function]
}


@pytest.mark.parametrize(("function", "change", "message"), CASES.values(), ids=CASES)
def test_refusal(kernels, function, change, message):
    operator, make_inputs, output_shape = CALLS[function]
    inputs = make_inputs()
    change(inputs)
    assert_refused(kernels, function, operator, inputs, np.full(output_shape, 7, np.float32), message)


@pytest.mark.parametrize(("change", "message"), BLOCKS.values(), ids=BLOCKS)
def test_blocks_are_checked_before_anything_is_written(kernels, change, message):
    """By the attention that is part of the layer, under its own name."""
    for function in ("AttentionLayer", "LlamaStep"):
        _, make_inputs, output_shape = CALLS[function]
        inputs = make_inputs()
        change(inputs)
        output = np.full(output_shape, 7, np.float32)
        assert_refused(kernels, function, "paged_attention", inputs, output, message)


def test_what_was_sent_for_the_table_is_there_when_the_tokens_are_refused(kernels):
    """The host does not send it again."""
    inputs = step_inputs()
    inputs["input_ids"][1] = 12
    inputs["table_values"][:] = 5, 1
    with pytest.raises(OpRefusedError, match=r"token 1: id 12 is outside \[0, 12\)"):
        kernels.call("LlamaStep", *inputs.values(), np.zeros((3, 12), np.float32))
    np.testing.assert_array_equal(inputs["block_table"][:, 3], [5, 1])


@pytest.mark.parametrize("function", CALLS)
def test_output_and_number_of_inputs(kernels, function):
    operator, make_inputs, (num_tokens, columns) = CALLS[function]
    inputs = make_inputs()
    for output, message in (
        (
            np.full((num_tokens, columns - 1), 7, np.float32),
            f"output has shape [{num_tokens}, {columns - 1}], it must be [{num_tokens}, {columns}]",
        ),
        (np.full((num_tokens, columns), 7, np.float16), "output has dtype float16, allowed: float32"),
    ):
        assert_refused(kernels, function, operator, inputs, output, message)
    takes = len(inputs) + 1
    if function in (least := {"LlamaStep": 21, "AttentionLayer": 19, "FeedForwardLayer": 10}):
        inputs, takes = dict(list(inputs.items())[: least[function] - 2]), f"at least {least[function]}"
    else:
        del inputs["kinds" if "kinds" in inputs else "kind"]
    message = f"got {len(inputs) + 1} inputs and outputs, it takes {takes}"
    assert_refused(kernels, function, operator, inputs, np.full((num_tokens, columns), 7, np.float32), message)


@pytest.mark.parametrize("function", CALLS)
def test_what_is_not_changed_is_taken(kernels, function):
    """Else all that is refused above might be for another reason. No number is right: weights are not in panels."""
    _, make_inputs, output_shape = CALLS[function]
    output = np.full(output_shape, 7, np.float32)
    kernels.call(function, *make_inputs().values(), output)
    assert (output != 7).all()
