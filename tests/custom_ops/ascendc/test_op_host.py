"""The operators as CANN sees them, against stand-ins for CANN's headers: definitions, launches, refusals."""

import ast
import struct

import pytest

from tests.custom_ops.ascendc.op_host_calls import GOOD, OP_KERNEL, ROOT, run

SYSTEM_WORKSPACE = 16 * 2**20  # what the stand-in says that Ascend C itself needs

COLUMNS = {
    "ReshapeAndCacheCustom": {
        (token, cache) for token in ("float32", "float16", "bfloat16") for cache in ("float16", "bfloat16", "int8")
    },
    "PagedAttentionCustom": {
        *(("float32", cache) for cache in ("float16", "bfloat16")),
        *((cache, cache) for cache in ("float16", "bfloat16")),
        *((query, "int8") for query in ("float32", "float16", "bfloat16")),
    },
}
"""Of those with more than one type: that of the tokens or the query, that of the caches."""


def parameters_of_construct():
    """For each Cell of ops.py, the names of what its construct takes."""
    tree = ast.parse((ROOT / "custom_ops/ops.py").read_text())
    return {
        cell.name: [argument.arg for argument in method.args.args if argument.arg != "self"]
        for cell in tree.body
        if isinstance(cell, ast.ClassDef)
        for method in cell.body
        if isinstance(method, ast.FunctionDef) and method.name == "construct"
    }


def test_inputs_and_attributes_are_those_of_the_cells(definitions):
    """In the order in which ops.py passes them; scale and window are arguments of the Cell, not of its construct.

    Those of a layer are in test_layer_op_host.py.
    """
    cells = parameters_of_construct()
    assert set(definitions) > {f"{name}Custom" for name in cells} == set(GOOD)
    for name, expected in cells.items():
        definition = definitions[f"{name}Custom"]
        inputs = [entry["name"] for entry in definition["inputs"]]
        attributes = [attribute for attribute, _ in definition["attributes"]]
        assert inputs + attributes == ([*expected, "scale", "window"] if name == "PagedAttention" else expected)


def test_an_output_is_never_called_like_an_input(definitions):
    """It would become one in/out argument, which MindSpore's count of arguments refuses."""
    for definition in definitions.values():
        names = [entry["name"] for entry in definition["inputs"] + definition["outputs"]]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("op", GOOD)
def test_type_lists_are_columns(definitions, op):
    """Every list has one entry a compiled kernel, no kernel is compiled twice, and all types of a cell are there."""
    parameters = definitions[op]["inputs"] + definitions[op]["outputs"]
    columns = list(zip(*(entry["dtypes"] for entry in parameters), strict=True))
    by_name = {entry["name"]: entry["dtypes"] for entry in parameters}
    assert len(set(columns)) == len(columns)
    assert all(entry["required"] and entry["formats"] == [2] * len(columns) for entry in parameters)
    assert by_name["key_cache"] == by_name["value_cache"]
    assert set(by_name["key_cache"]) == {"float16", "bfloat16", "int8"}
    tokens = by_name.get("key") or by_name.get("query") or by_name["key_cache"]
    equal_types = {(dtype, dtype) for dtype in ("float16", "bfloat16", "int8")}
    assert set(zip(tokens, by_name["key_cache"])) == COLUMNS.get(op, equal_types)
    assert by_name.get("value", tokens) == tokens == by_name.get("attention", tokens)
    assert all(set(by_name[name]) == {"int32"} for name in ("done", "slot_mapping", "pairs", "rows") if name in by_name)
    assert by_name.get("pages", by_name["key_cache"]) == by_name["key_cache"]


