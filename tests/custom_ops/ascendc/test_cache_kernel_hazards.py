"""What the cache kernels do against hazards: each flag, barrier and queue is there for one, and bad indices do no harm.

Here kernels are called without the checks that the operators make before. A kernel from which one statement is taken
away must be refused by the emulator, which stands for the chip being wrong now and then.
"""

import re

import numpy as np
import pytest

from tests.custom_ops.ascendc.cache_kernel_calls import OP_KERNEL, CacheKernel, KernelRefusedError
from tests.custom_ops.int8_pages import pack, quantize, unpack
from tests.custom_ops.kernel_calls import BFLOAT16, INT8, assert_same_bits

FLOAT16 = np.dtype(np.float16)

NUM_BLOCKS, BLOCK = 70, (16, 1, 32)
BLOCK_BYTES = 2 * 16 * 32
UNTOUCHED = -123


class Scene:
    """Buffers for one kernel, and what must be in them afterwards. More indices than two windows hold."""

    def __init__(self, op, token_dtype=FLOAT16, cache_dtype=FLOAT16, indices=None):
        self.op = op
        rng = np.random.default_rng(0)
        make = {"reshape_and_cache": self.reshape, "copy_blocks": self.copy}.get(op, self.move)
        if cache_dtype == INT8:
            make, cache_dtype = self.quantize, FLOAT16  # the pages are made afresh
        bits = rng.integers(0, 2**16, (2, NUM_BLOCKS, *BLOCK), dtype=np.uint16)
        self.caches = bits.view(cache_dtype)
        self.expected = self.caches.copy()
        self.output = {"done": np.full(1, UNTOUCHED, np.int32)}
        self.expected_output = np.zeros(1, np.int32)
        make(rng, token_dtype, indices)

    def quantize(self, rng, token_dtype, slots):
        """Into pages of int8: several loads a core, the scales of which change what is left of those before."""
        slots, shape = self.slots(rng, slots), (NUM_BLOCKS, *BLOCK[:2])
        empty = pack(np.full((*shape, 96), 7, np.int8), np.full(shape, 7.5, np.float32))
        self.caches = np.stack([empty, empty])
        self.store(rng, token_dtype, slots, 96)
        stored = (slots >= 0) & (slots < NUM_BLOCKS * 16)
        places = np.unravel_index(slots[stored], shape[:2])
        expected = []
        for name in ("key", "value"):
            values, scales = (part.copy() for part in unpack(empty))
            values[places], scales[places] = quantize(self.inputs[name][stored])
            expected.append(pack(values, scales))
        self.expected = np.stack(expected)

    def reshape(self, rng, token_dtype, slots):
        slots = self.slots(rng, slots)
        tokens = self.store(rng, token_dtype, slots, 32)
        stored = (slots >= 0) & (slots < NUM_BLOCKS * 16)
        by_slot = self.expected.reshape(2, -1, 1, 32)
        by_slot[:, slots[stored]] = tokens[:, stored].astype(np.float32).astype(self.caches.dtype)

    def slots(self, rng, given):
        if given is not None:
            return given
        return np.concatenate([rng.permutation(NUM_BLOCKS * 16)[:1000], np.full(1200, -1)]).astype(np.int32)

    def store(self, rng, token_dtype, slots, head_dim):
        """Inputs for these slots; gives their tokens."""
        self.shapes = (len(slots), 1, head_dim, NUM_BLOCKS, 16, self.caches.itemsize)
        tokens = rng.normal(size=(2, len(slots), 1, head_dim)).astype(token_dtype)
        self.inputs = {"key": tokens[0], "value": tokens[1], **self.cache_buffers(), "slot_mapping": slots}
        return tokens

    def copy(self, rng, _, pairs):
        """Pairs that collide with one before them, then pairs that do not."""
        if pairs is None:
            pairs = np.concatenate(
                [[(0, 1), (1, 2)], [(3, 4), (5, 4)], np.arange(6, 66).reshape(30, 2), np.full((1050, 2), -1), [(2, 3)]]
            ).astype(np.int32)
        self.shapes = (NUM_BLOCKS, BLOCK_BYTES, len(pairs))
        self.inputs = {**self.cache_buffers(), "pairs": pairs}
        for source, destination in pairs:
            if 0 <= source < NUM_BLOCKS and 0 <= destination < NUM_BLOCKS:
                self.expected[:, destination] = self.expected[:, source]

    def move(self, rng, _, ids):
        """read_blocks or write_blocks, the latter into layer 1 of 2."""
        if ids is None:
            ids = np.concatenate([rng.permutation(NUM_BLOCKS), np.full(1100, -1)]).astype(np.int32)
        self.shapes = (NUM_BLOCKS, BLOCK_BYTES, len(ids)) + ((1,) if self.op == "write_blocks" else ())
        pages = rng.integers(0, 2**16, (2, 2, len(ids), *BLOCK), dtype=np.uint16).view(self.caches.dtype)
        moved = (ids >= 0) & (ids < NUM_BLOCKS)
        if self.op == "write_blocks":
            self.inputs = {**self.cache_buffers(), "pages": pages, "block_ids": ids}
            self.expected[:, ids[moved]] = pages[1][:, moved]
        else:
            self.inputs = {**self.cache_buffers(), "block_ids": ids}
            self.output = {"pages": pages[0].copy()}
            self.expected_output = pages[0]
            self.expected_output[:, moved] = self.caches[:, ids[moved]]

    def cache_buffers(self):
        return {"key_cache": self.caches[0], "value_cache": self.caches[1]}

    def check(self, kernel, cores):
        kernel.call(self.shapes, cores, **self.inputs, **self.output)
        assert_same_bits(self.caches, self.expected)
        assert_same_bits(*self.output.values(), self.expected_output)


