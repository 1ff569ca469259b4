"""The operators inside static MindSpore graphs."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindspore_paged.custom_ops.ops import CopyBlocks, PagedAttention, ReshapeAndCache
from mindspore_paged.errors import ConfigError
from tests.custom_ops.attention_reference import Scene, assert_close, reference_attention
from tests.custom_ops.kernel_calls import BFLOAT16

NUM_BLOCKS, BLOCK_SIZE, HEADS, KV_HEADS, HEAD_DIM = 6, 16, 6, 2, 16
SCALE = 0.3
MS_DTYPES = {"float32": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16}


@pytest.fixture(autouse=True, scope="module")
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


class StoreAndAttend(nn.Cell):
    """One layer's use of its pages: store the new tokens, then attend; nobody uses the writer's output."""

    def __init__(self, cache_dtype=ms.float32, window=0):
        super().__init__()
        shape = (NUM_BLOCKS, BLOCK_SIZE, KV_HEADS, HEAD_DIM)
        self.key_cache = Parameter(Tensor(np.full(shape, np.nan), cache_dtype), name="key_cache")
        self.value_cache = Parameter(Tensor(np.full(shape, np.nan), cache_dtype), name="value_cache")
        self.reshape_and_cache = ReshapeAndCache("cpu")
        self.paged_attention = PagedAttention(SCALE, "cpu", window)

    def construct(self, query, key, value, slot_mapping, block_table, rows, context_lens):
        self.reshape_and_cache(key, value, self.key_cache, self.value_cache, slot_mapping)
        return self.paged_attention(query, self.key_cache, self.value_cache, block_table, rows, context_lens)


class ReadCopyRead(nn.Cell):
    """Reads a block before and after it is written over."""

    def __init__(self, caches):
        super().__init__()
        self.key_cache = Parameter(Tensor(caches[0]), name="key_cache")
        self.value_cache = Parameter(Tensor(caches[1]), name="value_cache")
        self.copy_blocks = CopyBlocks("cpu")
        self.attention = PagedAttention(SCALE, "cpu")

    def construct(self, query, pairs, block_table, rows, context_lens):
        before = self.attention(query, self.key_cache, self.value_cache, block_table, rows, context_lens)
        self.copy_blocks(self.key_cache, self.value_cache, pairs)
        after = self.attention(query, self.key_cache, self.value_cache, block_table, rows, context_lens)
        return before, after


def step(rng, positions, row=0, padding=0):
    """New tokens of one row of the table, then padding."""
    count = len(positions)
    block_table = np.array([[4, 2, 5], [3, 0, 0]], np.int32)
    positions = np.array(positions)
    slots = block_table[row, positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
    query = rng.normal(size=(count + padding, HEADS, HEAD_DIM)).astype(np.float32)
    key, value = rng.normal(size=(2, count + padding, KV_HEADS, HEAD_DIM)).astype(np.float32)

    def pad(values, filler):
        return np.concatenate([values, np.full(padding, filler)]).astype(np.int32)

    return [query, key, value, pad(slots, -1), block_table, pad(np.full(count, row), -1), pad(positions + 1, 0)]


def run(cell, inputs):
    return cell(*(Tensor(array) for array in inputs)).asnumpy()


def expected_output(cell, inputs, window=0):
    """From the pages as they are after the step."""
    query, _, _, _, block_table, rows, context_lens = inputs
    key_cache, value_cache = (cache.asnumpy() for cache in (cell.key_cache, cell.value_cache))
    return reference_attention(Scene(query, key_cache, value_cache, block_table, rows, context_lens, SCALE, window))


@pytest.mark.parametrize("cache_dtype", MS_DTYPES)
def test_pages_persist_between_steps_and_are_shared_by_the_graphs(cache_dtype):
    """A prefill graph, a padded prefill graph and a decode graph, one after the other on the same pages."""
    rng = np.random.default_rng(0)
    cell = StoreAndAttend(MS_DTYPES[cache_dtype])
    written = {}
    for positions, padding in ((range(20), 0), (range(20, 25), 3), ([25], 0), ([26], 0)):
        inputs = step(rng, positions, padding=padding)
        output = run(cell, inputs)
        written.update(zip(inputs[3].tolist(), inputs[1], strict=True))
        assert_close(output, expected_output(cell, inputs))
        assert np.all(output[len(positions) :] == 0)
    assert len(cell.compile_cache) == 3
    keys = cell.key_cache.asnumpy().astype(np.float32).reshape(-1, KV_HEADS, HEAD_DIM)
    numpy_dtype = {"bfloat16": BFLOAT16}.get(cache_dtype, cache_dtype)
    for slot, key in written.items():
        if slot >= 0:
            np.testing.assert_array_equal(keys[slot], key.astype(numpy_dtype).astype(np.float32))
    unused = np.setdiff1d(np.arange(len(keys)), list(written))
    assert np.all(np.isnan(keys[unused]))


def test_a_window_is_part_of_the_operator():
    cell, rng = StoreAndAttend(window=5), np.random.default_rng(5)
    for positions in (range(20), [20]):
        inputs = step(rng, positions)
        assert_close(run(cell, inputs), expected_output(cell, inputs, window=5))
    with pytest.raises(ConfigError, match="window -1 is negative: it must be the number of tokens seen, or 0 for all"):
        PagedAttention(SCALE, "cpu", -1)


def test_graph_keeps_reads_and_writes_in_order():
    rng = np.random.default_rng(1)
    caches = rng.normal(size=(2, 4, BLOCK_SIZE, KV_HEADS, HEAD_DIM)).astype(np.float32)
    query = rng.normal(size=(1, HEADS, HEAD_DIM)).astype(np.float32)
    block_table, rows, context_lens = np.array([[1]], np.int32), np.zeros(1, np.int32), np.array([16], np.int32)
    before, after = ReadCopyRead(caches)(
        *(Tensor(array) for array in (query, np.array([[3, 1]], np.int32), block_table, rows, context_lens))
    )
    assert_close(before.asnumpy(), reference_attention(Scene(query, *caches, block_table, rows, context_lens, SCALE)))
    caches[:, 1] = caches[:, 3]
    assert_close(after.asnumpy(), reference_attention(Scene(query, *caches, block_table, rows, context_lens, SCALE)))


def test_failure_reaches_python_and_the_way_back():
    """A graph that failed never runs again; the Cell's other graphs go on, and a fresh compile repairs it."""
    rng = np.random.default_rng(2)
    cell = StoreAndAttend()
    run(cell, step(rng, range(18)))
    good = step(rng, [18, 19])
    bad = [array.copy() for array in good]
    bad[3][1] = NUM_BLOCKS * BLOCK_SIZE
    run(cell, good)
    pages = cell.key_cache.asnumpy().copy()

    with pytest.raises(RuntimeError, match=r"reshape_and_cache: token 1: slot 96 is outside \[-1, 96\)"):
        run(cell, bad)
    np.testing.assert_array_equal(cell.key_cache.asnumpy(), pages)

    other_graph = step(rng, [20])
    assert_close(run(cell, other_graph), expected_output(cell, other_graph))

    with pytest.raises(RuntimeError, match="error occurred in the previous step"):
        run(cell, good)
    cell.compile_cache.clear()
    assert_close(run(cell, good), expected_output(cell, good))


