"""The operators between a layer's products as CANN sees them: definitions, launches, refusals."""

import struct

import numpy as np
import pytest

from mindspore_paged.custom_ops.ascend_layer_ops import MOST_WIDTH, WIDTH_STEP, ActAndMul, FusedAddRmsNorm, RopeAndCache
from tests.custom_ops.ascendc.test_op_host import OP_KERNEL, run

CACHE = "float16:9,16,4,32"
GOOD = {
    "FusedAddRmsNormCustom": ["float16:5,64", "float16:5,64", "float16:64", "float16:64"],
    "RopeAndCacheCustom": [
        "float16:5,512", "float16:512", "float16:2,32", "float32:5,32", CACHE, CACHE, "int32:5",
    ],
    "ActAndMulCustom": ["float16:5,64", "float16:64"],
}  # fmt: skip
ATTRIBUTES = {"FusedAddRmsNormCustom": "1,1,3", "RopeAndCacheCustom": "1,7", "ActAndMulCustom": "1,1"}
CELLS = {
    "FusedAddRmsNormCustom": (FusedAddRmsNorm, ["epsilon", "residual_scale", "options"]),
    "RopeAndCacheCustom": (RopeAndCache, ["epsilon", "options"]),
    "ActAndMulCustom": (ActAndMul, ["activation", "has_bias"]),
}
"""What each Cell passes behind the tensors."""
OUTPUTS = {
    "FusedAddRmsNormCustom": ("normed", [5, 64]),
    "RopeAndCacheCustom": ("query", [5, 8, 32]),
    "ActAndMulCustom": ("gated", [5, 32]),
}


@pytest.mark.parametrize("op", GOOD)
def test_inputs_and_attributes_are_those_of_the_cells(definitions, op):
    cell, attributes = CELLS[op]
    arguments = cell.construct.__code__.co_varnames[1 : cell.construct.__code__.co_argcount]
    definition = definitions[op]
    assert [entry["name"] for entry in definition["inputs"]] == list(arguments)
    assert [name for name, _ in definition["attributes"]] == attributes
    assert [entry["name"] for entry in definition["outputs"]] == [OUTPUTS[op][0]]
    assert len(definition["inputs"]) <= 10, "MindSpore sorts them as text"
    assert definition["chips"] == ["ascend910b", "ascend910_93"]


@pytest.mark.parametrize("op", GOOD)
def test_type_lists_are_columns(definitions, op):
    parameters = definitions[op]["inputs"] + definitions[op]["outputs"]
    columns = list(zip(*(entry["dtypes"] for entry in parameters), strict=True))
    by_name = {entry["name"]: entry["dtypes"] for entry in parameters}
    tokens = by_name[parameters[0]["name"]]
    caches = by_name.pop("key_cache", tokens)
    assert len(set(columns)) == len(columns) == (9 if op == "RopeAndCacheCustom" else 3)
    assert set(tokens) == {"float32", "float16", "bfloat16"}
    assert by_name.pop("value_cache", caches) == caches
    assert set(by_name.pop("rotation", ["float32"])) == {"float32"}
    assert set(by_name.pop("slot_mapping", ["int32"])) == {"int32"}
    assert all(dtypes == tokens for dtypes in by_name.values())
    assert all(entry["required"] and entry["formats"] == [2] * len(columns) for entry in parameters)


@pytest.mark.parametrize("op", GOOD)
def test_the_kernel_takes_what_the_definition_says(definitions, op):
    name = "".join("_" + letter.lower() if letter.isupper() else letter for letter in op)[1:]
    parameters = definitions[op]["inputs"] + definitions[op]["outputs"]
    arguments = [f"GM_ADDR {entry['name']}" for entry in parameters] + ["GM_ADDR workspace", "GM_ADDR tiling"]
    kernel = " ".join((OP_KERNEL / f"{name}.cpp").read_text().split())
    assert f"__aicore__ void {name}({', '.join(arguments)}" in kernel


@pytest.mark.parametrize("op", GOOD)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_launches(driver, op, dtype):
    inputs = [text if text == CACHE else text.replace("float16", dtype) for text in GOOD[op]]
    launch, said = run(driver, op, inputs, ATTRIBUTES[op])
    assert said == ""
    assert (launch["output_shape"], launch["output_dtype"]) == (OUTPUTS[op][1], dtype)
    assert (launch["workspace"], launch["tiling_key"]) == (0, 0)
    assert 5 <= launch["block_dim"] <= 40


def test_numbers_reach_the_kernel(driver):
    launch, _ = run(driver, "FusedAddRmsNormCustom", GOOD["FusedAddRmsNormCustom"], "0.25,0.5,3")
    assert struct.unpack("3I2f", bytes.fromhex(launch["tiling"])) == (5, 64, 3, 0.25, 0.5)
    launch, _ = run(driver, "RopeAndCacheCustom", GOOD["RopeAndCacheCustom"], "0.25,5", vector_cores=2)
    assert struct.unpack("9If", bytes.fromhex(launch["tiling"])) == (5, 8, 4, 32, 32, 144, 16, 64, 5, 0.25)
    launch, _ = run(driver, "ActAndMulCustom", ["float16:3,8192", "float16:8192"], "1,0", vector_cores=6)
    assert struct.unpack("6I", bytes.fromhex(launch["tiling"])) == (3, 4096, 2048, 2, 1, 0)


