"""Every emulated vector instruction in each of its forms against NumPy, and what a launch reports."""

import numpy as np
import pytest

from tests.custom_ops.ascendc.emulated import (
    KERNELS,
    WRITTEN,
    Argument,
    call_kernel,
    load_library,
    names,
    start_build,
)

ELEMENTS = 1024
COUNT, MASK, BITS, STRIDED = range(4)
TYPES = {"float": (np.float32, 0), "half": (np.float16, 1), "int32": (np.int32, 2), "int16": (np.int16, 3)}
SCALAR = 3
TILING = np.dtype(
    [
        *((name, np.int32) for name in ("op", "form", "type", "count", "repeats", "order")),
        ("mask", np.uint64),
        ("bits", np.uint64, 2),
        ("scalar", np.float32),
        ("padding", np.int32),
    ]
)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("vector") / "vector.so"
    return load_library(start_build(KERNELS / "vector_host.cpp", path, "-O0", "-march=native"), path)


class Instruction:
    """One call of an instruction: its operands before, and how the forms choose elements."""

    def __init__(self, library, name, type_name="float", **settings):
        dtype, self.type_number = TYPES[type_name]
        self.library, self.name, self.dtype = library, name, np.dtype(dtype)
        self.per_repeat = 256 // self.dtype.itemsize
        self.repeats = settings.pop("repeats", 2)
        self.form = settings.pop("form", COUNT)
        self.mask = settings.pop("mask", self.per_repeat - 3)
        self.bits = settings.pop("bits", [0xF0F0_0000_1234_5678, 0x8000_0000_0000_0001])
        self.count = settings.pop("count", self.per_repeat + 5)
        self.order = settings.pop("order", 0)
        rng = np.random.default_rng(7)
        values = rng.uniform(0.25, 4, (3, ELEMENTS)) if self.dtype.kind == "f" else rng.integers(-9, 9, (3, ELEMENTS))
        self.a, self.b, self.before = settings.pop("values", values.astype(self.dtype))
        self.flags = rng.integers(0, 256, ELEMENTS // 8, dtype=np.uint8)
        assert not settings
        self.figures = {}

    def run(self):
        """Run the instruction and give the destination."""
        y = self.before.copy()
        tiling = np.zeros(1, TILING)
        tiling["op"] = names(self.library, "OperationNames").index(f"k{self.name}")
        for field in ("form", "count", "repeats", "order", "mask"):
            tiling[field] = getattr(self, field)
        tiling["type"], tiling["bits"], tiling["scalar"] = self.type_number, self.bits, SCALAR
        arguments = [Argument("x", np.stack([self.a, self.b])), Argument("y", y, WRITTEN)]
        arguments += [Argument("flags", self.flags), Argument("tiling", tiling)]
        self.figures = call_kernel(self.library, "arithmetic", arguments)
        return y

    def chosen(self):
        """Indices into destination and sources of the elements that take part."""
        if self.form == COUNT:
            index = np.arange(self.count)
            return index, index, index
        element = np.arange(self.per_repeat)
        active = element < self.mask
        if self.form == BITS:
            bits = np.array(self.bits, np.uint64)
            active = (bits[element // 64] >> np.uint64(1) * (element % 64).astype(np.uint64)) & np.uint64(1) == 1
        element = element[active]
        repeats = np.arange(self.repeats // 2 if self.form == STRIDED else self.repeats)[:, None]
        index = (repeats * self.per_repeat + element).ravel()
        if self.form != STRIDED:
            return index, index, index
        per_block = 32 // self.dtype.itemsize
        block, within = element // per_block, element % per_block
        first = ((repeats * 16 + block * 2) * per_block + within).ravel()
        second = (repeats * per_block + within).ravel()
        return index, first, second

    def expected(self, function):
        """Apply `function(a, b, before)` in the type's precision to the elements that take part."""
        to, first, second = self.chosen()
        wide = np.float32 if self.dtype.kind == "f" else np.int64
        with np.errstate(over="ignore"):
            values = function(*(part.astype(wide) for part in (self.a[first], self.b[second], self.before[to])))
        y = self.before.copy()
        y[to] = values.astype(self.dtype)
        return y


MAPS = {
    "Add": lambda a, b, _: a + b,
    "Sub": lambda a, b, _: a - b,
    "Mul": lambda a, b, _: a * b,
    "Max": lambda a, b, _: np.maximum(a, b),
    "Min": lambda a, b, _: np.minimum(a, b),
    "Adds": lambda a, *_: a + SCALAR,
    "Muls": lambda a, *_: a * SCALAR,
    "Maxs": lambda a, *_: np.maximum(a, SCALAR),
    "Mins": lambda a, *_: np.minimum(a, SCALAR),
}
FLOAT_MAPS = {
    "Div": lambda a, b, _: a / b,
    "Exp": lambda a, *_: np.exp(a),
    "Ln": lambda a, *_: np.log(a),
    "Abs": lambda a, *_: np.abs(a),
    "Sqrt": lambda a, *_: np.sqrt(a),
    "Rsqrt": lambda a, *_: 1 / np.sqrt(a),
    "Reciprocal": lambda a, *_: 1 / a,
    "Relu": lambda a, *_: np.maximum(a, 0),
    "LeakyRelu": lambda a, *_: np.where(a >= 0, a, SCALAR * a),
    "MulAddDst": lambda a, b, before: a * b + before,
    "FusedMulAdd": lambda a, b, before: a * before + b,
    "Axpy": lambda a, _, before: SCALAR * a + before,
}
SIGNED = {"Abs", "Relu", "LeakyRelu"}


def signed_operands(dtype):
    """Operands with both signs."""
    return np.random.default_rng(8).normal(size=(3, ELEMENTS)).astype(dtype)


@pytest.mark.parametrize("form", [COUNT, MASK, BITS, STRIDED], ids=["count", "mask", "bits", "strided"])
@pytest.mark.parametrize("type_name", TYPES)
def test_maps(library, type_name, form):
    maps = MAPS | FLOAT_MAPS if type_name in ("float", "half") else MAPS
    for name, function in maps.items():
        extra = {"values": signed_operands(TYPES[type_name][0])} if name in SIGNED else {}
        instruction = Instruction(library, name, type_name, form=form, **extra)
        tolerance = {"float": 3e-7, "half": 1e-3}.get(type_name, 0)
        np.testing.assert_allclose(
            instruction.run(), instruction.expected(function), rtol=tolerance, atol=tolerance / 4, err_msg=name
        )


@pytest.mark.parametrize("name", ["Add", "Sub", "Mul", "Div", "Sqrt"])
def test_half_results_are_rounded_once(library, name):
    instruction = Instruction(library, name, "half", count=ELEMENTS)
    expected = instruction.expected((MAPS | FLOAT_MAPS)[name])
    np.testing.assert_array_equal(instruction.run(), expected)


@pytest.mark.parametrize("type_name", ["float", "half"])
@pytest.mark.parametrize("form", [COUNT, MASK, BITS])
def test_duplicate(library, type_name, form):
    instruction = Instruction(library, "Duplicate", type_name, form=form)
    np.testing.assert_array_equal(instruction.run(), instruction.expected(lambda a, *_: np.full_like(a, SCALAR)))


@pytest.mark.parametrize("type_name", ["float", "half"])
@pytest.mark.parametrize("form", [MASK, BITS])
def test_copy(library, type_name, form):
    instruction = Instruction(library, "Copy", type_name, form=form)
    np.testing.assert_array_equal(instruction.run(), instruction.expected(lambda a, *_: a))


@pytest.mark.parametrize("type_name", ["float", "half"])
def test_brcb_spreads_eight_elements(library, type_name):
    instruction = Instruction(library, "Brcb", type_name)
    per_block = 32 // instruction.dtype.itemsize
    np.testing.assert_array_equal(instruction.run()[: 8 * per_block], np.repeat(instruction.a[:8], per_block))


def test_copy_within_ub(library):
    instruction = Instruction(library, "CopyWithin", form=COUNT, count=64)
    np.testing.assert_array_equal(instruction.run()[:64], instruction.a[:64])
    instruction = Instruction(library, "CopyWithin", form=MASK)
    np.testing.assert_array_equal(instruction.run()[:24], instruction.a[:48].reshape(3, 2, 8)[:, 0].ravel())


def test_gather(library):
    offsets = (np.random.default_rng(3).integers(0, ELEMENTS, ELEMENTS) * 4).astype(np.uint32)
    values = np.random.default_rng(4).normal(size=(3, ELEMENTS)).astype(np.float32)
    values[1] = offsets.view(np.float32)
    instruction = Instruction(library, "Gather", values=values, count=100)
    np.testing.assert_array_equal(instruction.run()[:100], values[0][offsets[:100] // 4])


def masked(instruction):
    """Repeats as rows, NaN where the mask leaves an element out."""
    values = np.full(ELEMENTS, np.nan, np.float64)
    index, *_ = instruction.chosen()
    values[index] = instruction.a[index]
    return values[: instruction.repeats * instruction.per_repeat].reshape(instruction.repeats, -1)


@pytest.mark.parametrize("type_name", ["float", "half"])
@pytest.mark.parametrize("form", [MASK, BITS])
def test_whole_reduce_sum(library, type_name, form):
    instruction = Instruction(library, "WholeReduceSum", type_name, form=form, repeats=4)
    expected = np.nansum(masked(instruction), axis=1)
    tolerance = 1e-6 if type_name == "float" else 4e-3
    np.testing.assert_allclose(instruction.run()[:4], expected, rtol=tolerance)


@pytest.mark.parametrize("order", range(4), ids=["value_index", "index_value", "value", "index"])
@pytest.mark.parametrize("form", [MASK, BITS])
@pytest.mark.parametrize("type_name", ["float", "half"])
@pytest.mark.parametrize("name", ["WholeReduceMax", "WholeReduceMin"])
def test_whole_reduce_extremes(library, name, type_name, form, order):
    instruction = Instruction(library, name, type_name, form=form, repeats=4, order=order)
    best, best_index = (np.nanmax, np.nanargmax) if name.endswith("Max") else (np.nanmin, np.nanargmin)
    values, indices = best(masked(instruction), axis=1), best_index(masked(instruction), axis=1)
    y = instruction.run()
    index_type = f"u{instruction.dtype.itemsize}"
    if order == 3:
        np.testing.assert_array_equal(y.view(np.uint32)[:4], indices)
    elif order == 2:
        np.testing.assert_array_equal(y[:4], values)
    else:
        np.testing.assert_array_equal(y[order:8:2], values)
        np.testing.assert_array_equal(y.view(index_type)[1 - order : 8 : 2], indices)


@pytest.mark.parametrize("type_name", ["float", "half"])
@pytest.mark.parametrize(
    ("name", "function"), [("BlockReduceSum", np.sum), ("BlockReduceMax", np.max), ("PairReduceSum", np.sum)]
)
def test_group_reductions(library, name, function, type_name):
    instruction = Instruction(library, name, type_name)
    instruction.mask = instruction.per_repeat
    group = 2 if name.startswith("Pair") else 32 // instruction.dtype.itemsize
    size = 2 * instruction.per_repeat // group
    expected = function(instruction.a[: size * group].astype(np.float64).reshape(-1, group), axis=1)
    np.testing.assert_allclose(instruction.run()[:size], expected, rtol=1e-6 if type_name == "float" else 2e-3)


@pytest.mark.parametrize("type_name", ["float", "half"])
@pytest.mark.parametrize("count", [5, 64, 1000])
def test_reduce_over_a_tensor(library, type_name, count):
    instruction = Instruction(library, "ReduceSum", type_name, count=count)
    expected = instruction.a[:count].sum(dtype=np.float64)
    np.testing.assert_allclose(instruction.run()[0], expected, rtol=1e-6 if type_name == "float" else 1e-2)
    for name, best in (("ReduceMax", np.argmax), ("ReduceMin", np.argmin)):
        instruction = Instruction(library, name, type_name, count=count, order=1)
        y, index = instruction.run(), best(instruction.a[:count])
        assert y[0] == instruction.a[index]
        assert y.view(f"u{y.itemsize}")[1] == index


COMPARISONS = (np.less, np.greater, np.equal, np.less_equal, np.greater_equal, np.not_equal)


@pytest.mark.parametrize("mode", range(6))
@pytest.mark.parametrize("type_name", ["float", "half"])
def test_compare(library, type_name, mode):
    values = np.random.default_rng(5).integers(0, 4, (3, ELEMENTS)).astype(TYPES[type_name][0])
    for name, right in (("Compare", values[1]), ("CompareScalar", SCALAR)):
        instruction = Instruction(library, name, type_name, values=values, count=256, order=mode)
        bits = np.unpackbits(instruction.run().view(np.uint8)[:32], bitorder="little")
        np.testing.assert_array_equal(bits, COMPARISONS[mode](values[0], right)[:256])


@pytest.mark.parametrize("type_name", ["float", "half"])
def test_select(library, type_name):
    for mode in range(3):
        instruction = Instruction(library, "Select", type_name, count=200, order=mode)
        bits = np.unpackbits(instruction.flags, bitorder="little").astype(bool)
        if mode == 0:  # the same bits in every repeat
            bits = np.tile(bits[: instruction.per_repeat], 8)
        other = instruction.dtype.type(SCALAR) if mode == 1 else instruction.b[:200]
        np.testing.assert_array_equal(instruction.run()[:200], np.where(bits[:200], instruction.a[:200], other))


def test_a_launch_reports_what_it_moved_and_did(library):
    instruction = Instruction(library, "Add", count=100)
    instruction.run()
    assert instruction.figures["mte2_bytes"] == 3 * ELEMENTS * 4 + ELEMENTS // 8
    assert instruction.figures["mte2_copies"] == 4
    assert instruction.figures["mte3_bytes"] == ELEMENTS * 4
    assert instruction.figures["mte3_copies"] == 1
    assert instruction.figures["scalar_bytes_read"] == TILING.itemsize
    assert instruction.figures["vector_instructions"] == 1
    assert instruction.figures["vector_repeats"] == 2
    assert instruction.figures["peak_ub"] == 3 * ELEMENTS * 4 + ELEMENTS // 8
    assert instruction.figures["slowest_mte2_bytes"] == instruction.figures["mte2_bytes"]