@pytest.mark.parametrize("op", GOOD)
def test_every_op_is_built_for_both_chips_and_has_its_kernel(definitions, op):
    assert definitions[op]["chips"] == ["ascend910b", "ascend910_93"]
    name = "".join("_" + letter.lower() if letter.isupper() else letter for letter in op)[1:]
    parameters = definitions[op]["inputs"] + definitions[op]["outputs"]
    arguments = [f"GM_ADDR {entry['name']}" for entry in parameters] + ["GM_ADDR workspace", "GM_ADDR tiling"]
    kernel = " ".join((OP_KERNEL / f"{name}.cpp").read_text().split())
    assert f"__aicore__ void {name}({', '.join(arguments)}" in kernel


@pytest.mark.parametrize("op", ["ReshapeAndCacheCustom", "CopyBlocksCustom", "WriteBlocksCustom"])
def test_writers_have_a_small_output_of_their_own(driver, op):
    launch, said = run(driver, op)
    assert (launch["output_shape"], launch["output_dtype"], said) == ([1], "int32", "")
    assert launch["tiling_key"] == 0


@pytest.mark.parametrize("op", GOOD)
def test_only_an_op_with_a_workspace_has_that_of_ascend_c(driver, op):
    """GetUserWorkspace, by which a kernel finds its own, skips it."""
    name = "".join("_" + letter.lower() if letter.isupper() else letter for letter in op)[1:]
    launch, _ = run(driver, op)
    if "GetUserWorkspace(workspace)" in (OP_KERNEL / f"{name}.cpp").read_text():
        assert launch["workspace"] > SYSTEM_WORKSPACE
    else:
        assert launch["workspace"] == 0


@pytest.mark.parametrize("op", GOOD)
def test_every_input_but_the_caches_is_made_contiguous(definitions, op):
    """A copy of a cache would take what is written in its place."""
    contiguous = {entry["name"]: bool(entry["contiguous"]) for entry in definitions[op]["inputs"]}
    assert contiguous == {name: name not in ("key_cache", "value_cache") for name in contiguous}


def test_read_blocks_gives_keys_then_values(driver):
    launch, _ = run(driver, "ReadBlocksCustom")
    assert launch["output_shape"] == [2, 3, 16, 4, 32]
    assert launch["output_dtype"] == "float16"


def test_paged_attention_is_like_its_query_and_starts_all_cores_at_once(driver):
    launch, _ = run(driver, "PagedAttentionCustom")
    assert (launch["output_shape"], launch["output_dtype"]) == ([5, 8, 32], "float32")
    assert (launch["tiling_key"], launch["block_dim"], launch["schedule_mode"]) == (1, 40, 1)
    assert bytes.fromhex(launch["tiling"]).endswith(struct.pack("f", 0.25))


@pytest.mark.parametrize(("dtype", "key", "blocks"), [("float16", 2, 20), ("float32", 1, 40)])
def test_paged_attention_takes_the_cube_cores_for_large_groups_of_16_bit_queries(driver, dtype, key, blocks):
    inputs = [f"{dtype}:5,32,32", *GOOD["PagedAttentionCustom"][1:]]
    launch, _ = run(driver, "PagedAttentionCustom", inputs)
    assert (launch["tiling_key"], launch["block_dim"], launch["schedule_mode"]) == (key, blocks, 1)


@pytest.mark.parametrize(("tokens", "heads", "key"), [(1, 4, 1), (1, 8, 1), (2, 8, 3), (5, 4, 3), (1, 12, 2)])
def test_paged_attention_of_small_groups_may_take_the_cube_cores(driver, tokens, heads, key):
    """Where so many queries can share a load of KV that it pays; the device decides."""
    inputs = [f"float16:{tokens},{heads},32", *GOOD["PagedAttentionCustom"][1:4], *[f"int32:{tokens}"] * 2]
    launch, _ = run(driver, "PagedAttentionCustom", inputs)
    assert (launch["tiling_key"], launch["block_dim"]) == (key, 40 if key == 1 else 20)