@pytest.mark.parametrize("tokens", [1, 3, 64])
@pytest.mark.parametrize("width", [16, 272, 1216, 5632, 28672])
@pytest.mark.parametrize("cores", [1, 7, 40])
def test_parts_of_gates_cover_a_row_and_fill_the_cores(driver, tokens, width, cores):
    inputs = [f"float16:{tokens},{2 * width}", f"float16:{2 * width}"]
    launch, _ = run(driver, "ActAndMulCustom", inputs, "0,0", vector_cores=cores)
    part, parts = struct.unpack("6I", bytes.fromhex(launch["tiling"]))[2:4]
    assert part % WIDTH_STEP == 0
    assert (parts - 1) * part < width <= parts * part
    assert launch["block_dim"] == min(cores, tokens * parts)
    assert part <= 2048
    assert tokens * parts >= cores or part < 256


def test_a_cache_of_int8(driver):
    inputs = [text if text != CACHE else "int8:9,16,4,36" for text in GOOD["RopeAndCacheCustom"]]
    launch, said = run(driver, "RopeAndCacheCustom", inputs, "1,7")
    assert (launch["output_shape"], said) == ([5, 8, 32], "")


REFUSED = [
    ("FusedAddRmsNormCustom", {0: "float16:5,24"}, None, "added has shape [5, 64], it must be [5, 24]"),
    ("FusedAddRmsNormCustom", {1: "float16:6,64"}, None, "fused_add_rms_norm: added has shape [6, 64], it must be [5,"),
    ("FusedAddRmsNormCustom", {3: "float32:64"}, None, "weight has another dtype than x"),
    ("FusedAddRmsNormCustom", {2: "float16:32"}, None, "added_weight has shape [32], it must be [64]"),
    ("FusedAddRmsNormCustom", {}, "1,1,4", "options 4 is outside [0, 4)"),
    ("FusedAddRmsNormCustom", {}, "1,1", "attribute options is missing"),
    ("RopeAndCacheCustom", {0: "float16:5,256", 1: "float16:256"}, None, "qkv has 256 columns, no queries beside keys"),
    ("RopeAndCacheCustom", {0: "float16:6,512"}, None, "rope_and_cache: qkv has shape [6, 512], it must be [5, 512]"),
    ("RopeAndCacheCustom", {2: "float16:1,32"}, None, "head_norms has shape [1, 32], it must be [2, 32]"),
    ("RopeAndCacheCustom", {3: "float16:5,32"}, None, "rotation has another dtype than float32"),
    ("RopeAndCacheCustom", {3: "float32:5,24"}, None, "the width of rotation 24 is not supported: it must be a mult"),
    ("RopeAndCacheCustom", {3: "float32:5,48"}, None, "the width of rotation 48 is not supported: it must be a mult"),
    ("RopeAndCacheCustom", {6: "float32:5"}, None, "slot_mapping has another dtype than int32"),
    ("RopeAndCacheCustom", {}, "1,8", "options 8 is outside [0, 8)"),
    ("ActAndMulCustom", {0: "float16:5,48", 1: "float16:48"}, None, "half the width of gate_up 24 is not supported"),
    ("ActAndMulCustom", {0: "float16:5,33", 1: "float16:33"}, None, "gate_up has 33 columns, they must be even"),
    ("ActAndMulCustom", {1: "float16:32"}, None, "act_and_mul: bias has shape [32], it must be [64]"),
    ("ActAndMulCustom", {}, "2,1", "activation 2 is outside [0, 2)"),
    ("ActAndMulCustom", {}, "0,-1", "has_bias -1 is outside [0, 2)"),
]


@pytest.mark.parametrize(("op", "bad", "attributes", "message"), REFUSED)
def test_refused_in_one_line(driver, op, bad, attributes, message):
    inputs = [bad.get(place, text) for place, text in enumerate(GOOD[op])]
    launch, said = run(driver, op, inputs, attributes or ATTRIBUTES[op])
    assert launch is None
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("width", [8, 24, MOST_WIDTH + WIDTH_STEP])
def test_widths_that_the_norm_cannot_do(driver, width):
    inputs = [f"float16:5,{width}"] * 2 + [f"float16:{width}"] * 2
    launch, said = run(driver, "FusedAddRmsNormCustom", inputs, "1,1,3")
    assert launch is None
    message = f"the width of x {width} is not supported: it must be a multiple of {WIDTH_STEP}, at most {MOST_WIDTH}"
    assert message in said


@pytest.mark.parametrize("head_dim", [8, 24, 144])
def test_heads_that_the_rotation_cannot_do(driver, head_dim):
    cache, width = f"float16:9,16,4,{head_dim}", 16 * head_dim
    tokens = [f"float16:5,{width}", f"float16:{width}", f"float16:2,{head_dim}", "float32:5,16"]
    launch, said = run(driver, "RopeAndCacheCustom", [*tokens, cache, cache, "int32:5"], "1,7")
    assert launch is None
    assert f"head_dim {head_dim} is not supported: it must be a multiple of 16, at most 128" in said


def test_every_part_of_a_token_is_some_core_s(driver):
    """Heads in parts of one kind; with one token on 40 cores of one head each."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        group, kv_heads, tokens = (int(rng.integers(1, 9)) for _ in range(3))
        width, cache = (group + 2) * kv_heads * 64, f"float16:9,16,{kv_heads},64"
        inputs = [f"float16:{tokens},{width}", f"float16:{width}", "float16:2,64", f"float32:{tokens},64"]
        launch, _ = run(driver, "RopeAndCacheCustom", [*inputs, cache, cache, f"int32:{tokens}"], "1,7")
        fields = struct.unpack("9If", bytes.fromhex(launch["tiling"]))
        each = fields[7]
        parts = -(-group * kv_heads // each) + 2 * -(-kv_heads // each)
        assert fields[:3] == (tokens, group * kv_heads, kv_heads)
        assert launch["block_dim"] == min(40, tokens * parts)
        assert tokens * parts >= 40 or each == 1