RESHAPES = {
    (token, cache): CacheKernel("reshape_and_cache", {"DTYPE_KEY": token, "DTYPE_KEY_CACHE": cache})
    for token, cache in (("half", "half"), ("half", "bfloat16_t"), ("float", "int8_t"), ("half", "int8_t"))
}
MOVERS = {op: CacheKernel(op) for op in ("copy_blocks", "read_blocks", "write_blocks")}
KERNELS = {"_".join(types): kernel for types, kernel in RESHAPES.items()} | MOVERS
DTYPES = {"float": np.dtype(np.float32), "half": FLOAT16, "bfloat16_t": BFLOAT16, "int8_t": INT8}


def scene_for(kernel, indices=None):
    if not kernel.types:
        return Scene(kernel.op, indices=indices)
    return Scene(kernel.op, DTYPES[kernel.types["DTYPE_KEY"]], DTYPES[kernel.types["DTYPE_KEY_CACHE"]], indices)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Gives the unchanged kernel of a name, compiled once."""
    libraries = {}

    def give(name):
        if name not in libraries:
            libraries[name] = KERNELS[name].compile(tmp_path_factory.mktemp(name))
        return libraries[name]

    return give


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "bfloat16" in name else []) for name in KERNELS]
)
@pytest.mark.parametrize("cores", [1, 3])
def test_the_scenes_are_right_without_a_change(compiled, name, cores):
    scene_for(KERNELS[name]).check(compiled(name), cores)


LOW, HIGH = np.iinfo(np.int32).min, np.iinfo(np.int32).max
BAD_INDICES = {
    "half_half": [[0, NUM_BLOCKS * 16], [LOW, 3], [HIGH, -2], [NUM_BLOCKS * 16 - 1, NUM_BLOCKS * 16 + 1]],
    "half_int8_t": [[0, NUM_BLOCKS * 16], [LOW, 3], [HIGH, -2], [NUM_BLOCKS * 16 - 1, NUM_BLOCKS * 16 + 1]],
    "copy_blocks": [[(0, NUM_BLOCKS)], [(NUM_BLOCKS, 0), (1, 2)], [(-1, 3), (3, -1)], [(LOW, 0), (0, HIGH)]],
    "read_blocks": [[0, NUM_BLOCKS], [LOW, HIGH], [-1, NUM_BLOCKS - 1]],
    "write_blocks": [[0, NUM_BLOCKS], [LOW, HIGH], [-2, NUM_BLOCKS - 1]],
}


@pytest.mark.parametrize(("name", "indices"), [(name, bad) for name, lists in BAD_INDICES.items() for bad in lists])
def test_an_index_out_of_range_is_skipped(compiled, name, indices):
    scene_for(KERNELS[name], np.array(indices, np.int32)).check(compiled(name), 2)


WHERE = {
    "reshape_and_cache_custom.cpp": ["half_half"],
    "reshape_and_quantize.h": ["half_int8_t", "float_int8_t"],
    "row_reader.h": ["half_bfloat16_t", "half_half"],
    "byte_mover.h": ["read_blocks"],
    "index_window.h": ["copy_blocks"],
    "done_output.h": ["copy_blocks"],
    "pipe_order.h": ["copy_blocks"],
    "copy_blocks_custom.cpp": ["copy_blocks"],
}
"""For each file with statements against hazards, the kernels in which they work."""

STATEMENT = re.compile(
    r"(AscendC::)?(PipeBarrier|SetFlag|WaitFlag|OrderPipes)<[^;]*;|\w+_\.(EnQue|FreeTensor|Free)\([^;]*;"
    r"|IsUnfinished\(\w+\) \|\| |\|\| IsUnfinished\(\w+\)(?=\) FinishWrites)"
)


def cache_kernel_files():
    """The cache kernels' sources and all headers that these include."""
    found, ahead = set(), {f"{kernel.op}_custom.cpp" for kernel in KERNELS.values()}
    while ahead:
        found |= ahead
        texts = [(OP_KERNEL / file).read_text() for file in ahead]
        included = {name for text in texts for name in re.findall(r'#include "([^"]+)"', text)}
        ahead = included - found - {"kernel_operator.h"}
    return sorted(found)


def mutants():
    """Every way to take one statement away: (file, its changed text)."""
    for file in cache_kernel_files():
        text = (OP_KERNEL / file).read_text()
        for found in STATEMENT.finditer(text):
            changed = text[: found.start()] + text[found.end() :]
            line = text.count("\n", 0, found.start()) + 1
            yield pytest.param(file, changed, id=f"{file}:{line}:{found[0]}")


@pytest.mark.slow
@pytest.mark.parametrize(("file", "text"), list(mutants()))
def test_without_one_statement_the_emulator_refuses(file, text, tmp_path):
    for name in WHERE[file]:
        folder = tmp_path / name
        folder.mkdir()
        kernel = KERNELS[name].compile(folder, {file: text})
        try:
            scene_for(KERNELS[name]).check(kernel, 2)
        except KernelRefusedError:
            return
    pytest.fail("no kernel was refused")