@pytest.mark.parametrize(("query", "key"), [("float32", 1), ("float16", 2), ("bfloat16", 2)])
def test_paged_attention_over_int8_takes_the_cube_cores_for_16_bit_queries(driver, query, key):
    cache = "int8:9,16,4,36"
    inputs = [f"{query}:5,32,32", cache, cache, *GOOD["PagedAttentionCustom"][3:]]
    launch, said = run(driver, "PagedAttentionCustom", inputs)
    assert (launch["tiling_key"], launch["output_dtype"], said) == (key, query, "")


@pytest.mark.parametrize(("op", "count"), [("ReadBlocksCustom", 3), ("WriteBlocksCustom", 3), ("CopyBlocksCustom", 1)])
@pytest.mark.parametrize("block", [(16, 1, 20), (16, 1, 36), (16, 3, 68), (128, 8, 132)])
@pytest.mark.parametrize("cores", [1, 40])
def test_blocks_of_int8_are_cut_with_their_scales(driver, op, count, block, cores):
    shape = ",".join(map(str, (9, *block)))
    tail = {"ReadBlocksCustom": ["int32:3"], "WriteBlocksCustom": [f"int8:6,2,3,{shape[2:]}", "int32:3"]}
    launch, said = run(driver, op, [f"int8:{shape}"] * 2 + tail.get(op, ["int32:3,2"]), vector_cores=cores)
    assert said == ""
    fields = struct.unpack("<Q" + "I" * ((len(launch["tiling"]) // 2 - 8) // 4), bytes.fromhex(launch["tiling"]))
    block_bytes, (piece_bytes, pieces) = fields[0], fields[-2:] if op != "WriteBlocksCustom" else fields[4:6]
    assert block_bytes == block[0] * block[1] * block[2]
    assert block_bytes % 32 == piece_bytes % 32 == 0
    assert (pieces - 1) * piece_bytes < block_bytes <= pieces * piece_bytes
    assert launch["block_dim"] == min(cores, 2 * count * pieces)


@pytest.mark.parametrize(("op", "count"), [("ReadBlocksCustom", 3), ("WriteBlocksCustom", 3), ("CopyBlocksCustom", 1)])
@pytest.mark.parametrize("cores", [1, 7, 40])
@pytest.mark.parametrize("block", [(16, 1, 16), (16, 4, 32), (128, 8, 128), (256, 128, 128)])
def test_blocks_are_cut_into_pieces_that_fill_the_cores(driver, op, count, cores, block):
    """Pieces cover a block once, none is empty or too large for UB, and no core is idle if there is work for it."""
    shape = ",".join(map(str, (9, *block)))
    tail = {"ReadBlocksCustom": ["int32:3"], "WriteBlocksCustom": [f"float16:6,2,3,{shape[2:]}", "int32:3"]}
    launch, said = run(driver, op, [f"float16:{shape}"] * 2 + tail.get(op, ["int32:3,2"]), vector_cores=cores)
    assert said == ""
    fields = struct.unpack("<Q" + "I" * ((len(launch["tiling"]) // 2 - 8) // 4), bytes.fromhex(launch["tiling"]))
    block_bytes, (piece_bytes, pieces) = fields[0], fields[-2:] if op != "WriteBlocksCustom" else fields[4:6]
    assert block_bytes == 2 * block[0] * block[1] * block[2]
    assert 0 < piece_bytes <= 32 * 1024
    assert piece_bytes % 512 == 0
    assert (pieces - 1) * piece_bytes < block_bytes <= pieces * piece_bytes
    total = 2 * count * pieces
    assert launch["block_dim"] == min(cores, total)
    if total < cores:
        assert total >= cores // 2 or piece_bytes <= 2048


REFUSED = [
    ("ReshapeAndCacheCustom", 0, "float32:5,128", "reshape_and_cache: key has shape [5, 128], its rank must be 3"),
    (
        "ReshapeAndCacheCustom",
        0,
        "int32:5,4,32",
        "reshape_and_cache: key has another dtype than float32, float16 and bf",
    ),
    ("ReshapeAndCacheCustom", 0, "float32:6,4,32", "key has shape [6, 4, 32], it must be [5, 4, 32]"),
    ("ReshapeAndCacheCustom", 1, "float16:5,4,32", "value has another dtype than key"),
    ("ReshapeAndCacheCustom", 1, "float32:5,4,64", "value has shape [5, 4, 64], it must be [5, 4, 32]"),
    ("ReshapeAndCacheCustom", 2, "float32:9,16,4,32", "key_cache has another dtype than float16, bfloat16 and int8"),
    (
        "ReshapeAndCacheCustom",
        (2, 3),
        "int8:9,16,4,4",
        "[9, 16, 4, 4], the last dimension of int8 must be head_dim + 4",
    ),
    ("ReshapeAndCacheCustom", (2, 3), "int8:9,16,4,32", "key has shape [5, 4, 32], it must be [5, 4, 28]"),
    ("ReshapeAndCacheCustom", 3, "int8:9,16,4,36", "value_cache has another dtype than key_cache"),
    ("PagedAttentionCustom", (1, 2), "int8:9,16,4,32", "query has shape [5, 8, 32], it must be [5, 8, 28]"),
    ("ReshapeAndCacheCustom", 3, "bfloat16:9,16,4,32", "value_cache has another dtype than key_cache"),
    (
        "ReshapeAndCacheCustom",
        3,
        "float16:9,16,4,16",
        "value_cache has shape [9, 16, 4, 16], it must be [9, 16, 4, 32]",
    ),
    ("ReshapeAndCacheCustom", 4, "float32:5", "slot_mapping has another dtype than int32"),
    ("ReshapeAndCacheCustom", 4, "int32:0", "slot_mapping has shape [0], its dimensions must be in [1, 2147483647]"),
    ("ReshapeAndCacheCustom", (2, 3), "float16:9,24,4,32", "block_size 24 is not a multiple of 16"),
    ("ReshapeAndCacheCustom", (2, 3), "float16:9,16,3,8", "KV heads * head_dim is 3 * 8, it must be a multiple of 16"),
    ("ReshapeAndCacheCustom", (2, 3), "float16:200000000,16,4,32", "more slots than an int32 can number"),
    ("CopyBlocksCustom", 2, "int32:3,3", "copy_blocks: pairs has shape [3, 3], it must be [3, 2]"),
    ("CopyBlocksCustom", 2, "int32:2000000000,2", "at most 1073741823 pairs are allowed"),
    ("ReadBlocksCustom", 2, "int32:3,1", "read_blocks: block_ids has shape [3, 1], its rank must be 1"),
    ("WriteBlocksCustom", 2, "float16:6,2,4,16,4,32", "pages has shape [6, 2, 4, 16, 4, 32], it must be [6, 2, 3, 16"),
    ("WriteBlocksCustom", 2, "bfloat16:6,2,3,16,4,32", "write_blocks: pages has another dtype than key_cache"),
    (
        "PagedAttentionCustom",
        0,
        "float16:5,6,32",
        "paged_attention: query has 6 heads, not a multiple of the 4 KV heads",
    ),
    ("PagedAttentionCustom", 0, "float16:5,8,64", "query has shape [5, 8, 64], it must be [5, 8, 32]"),
    ("PagedAttentionCustom", 0, "float16:5,1024,32", "query has 256 heads for each KV head, at most 64 are supported"),
    ("PagedAttentionCustom", 0, "float32:5,128,32", "query has 32 heads for each KV head, at most 16 are supported"),
    ("PagedAttentionCustom", 0, "bfloat16:5,8,32", "query has another dtype than float32 and that of key_cache"),
    ("PagedAttentionCustom", 4, "int32:6", "rows has shape [6], it must be [5]"),
    ("PagedAttentionCustom", 5, "int32:4", "context_lens has shape [4], it must be [5]"),
]


@pytest.mark.parametrize(("op", "places", "bad", "message"), REFUSED)
def test_refused_in_one_line(driver, op, places, bad, message):
    inputs = list(GOOD[op])
    for place in places if isinstance(places, tuple) else (places,):
        inputs[place] = bad
    launch, said = run(driver, op, inputs)
    assert launch is None
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("head_dim", [8, 24, 272])
def test_head_dims_that_the_attention_kernel_cannot_do(driver, head_dim):
    cache = f"float16:9,16,4,{head_dim}"
    launch, said = run(
        driver, "PagedAttentionCustom", [f"float16:5,8,{head_dim}", cache, cache, "int32:2,7", "int32:5", "int32:5"]
    )
    assert launch is None
    assert f"head_dim {head_dim} is not supported: it must be a multiple of 16, at most 256" in said


@pytest.mark.parametrize("head_dim", [16, 48, 160])
def test_head_dims_that_the_kernels_cannot_do_in_int8(driver, head_dim):
    cache = f"int8:9,16,4,{head_dim + 4}"
    token = f"float16:5,4,{head_dim}"
    launch, said = run(driver, "ReshapeAndCacheCustom", [token, token, cache, cache, "int32:5"])
    assert launch is None
    assert f"head_dim {head_dim} is not supported for int8: it must be a multiple of 32, at most 128" in said


@pytest.mark.parametrize(
    ("heads", "kv_heads", "message"),
    [
        (
            1024,
            512,
            "query has 1024 heads of 64 numbers, together more than 65535, which is as far as a copy can stride",
        ),
        (1024, 1024, "query has 1024 heads of 64 numbers, together more than 65535"),
        (1023, 1023, None),
    ],
)
def test_tokens_that_a_copy_cannot_stride_over(driver, heads, kv_heads, message):
    cache = f"float16:9,16,{kv_heads},64"
    inputs = [f"float16:5,{heads},64", cache, cache, "int32:2,7", "int32:5", "int32:5"]
    launch, said = run(driver, "PagedAttentionCustom", inputs)
    assert (launch is None) == (message is not None)
    assert message is None or message in said


@pytest.mark.parametrize("layer", ["-1", "6"])
def test_layer_outside_the_pages(driver, layer):
    launch, said = run(driver, "WriteBlocksCustom", attributes=layer)
    assert (launch, said) == (None, f"write_blocks: layer {layer} is outside [0, 6)\n")


def test_a_window_that_holds_every_context_is_none(driver):
    """Rows of 7 blocks of 16 tokens."""
    windows = {}
    for given in (0, 1, 111, 112, 2**40):
        launch, said = run(driver, "PagedAttentionCustom", attributes=f"0.25,{given}")
        assert said == ""
        windows[given] = struct.unpack("If", bytes.fromhex(launch["tiling"])[-8:])[0]
    assert windows == {0: 0, 1: 1, 111: 111, 112: 0, 2**40: 0}


def test_a_negative_window(driver):
    launch, said = run(driver, "PagedAttentionCustom", attributes="0.25,-1")
    assert launch is None
    assert said == "paged_attention: window -1 is negative, it must be the tokens seen, or 0 for all\n"


@pytest.mark.parametrize(
    ("op", "given", "name"),
    [
        ("WriteBlocksCustom", "none", "layer"),
        ("PagedAttentionCustom", "none", "scale"),
        ("PagedAttentionCustom", "0.25", "window"),
    ],
)
def test_a_missing_attribute_is_named(driver, op, given, name):
    launch, said = run(driver, op, attributes=given)
    assert launch is None
    assert f"attribute {name} is missing" in said


@pytest.mark.parametrize("op", GOOD)
def test_a_missing_input_is_named(driver, definitions, op):
    launch, said = run(driver, op, GOOD[op][:-1])
    assert launch is None
    assert f"{definitions[op]['inputs'][-1]['name']} is missing" in said
