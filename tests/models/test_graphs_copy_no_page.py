"""No graph copies a pool of pages: MindSpore would by a TensorMove, where it does not dare to share a Parameter."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindspore_paged.custom_ops.ops import CopyBlocks
from mindspore_paged.engine.building.graph_report import count_nodes
from mindspore_paged.engine.execution.kv_pool import KVPagePool
from mindspore_paged.formats.weight_format import FLOAT32
from mindspore_paged.models.model_step import ModelStep
from mindspore_paged.models.parallel import ONE_RANK
from mindspore_paged.step_inputs import table_only
from mindspore_paged.tensor_parallel import WHOLE, TensorParallel
from mindspore_paged.weights.checkpoint import open_checkpoint
from tests.models.families import FAMILIES, write_folder
from tests.models.test_parallel import AloneAmongRanks

LENGTH, BLOCK_SIZE, ROWS = 64, 16, 2
EXECUTIONS = {
    "operator by operator": (lambda layers: 2 * layers, {}),
    "of an NPU": (lambda layers: 2 * layers, {"ops_backend": "ascend_emulator", "dtype": ms.float16}),
    "layers, among ranks": (
        lambda layers: 2 * layers + 2,
        {"formats": lambda _: FLOAT32, "parallel": TensorParallel(0, 2)},
    ),
    "a whole step": (lambda _: 1, {"formats": lambda _: FLOAT32}),
}
"""How many operators of ours a graph has, and what its Cell is made with."""

AT_ONCE = {("qwen3, tied", name) for name in EXECUTIONS} | {("gemma3_text, as 27b", "of an NPU")}
"""The others are for the slow tier."""


def make_step(config, ops_backend="cpu", dtype=ms.float32, formats=None, parallel=WHOLE):
    share = parallel.share(config)
    pool = KVPagePool.allocate(
        config.num_hidden_layers, 8, BLOCK_SIZE, share.num_key_value_heads, config.head_dim,
        str(dtype).lower(), (ROWS, LENGTH // BLOCK_SIZE), ops_backend,
        layers_together=formats is not None and parallel.size == 1,
    )  # fmt: skip
    ranks = ONE_RANK if parallel.size == 1 else AloneAmongRanks()
    return ModelStep(
        config, pool, LENGTH, dtype, ops_backend, share_layers=True, parallel=parallel, ranks=ranks, formats=formats
    )


@pytest.mark.parametrize(
    ("family", "execution"),
    [
        pytest.param(family, execution, marks=() if (family, execution) in AT_ONCE else pytest.mark.slow)
        for family in FAMILIES
        for execution in EXECUTIONS
    ],
)
def test_a_step_has_its_operators_and_copies_nothing(tmp_path, family, execution):
    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})
    num_customs, made_with = EXECUTIONS[execution]
    config = open_checkpoint(write_folder(tmp_path, family)).model_config.for_length(LENGTH)
    step = make_step(config, **made_with)
    nothing = table_only(np.zeros((1, 2), np.int32), np.zeros(1, np.int32))
    step.compile(*map(Tensor, nothing.padded(4, 2, ROWS * LENGTH // BLOCK_SIZE).arrays()))
    nodes = count_nodes(step)
    assert nodes["Custom"] == num_customs(config.num_hidden_layers)
    assert nodes["TensorMove"] == 0


class KeepsThePagesOfBefore(nn.Cell):
    """Gives a cache as it was before a write: nothing but a copy can."""

    def __init__(self):
        super().__init__()
        pages = np.zeros((4, BLOCK_SIZE, 1, 16), np.float32)
        self.key_cache = Parameter(Tensor(pages), name="key_cache")
        self.value_cache = Parameter(Tensor(pages), name="value_cache")
        self.copy_blocks = CopyBlocks("cpu")

    def construct(self, pairs):
        """Keys before, and after."""
        before = ops.reshape(self.key_cache, (-1, 16))
        self.copy_blocks(self.key_cache, self.value_cache, pairs)
        return before, self.key_cache * 1


def test_a_copy_of_pages_would_be_counted():
    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})
    cell = KeepsThePagesOfBefore()
    cell.compile(Tensor(np.array([[0, 1]], np.int32)))
    assert count_nodes(cell)["TensorMove"] > 0
