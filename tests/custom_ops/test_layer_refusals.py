"""Bad input of the layer operators is refused with a message that names operator, place, value and bound."""

import numpy as np
import pytest

from mindspore_paged.custom_ops.layer_roles import LAYER_ROLES, OPTIONAL_ROLES
from mindspore_paged.formats.weight_format import BLOCK_FORMATS, INT8
from tests.custom_ops.kernel_calls import OpRefusedError, attention_roles, feed_forward_roles, packed, packed_kinds
from tests.custom_ops.layer_reference import make_weight
from tests.custom_ops.layer_scenes import EPSILON, make_feed_forward, make_layer_scene
from tests.custom_ops.test_refusals import assert_refused, put, swap, swap_caches

INT32, INT64 = np.int32, np.int64
FLOATS = "float32, float16, bfloat16"


def number(value):
    """An int64 scalar in place of another."""
    return lambda _: np.array(value, INT64)


def of(role):
    """The index of a layer's weight in `layout`."""
    return LAYER_ROLES.index(role)


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
        "mlp_norm": norm_weight,
        **stored,
        "gate_bias": np.ones(96, np.float32),
        "down_bias": np.ones(32, np.float32),
        "epsilon": np.array(EPSILON, np.float32),
        "kinds": packed_kinds(weights),
        "activation": np.array(1, INT64),
        "adds_residual": np.array(1, INT64),
        "optional": np.array(0b101, INT64),
    }


def attention_inputs():
    """Rows with 20 and 40 tokens, a new one of the first and two of the second, and one of padding.

    8 blocks of 16; a row has up to 4, 64 tokens; two rotary tables of 42 positions; 4 heads and 2 KV heads of 16; 96
    columns; a bias of o, and norms of heads.
    """
    scene = attention_scene()
    return {
        "x": scene.x,
        "attention_norm": scene.norm_weight,
        **{role: weight.stored for role, weight in zip("qkvo", scene.weights)},
        "cos_tables": scene.cos_tables,
        "sin_tables": scene.sin_tables,
        "key_cache": scene.key_cache,
        "value_cache": scene.value_cache,
        "block_table": scene.block_table,
        "positions": scene.positions,
        "rows": scene.rows,
        "o_bias": np.ones(96, np.float32),
        "q_norm": scene.head_norms[0],
        "k_norm": scene.head_norms[1],
        "epsilon": np.array(EPSILON, np.float32),
        "scale": np.array(0.25, np.float32),
        "window": np.array(0, INT64),
        "rope_table": np.array(1, INT64),
        "kinds": packed_kinds(scene.weights),
        "adds_residual": np.array(1, INT64),
        "optional": np.array(0b111000, INT64),
    }


def attention_scene():
    formats = ("Q4_1", "int8", "float32", "Q4_0")
    return make_layer_scene(
        np.random.default_rng(0), [20, 40], [1, 2], formats, padding=1, num_tables=2, head_norms=(True, True)
    )


def step_inputs():
    """Two layers, each as `attention_inputs` and a feed forward of width 64, in two packs; a vocabulary of 12.

    What is to be written into block_table is there already.
    """
    attention, scene = attention_inputs(), attention_scene()
    rng = np.random.default_rng(1)
    layers = []
    for _ in range(2):
        _, norm_weight, weights = make_feed_forward(rng, 1, 96, 64, ("Q4_0", "float16", "Q4_1"))
        output_norm = np.ones(96, np.float32)
        layers.append(
            attention_roles(scene.norm_weight, scene.weights, scene.head_norms, output_norm)
            + feed_forward_roles(norm_weight, weights, output_norm)
        )
    layout, packs = packed(layers, lambda weight: weight.stored)
    table, head = make_weight(rng, "Q4_1", 12, 96), make_weight(rng, "float16", 12, 96)
    inputs = {"input_ids": np.array([0, 11, 5, 6], INT32)}
    inputs |= {name: attention[name] for name in ("positions", "rows", "cos_tables", "sin_tables")}
    inputs["logit_indices"] = np.array([2, -1, 0], INT32)
    inputs |= {
        "table_indices": np.array([[0, 3], [1, 3]], INT32),
        "table_values": attention["block_table"][:, 3].copy(),
    }
    inputs |= {"block_table": attention["block_table"], "layout": layout, "options": np.array([[0, 1], [7, -1]], INT64)}
    inputs |= {"table": table.stored, "norm_weight": scene.norm_weight, "head": head.stored}
    inputs |= {name: np.stack([attention[name]] * 2) for name in ("key_cache", "value_cache")}
    inputs |= {"pack0": packs[0], "pack1": packs[1], "epsilon": attention["epsilon"], "scale": attention["scale"]}
    inputs |= {f"{name}_scale": np.array(0.5, np.float32) for name in ("embedding", "residual", "logit")}
    integers = {"activation": 1, "adapter_rank": 0, "table_kind": table.form.kind, "head_kind": head.form.kind}
    return inputs | {name: np.array(value, INT64) for name, value in integers.items()}


