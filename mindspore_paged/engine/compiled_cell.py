"""A Cell in graph mode: NumPy in and out, its compiles counted, its failures survived."""

import mindspore as ms
import numpy as np
from mindspore import nn

from mindspore_paged.errors import StepError
from mindspore_paged.launch import supervision


class CompiledCell:
    """Calls a Cell, which compiles one graph for each set of input shapes that it meets."""

    def __init__(self, cell: nn.Cell):
        self._cell = cell
        self._num_dropped = 0

    @property
    def num_compiles(self) -> int:
        """Graphs compiled so far."""
        return self._num_dropped + len(self._cell.compile_cache)

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """Run the graph to its end; raises StepError, with what the operator said, if the device refuses it."""
        if not self._cell.compile_cache:
            supervision.report_compiling()
        try:
            # Not Tensor(array), which copies and takes several times as long.
            return self._cell(*map(ms.from_numpy, arrays)).asnumpy()
        except RuntimeError as error:
            # MindSpore never again runs a graph that failed once; without its cache entry it is compiled afresh.
            self._num_dropped += len(self._cell.compile_cache)
            self._cell.compile_cache.clear()
            raise StepError(_reason(error)) from error


def _reason(error: RuntimeError) -> str:
    """One line: the operator's own words out of MindSpore's report around them, or else how the report begins."""
    report = str(error)
    return (report.partition("Error message is ")[2] or report).strip().partition("\n")[0]