def test_attention_failure_names_token_value_and_bound():
    inputs = step(np.random.default_rng(3), [0, 1])
    inputs[4][0, 0] = NUM_BLOCKS
    inputs[3][:] = -1
    with pytest.raises(
        RuntimeError, match=r"paged_attention: token 0: block 6 at block_table\[0, 0\] is outside \[0, 6\)"
    ):
        run(StoreAndAttend(), inputs)


class Bfloat16Query(nn.Cell):
    """A query that the graph itself makes bfloat16."""

    def __init__(self, caches):
        super().__init__()
        self.key_cache, self.value_cache = (Parameter(Tensor(c), name=n) for c, n in zip(caches, "kv", strict=True))
        self.attention = PagedAttention(SCALE, "cpu")
        self.cast = ops.Cast()

    def construct(self, query, block_table, rows, context_lens):
        query = self.cast(query, ms.bfloat16)
        output = self.attention(query, self.key_cache, self.value_cache, block_table, rows, context_lens)
        return output, self.cast(output, ms.float32)


def test_output_has_the_querys_type():
    rng = np.random.default_rng(4)
    caches = rng.normal(size=(2, 4, BLOCK_SIZE, KV_HEADS, HEAD_DIM)).astype(np.float32)
    query = rng.normal(size=(1, HEADS, HEAD_DIM)).astype(BFLOAT16)
    block_table, rows, context_lens = np.array([[1, 3]], np.int32), np.zeros(1, np.int32), np.array([30], np.int32)
    inputs = (query.astype(np.float32), block_table, rows, context_lens)
    output, widened = Bfloat16Query(caches)(*(Tensor(array) for array in inputs))
    assert output.dtype == ms.bfloat16
    expected = reference_attention(Scene(query, *caches, block_table, rows, context_lens, SCALE))
    assert_close(widened.asnumpy().astype(BFLOAT16), expected)


@pytest.mark.parametrize("make", [ReshapeAndCache, CopyBlocks, lambda backend: PagedAttention(1.0, backend)])
def test_unknown_backend_is_refused(make):
    with pytest.raises(ConfigError, match="unknown ops backend 'cuda'; allowed: cpu"):
        make("cuda")


def test_library_that_is_not_built_is_a_config_error(tmp_path, monkeypatch):
    monkeypatch.setattr("mindspore_paged.custom_ops.backends.cpu_library.__defaults__", (tmp_path,))
    with pytest.raises(ConfigError, match="run `python -m mindspore_paged.custom_ops.build`"):
        CopyBlocks("cpu")