# What `layout` says of one of a layer's weights.
PACK, OFFSET, KIND, ROWS, COLUMNS = range(5)

BLOCK_NAMES = ", ".join(
    f"{form.kind} ({'Q8_0' if form is INT8 else form.name})" for _, form in sorted(BLOCK_FORMATS.items())
)
KINDS = f"allowed: {BLOCK_NAMES}"

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
    "unknown blocks": (swap("kind", number(9)), f"weight has blocks of kind 9, {KINDS}"),
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
    "mlp_norm shape": (swap("mlp_norm", lambda x: x[:31]), "mlp_norm has shape [31], it must be [32]"),
    "up rows": (swap("up", lambda x: x[:95]), "gate has 96 rows, up has 95"),
    "up columns": (swap("up", lambda x: x[:, :31]), "up has shape [96, 31], it must be [96, 32]"),
    "gate bytes": (swap("gate", lambda x: x[:, :17]), "gate has shape [96, 17], it must be [96, 18]"),
    "gate rows cut a block of down": (
        both(swap("gate", lambda x: x[:95]), swap("up", lambda x: x[:95])),
        "down has 95 columns, not a multiple of the 32 of a block",
    ),
    "down bytes": (swap("down", lambda x: x[:, :40]), "down has shape [32, 40], it must be [32, 60]"),
    "down rows": (swap("down", lambda x: x[:31]), "down has 31 rows, x has 32 columns"),
    "unknown blocks of gate": (swap("kinds", number(3 << 16 | 9)), f"gate has blocks of kind 9, {KINDS}"),
    "unknown blocks of down": (swap("kinds", number(2)), f"down has blocks of kind 0, {KINDS}"),
    "adds_residual dtype": (
        swap("adds_residual", lambda x: x.astype(INT32)),
        "adds_residual has dtype int32, allowed: int64",
    ),
    "unknown activation": (
        swap("activation", number(2)),
        "activation is 2, allowed: 0 (silu), 1 (gelu_pytorch_tanh)",
    ),
    "negative activation": (
        swap("activation", number(-1)),
        "activation is -1, allowed: 0 (silu), 1 (gelu_pytorch_tanh)",
    ),
    "bias shape": (swap("down_bias", lambda x: x[:31]), "down_bias has shape [31], it must be [32]"),
    "bias of another": (swap("optional", number(0b011)), "up_bias has shape [32], it must be [96]"),
    "a bias more than there is": (
        swap("optional", number(0b111)),
        "got 2 optional weights, optional is 7: a bit for each, of 3 at most",
    ),
    "a bias less than there is": (
        swap("optional", number(0b001)),
        "got 2 optional weights, optional is 1: a bit for each, of 3 at most",
    ),
    "a bias of none": (
        swap("optional", number(0b1001)),
        "got 2 optional weights, optional is 9: a bit for each, of 3 at most",
    ),
    "no such biases": (
        swap("optional", number(-1)),
        "got 2 optional weights, optional is -1: a bit for each, of 3 at most",
    ),
}


TABLES_ARE = "it must be [tables, positions, 1, rotary_dim], rotary_dim even and at most the head_dim of 16"

