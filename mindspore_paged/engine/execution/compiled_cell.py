"""A Cell in graph mode: NumPy in and out, its compiles counted, its failures survived."""

from collections.abc import Callable
from threading import Lock

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.graph.api import _cell_graph_executor, _convert_python_data

from mindspore_paged.custom_ops.process_folder import take_refusal
from mindspore_paged.errors import StepError
from mindspore_paged.launch import supervision

_GRAPHS = Lock()
"""One graph runs at a time in a process: those of two threads at once can wait for each other in MindSpore for ever."""


def run_graph(phase: str, tensors: tuple[Tensor, ...]) -> Tensor:
    """Run the compiled graph that MindSpore knows as `phase`.

    A Cell that is called first finds its graph anew, which takes half a millisecond: some 5% of a small model's step.
    MindSpore has no public way around that; its own Cells of phase `increment` go this one.
    """
    return _convert_python_data(_cell_graph_executor._graph_executor(tensors, phase))


class CompiledCell:
    """Calls a Cell, which compiles one graph for each set of input shapes that it meets."""

    def __init__(self, cell: nn.Cell, run: Callable[[str, tuple[Tensor, ...]], Tensor] = run_graph):
        self._cell = cell
        self._run = run
        self._phases: dict[tuple[tuple[int, ...], ...], str] = {}  # by the shapes of the inputs
        self._num_dropped = 0

    @property
    def num_compiles(self) -> int:
        """Graphs compiled so far."""
        return self._num_dropped + len(self._cell.compile_cache)

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """Run the graph to its end; raises StepError, with what the operator said, if the device refuses it.

        Any thread may call it; one whose turn it is not waits.
        """
        with _GRAPHS:
            return self._run_alone(arrays)

    def _run_alone(self, arrays: tuple[np.ndarray, ...]) -> np.ndarray:
        shapes = tuple(array.shape for array in arrays)
        # Not Tensor(array), which copies and takes several times as long.
        tensors = tuple(map(ms.from_numpy, arrays))
        try:
            if shapes in self._phases:
                return self._run(self._phases[shapes], tensors).asnumpy()
            if not self._cell.compile_cache:
                supervision.report_compiling()
            result = self._cell(*tensors).asnumpy()
        except RuntimeError as error:
            # MindSpore never again runs a graph that failed once; without its cache entry it is compiled afresh.
            self._num_dropped += len(self._cell.compile_cache)
            self._cell.compile_cache.clear()
            self._phases.clear()
            raise StepError(_reason(error)) from error
        self._phases[shapes] = self._cell.compile_phase
        return result


def _reason(error: RuntimeError) -> str:
    """One line: the words of op_host, or those of the operator in MindSpore's report, or how that begins."""
    if (refusal := take_refusal()) is not None:
        return refusal
    report = str(error)
    return (report.partition("Error message is ")[2] or report).strip().partition("\n")[0]
