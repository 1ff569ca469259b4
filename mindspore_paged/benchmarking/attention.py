"""paged_attention of a decode step timed beside a plain read of memory and the same attention of built-in operators."""

import ctypes
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from tqdm import tqdm

from mindspore_paged.custom_ops.build import cpu_library
from mindspore_paged.custom_ops.ops import PagedAttention

ROWS, CONTEXT, BLOCK_SIZE = 8, 4096, 16
BLOCKS_A_ROW = CONTEXT // BLOCK_SIZE
ROUNDS = 9
READ_BYTES = 512 * 2**20
# Enough layers that one step reads this much: far more than a last-level cache holds, which would flatter.
MIN_STEP_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Shape:
    """Heads of one attention layer."""

    name: str
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def layer_bytes(self) -> int:
        """What one layer's attention has to read: keys and values of all rows, float32."""
        return 2 * ROWS * CONTEXT * self.kv_heads * self.head_dim * 4

    @property
    def layers(self) -> int:
        """How many layers one step goes through."""
        return -(-MIN_STEP_BYTES // self.layer_bytes)


SHAPES = (
    Shape("LLaMA-3 8B (H=32 K=8 D=128)", heads=32, kv_heads=8, head_dim=128),
    Shape("SmolLM2 135M (H=9 K=3 D=64)", heads=9, kv_heads=3, head_dim=64),
)


NUM_ROUNDS = len(SHAPES) * ROUNDS


class PagedLayers(nn.Cell):
    """Layers of paged_attention, the output of one being the query of the next."""

    def __init__(self, shape: Shape, key_caches: ParameterTuple, value_caches: ParameterTuple):
        super().__init__()
        self.key_caches, self.value_caches, self.layers = key_caches, value_caches, shape.layers
        self.attention = PagedAttention(shape.head_dim**-0.5, "cpu")

    def construct(self, query, block_table, rows, context_lens):
        """[rows, H, D] -> the same."""
        for layer in range(self.layers):
            query = self.attention(
                query, self.key_caches[layer], self.value_caches[layer], block_table, rows, context_lens
            )
        return query


class BuiltInLayers(nn.Cell):
    """The same with built-in operators: gather the pages of each row, then batched matmul, mask and softmax."""

    def __init__(self, shape: Shape, key_caches: ParameterTuple, value_caches: ParameterTuple):
        super().__init__()
        self.key_caches, self.value_caches, self.layers = key_caches, value_caches, shape.layers
        self.scale = shape.head_dim**-0.5
        self.grouped = (ROWS, shape.kv_heads, shape.heads // shape.kv_heads, shape.head_dim)
        self.gathered = (ROWS, CONTEXT, shape.kv_heads, shape.head_dim)
        self.positions = Tensor(np.arange(CONTEXT, dtype=np.int32).reshape(1, 1, 1, CONTEXT))

    def construct(self, query, block_table, rows, context_lens):
        """[rows, H, D] -> the same."""
        blocks = ops.gather(block_table, rows, 0).reshape(-1)
        hidden = self.positions >= context_lens.reshape(-1, 1, 1, 1)
        for layer in range(self.layers):
            keys = ops.gather(self.key_caches[layer], blocks, 0).reshape(self.gathered).transpose(0, 2, 3, 1)
            values = ops.gather(self.value_caches[layer], blocks, 0).reshape(self.gathered).transpose(0, 2, 1, 3)
            scores = ops.matmul(query.reshape(self.grouped), keys) * self.scale
            weights = ops.softmax(ops.masked_fill(scores, hidden, -np.inf), axis=-1)
            query = ops.matmul(weights, values).reshape(query.shape)
        return query


def make_caches(shape: Shape, prefix: str, rng: np.random.Generator) -> ParameterTuple:
    """Pages of all layers, filled with normal numbers."""
    pages = (ROWS * BLOCKS_A_ROW + 1, BLOCK_SIZE, shape.kv_heads, shape.head_dim)
    return ParameterTuple(
        Parameter(Tensor(rng.standard_normal(pages, dtype=np.float32)), name=f"{prefix}.{layer}", requires_grad=False)
        for layer in range(shape.layers)
    )


def make_inputs(shape: Shape, rng: np.random.Generator) -> tuple[Tensor, ...]:
    """Query, block_table with the blocks at random places, rows, context_lens."""
    blocks = 1 + rng.permutation(ROWS * BLOCKS_A_ROW).astype(np.int32)
    arrays = (
        rng.standard_normal((ROWS, shape.heads, shape.head_dim), dtype=np.float32),
        blocks.reshape(ROWS, BLOCKS_A_ROW),
        np.arange(ROWS, dtype=np.int32),
        np.full(ROWS, CONTEXT, np.int32),
    )
    return tuple(Tensor(array) for array in arrays)


def seconds(run: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def bandwidth_reader() -> Callable[[], None]:
    """Make a call that reads READ_BYTES once with all threads."""
    read = ctypes.CDLL(str(cpu_library())).ReadFloats
    read.restype = ctypes.c_float
    buffer = np.ones(READ_BYTES // 4, np.float32)
    return lambda: read(ctypes.c_void_p(buffer.ctypes.data), ctypes.c_int64(buffer.size))


def measure(shape: Shape, read: Callable[[], None], progress: tqdm) -> dict:
    """Time the three in turn; returns the figures of one line of the report."""
    rng = np.random.default_rng(0)
    key_caches, value_caches = (make_caches(shape, prefix, rng) for prefix in ("key", "value"))
    inputs = make_inputs(shape, rng)
    paged, built_in = (cell(shape, key_caches, value_caches) for cell in (PagedLayers, BuiltInLayers))
    difference = float(np.abs(paged(*inputs).asnumpy() - built_in(*inputs).asnumpy()).max())  # and compiles both
    rounds = []
    for _ in range(ROUNDS):
        rounds.append(
            (
                READ_BYTES / seconds(read) / 1e9,
                seconds(lambda: paged(*inputs).asnumpy()) / shape.layers,
                seconds(lambda: built_in(*inputs).asnumpy()) / shape.layers,
            )
        )
        progress.update()
    gigabytes = shape.layer_bytes / 1e9
    return {
        "shape": shape.name,
        "layers": shape.layers,
        "read_bandwidth_gb_per_s": statistics.median(read for read, _, _ in rounds),
        "paged_attention_ms": 1e3 * statistics.median(paged for _, paged, _ in rounds),
        "paged_attention_gb_per_s": statistics.median(gigabytes / paged for _, paged, _ in rounds),
        "share_of_read_bandwidth": statistics.median(gigabytes / paged / read for read, paged, _ in rounds),
        "built_in_ms": 1e3 * statistics.median(built_in for _, _, built_in in rounds),
        "times_faster_than_built_in": statistics.median(built_in / paged for _, paged, built_in in rounds),
        "largest_difference": difference,
    }


def measure_all(progress: tqdm) -> list[dict]:
    """The figures of every shape; `progress` is told of each round."""
    ms.set_context(mode=ms.GRAPH_MODE)
    return [measure(shape, bandwidth_reader(), progress) for shape in SHAPES]