ATTENTION = {
    "no queries": (
        both(swap("q", lambda x: x[:0]), swap("o", lambda x: x[:, :0])),
        "o has 0 columns, it must have at least 1",
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
    "attention_norm shape": (
        swap("attention_norm", lambda x: x[:95]),
        "attention_norm has shape [95], it must be [96]",
    ),
    "query bytes": (swap("q", lambda x: x[:, :40]), "q has shape [64, 40], it must be [64, 60]"),
    "query rows": (swap("q", lambda x: x[:48]), "o has 48 columns, not a multiple of the 32 of a block"),
    "query heads": (
        both(swap("q", lambda x: x[:48]), swap("o", lambda x: np.zeros((96, 48), np.float32))),
        "q has 48 rows, not a multiple of the 32 of k",
    ),
    "key rows": (
        swap("k", lambda x: x[:31]),
        "k and v have 31 and 32 rows, the pages hold 32 numbers a token",
    ),
    "value rows": (
        swap("v", lambda x: x[:16]),
        "k and v have 32 and 16 rows, the pages hold 32 numbers a token",
    ),
    "value columns": (swap("v", lambda x: x[:, :95]), "v has shape [32, 95], it must be [32, 96]"),
    "out rows": (swap("o", lambda x: x[:95]), "o has 95 rows, x has 96 columns"),
    "out bytes": (swap("o", lambda x: x[:, :18]), "o has shape [96, 18], it must be [96, 36]"),
    "cos_tables": (
        swap("cos_tables", lambda x: np.concatenate([x, x], axis=-1)),
        f"cos_tables has shape [2, 42, 1, 32], {TABLES_ARE}",
    ),
    "odd cos_tables": (swap("cos_tables", lambda x: x[..., :7]), f"cos_tables has shape [2, 42, 1, 7], {TABLES_ARE}"),
    "empty cos_tables": (swap("cos_tables", lambda x: x[..., :0]), f"cos_tables has shape [2, 42, 1, 0], {TABLES_ARE}"),
    "cos_tables of heads": (
        swap("cos_tables", lambda x: np.concatenate([x, x], axis=2)),
        f"cos_tables has shape [2, 42, 2, 16], {TABLES_ARE}",
    ),
    "sin_tables": (
        swap("sin_tables", lambda x: x[:, :41]),
        "sin_tables has shape [2, 41, 1, 16], it must be [2, 42, 1, 16]",
    ),
    "sin_tables of fewer numbers": (
        swap("sin_tables", lambda x: x[..., :8]),
        "sin_tables has shape [2, 42, 1, 8], it must be [2, 42, 1, 16]",
    ),
    "cos_tables rank": (swap("cos_tables", lambda x: x[0]), "cos_tables has shape [42, 1, 16], its rank must be 4"),
    "rope_table beyond the tables": (swap("rope_table", number(2)), "rope table is 2, outside [-1, 2)"),
    "rope_table below -1": (swap("rope_table", number(-2)), "rope table is -2, outside [-1, 2)"),
    "negative window": (swap("window", number(-1)), "window is -1, it must be at least 0, which is none"),
    "window dtype": (swap("window", lambda x: x.astype(INT32)), "window has dtype int32, allowed: int64"),
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
    "unknown blocks of query": (swap("kinds", number(8 << 8 | 2 << 24)), f"q has blocks of kind 0, {KINDS}"),
    "unknown blocks of out": (swap("kinds", number(3 | 8 << 8 | 9 << 24)), f"o has blocks of kind 9, {KINDS}"),
    "scale dtype": (swap("scale", lambda x: x.astype(np.float64)), "scale has dtype float64, allowed: float32"),
    "bias shape": (swap("o_bias", lambda x: x[:95]), "o_bias has shape [95], it must be [96]"),
    "bias rank": (swap("o_bias", lambda x: x[None]), "o_bias has shape [1, 96], its rank must be 1"),
    "bias dtype": (swap("o_bias", lambda x: x.astype(np.float16)), "o_bias has dtype float16, allowed: float32"),
    "q_norm of another width": (
        swap("q_norm", lambda x: np.ones(32, x.dtype)),
        "q_norm has shape [32], it must be [16]",
    ),
    "k_norm of another width": (swap("k_norm", lambda x: x[:15]), "k_norm has shape [15], it must be [16]"),
    "k_norm dtype": (swap("k_norm", lambda x: x.astype(np.float16)), "k_norm has dtype float16, allowed: float32"),
    "optional dtype": (swap("optional", lambda x: x.astype(INT32)), "optional has dtype int32, allowed: int64"),
    "none": (
        swap("optional", number(0)),
        "got 3 optional weights, optional is 0: a bit for each, of 6 at most",
    ),
    "beyond the six": (
        swap("optional", number(0b1110000)),
        "got 3 optional weights, optional is 112: a bit for each, of 6 at most",
    ),
}

ALL_KINDS = f"allowed: 0 (float32), 1 (float16), 30 (bfloat16), {BLOCK_NAMES}"

STEP = {
    "nothing between": (
        both(
            *(put("layout", (0, of(role), what), 0) for role, what in (("gate", ROWS), ("up", ROWS), ("down", COLUMNS)))
        ),
        "layer 0: down has 0 columns, it must have at least 1",
    ),
    "no queries": (
        both(put("layout", (1, of("q"), ROWS), 0), put("layout", (1, of("o"), COLUMNS), 0)),
        "layer 1: o has 0 columns, it must have at least 1",
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
    "layout shape": (swap("layout", lambda x: x[:, :8].copy()), "layout has shape [2, 8, 5], it must be [2, 20, 5]"),
    "layout dtype": (swap("layout", lambda x: x.astype(INT32)), "layout has dtype int32, allowed: int64"),
    "no layers": (swap_caches(lambda x: x[:0]), "key_cache has no layers"),
    "more layers than caches": (
        swap("layout", lambda x: np.concatenate([x, x, x])),
        "layout has shape [6, 20, 5], it must be [2, 20, 5]",
    ),
    "caches of one layer": (
        swap_caches(lambda x: x[0]),
        "key_cache has shape [8, 16, 2, 16], its rank must be 5",
    ),
    "pack dtype": (swap("pack1", lambda x: x.astype(np.int8)), "pack has dtype int8, allowed: uint8"),
    "pack that is short": (
        swap("pack1", lambda x: x[:-10]),
        "layer 1: mlp_output_norm has 1 rows of 384 bytes from 43772 on in pack 1, which has 44151",
    ),
    "no such pack": (put("layout", (1, of("q"), PACK), 2), "layer 1: q is in pack 2, outside [0, 2)"),
    "negative pack": (put("layout", (1, of("q"), PACK), -2), "layer 1: q is in pack -2, outside [0, 2)"),
    "negative rows": (
        put("layout", (0, of("gate"), ROWS), -1),
        "layer 0: gate has -1 rows of 54 bytes from 24176 on in pack 0, which has 44164",
    ),
    "rows without end": (
        put("layout", (0, of("gate"), ROWS), 2**62),
        f"layer 0: gate has {2**62} rows of 54 bytes from 24176 on in pack 0, which has 44164",
    ),
    "negative offset": (
        put("layout", (0, of("gate"), OFFSET), -8),
        "layer 0: gate has 64 rows of 54 bytes from -8 on in pack 0, which has 44164",
    ),
    "norm of attention": (
        put("layout", (1, 0, COLUMNS), 95),
        "layer 1: attention_norm has kind 0 and shape [1, 95], it must be 0 (float32) and [1, 96]",
    ),
    "norm of the feed forward": (
        put("layout", (0, of("mlp_norm"), KIND), 1),
        "layer 0: mlp_norm has kind 1 and shape [1, 96], it must be 0 (float32) and [1, 96]",
    ),
    "last norm_weight": (
        swap("norm_weight", lambda x: x[:64]),
        "table has shape [12, 60], it must be [12, 40]",
    ),
    "no head, but its weight": (swap("head_kind", number(-1)), "head has shape [12, 96], its rank must be 1"),
    "no head, and a norm of another width": (
        both(swap("head_kind", number(-1)), swap("head", lambda x: as_float(x[0, :95]))),
        "head has shape [95], it must be [96]",
    ),
    "no head, and room for logits": (
        both(swap("head_kind", number(-1)), swap("head", lambda x: as_float(x[0]))),
        "output has shape [3, 12], it must be [3, 96]",
    ),
    "head": (swap("head", lambda x: x[:, :64]), "head has shape [12, 64], it must be [12, 96]"),
    "kind of the table": (swap("table_kind", number(8)), "table has shape [12, 60], it must be [12, 102]"),
    "key of the second layer": (
        put("layout", (1, of("k"), ROWS), 31),
        "layer 1: k and v have 31 and 32 rows, the pages hold 32 numbers a token",
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
        put("layout", (1, of("up"), ROWS), 63),
        "layer 1: gate has 64 rows, up has 63",
    ),
    "columns of the second layer": (
        put("layout", (1, of("up"), COLUMNS), 95),
        "layer 1: up has 95 columns, it must have 96",
    ),
    "bias of more rows": (
        put("layout", (1, of("k_bias")), [0, 0, 0, 1, 33]),
        "layer 1: k_bias has kind 0 and shape [1, 33], it must be 0 (float32) and [1, 32]",
    ),
    "bias of halves": (
        put("layout", (0, of("up_bias")), [0, 0, 1, 1, 64]),
        "layer 0: up_bias has kind 1 and shape [1, 64], it must be 0 (float32) and [1, 64]",
    ),
    "bias in no pack": (
        put("layout", (0, of("k_bias")), [-2, 0, 0, 1, 32]),
        "layer 0: k_bias is in pack -2, outside [0, 2)",
    ),
    "bias beyond its pack": (
        put("layout", (0, of("k_bias")), [0, 44_100, 0, 1, 32]),
        "layer 0: k_bias has 1 rows of 128 bytes from 44100 on in pack 0, which has 44164",
    ),
    **{
        f"no {role}": (
            put("layout", (1, of(role)), [-1, 0, 0, 0, 0]),
            f"layer 1: {role} is absent (pack -1), every layer must have it",
        )
        for role in LAYER_ROLES
        if role not in OPTIONAL_ROLES
    },
    "q_norm of another width": (
        put("layout", (1, of("q_norm"), COLUMNS), 32),
        "layer 1: q_norm has kind 0 and shape [1, 32], it must be 0 (float32) and [1, 16]",
    ),
    "k_norm of rows": (
        put("layout", (0, of("k_norm"), ROWS), 2),
        "layer 0: k_norm has kind 0 and shape [2, 16], it must be 0 (float32) and [1, 16]",
    ),
    "output norm of attention": (
        put("layout", (0, of("attention_output_norm"), COLUMNS), 95),
        "layer 0: attention_output_norm has kind 0 and shape [1, 95], it must be 0 (float32) and [1, 96]",
    ),
    "output norm of the feed forward": (
        put("layout", (1, of("mlp_output_norm"), KIND), 30),
        "layer 1: mlp_output_norm has kind 30 and shape [1, 96], it must be 0 (float32) and [1, 96]",
    ),
    "negative window": (put("options", (1, 0), -5), "layer 1: window is -5, it must be at least 0, which is none"),
    "rope table beyond the tables": (put("options", (0, 1), 2), "layer 0: rope table is 2, outside [-1, 2)"),
    "rope table below -1": (put("options", (1, 1), -2), "layer 1: rope table is -2, outside [-1, 2)"),
    "options shape": (swap("options", lambda x: x[:, :1].copy()), "options has shape [2, 1], it must be [2, 2]"),
    "options of fewer layers": (swap("options", lambda x: x[:1]), "options has shape [1, 2], it must be [2, 2]"),
    "options dtype": (swap("options", lambda x: x.astype(INT32)), "options has dtype int32, allowed: int64"),
    "cos_tables": (swap("cos_tables", lambda x: x[..., :7]), f"cos_tables has shape [2, 42, 1, 7], {TABLES_ARE}"),
    "sin_tables": (
        swap("sin_tables", lambda x: x[:1]),
        "sin_tables has shape [1, 42, 1, 16], it must be [2, 42, 1, 16]",
    ),
    "unknown activation": (
        swap("activation", number(2)),
        "activation is 2, allowed: 0 (silu), 1 (gelu_pytorch_tanh)",
    ),
    "residual_scale dtype": (
        swap("residual_scale", lambda x: x.astype(np.float64)),
        "residual_scale has dtype float64, allowed: float32",
    ),
    "columns cut a block": (
        both(put("layout", (0, of("gate"), ROWS), 60), put("layout", (0, of("down"), COLUMNS), 60)),
        "layer 0: down has 60 columns, not a multiple of the 32 of a block",
    ),
    "unknown blocks of query": (
        put("layout", (1, of("q"), KIND), 9),
        f"layer 1: q has kind 9, {ALL_KINDS}",
    ),
    "unknown blocks of gate": (
        put("layout", (0, of("gate"), KIND), -3),
        f"layer 0: gate has kind -3, {ALL_KINDS}",
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
    "DecoderStep": ("decoder_step", step_inputs, (3, 12)),
}
REFUSALS = {"NormLinear": NORM_LINEAR, "Embedding": EMBEDDING, "FeedForwardLayer": FEED_FORWARD}
REFUSALS |= {"AttentionLayer": ATTENTION, "DecoderStep": STEP}
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
    for function in ("AttentionLayer", "DecoderStep"):
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
        kernels.call("DecoderStep", *inputs.values(), np.zeros((3, 12), np.float32))
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
    if function in (least := {"DecoderStep": 27, "AttentionLayer": 21, "FeedForwardLayer": 11}):
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
