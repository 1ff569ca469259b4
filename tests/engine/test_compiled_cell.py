"""CompiledCell over a stand-in for a Cell: when it compiles, and that the job's supervisor hears of it."""

import numpy as np
import pytest
from mindspore import Tensor

from mindspore_paged.engine.compiled_cell import CompiledCell
from mindspore_paged.errors import StepError
from mindspore_paged.launch import supervision


class FakeCell:
    def __init__(self):
        self.compile_cache = {}
        self.fails = False

    def __call__(self, tensor):
        self.compile_cache[tensor.shape] = "a graph"
        if self.fails:
            raise RuntimeError("MindSpore reports.\nError message is op: token 3 is wrong\nand more")
        return Tensor(tensor.asnumpy() + 1)


def test_compiling_is_reported_also_after_a_failure(monkeypatch):
    reports = []
    monkeypatch.setattr(supervision, "report_compiling", lambda: reports.append("compiling"))
    fake = FakeCell()
    cell = CompiledCell(fake)
    np.testing.assert_array_equal(cell(np.zeros(2, np.int32)), [1, 1])
    cell(np.ones(2, np.int32))
    assert (reports, cell.num_compiles) == (["compiling"], 1)
    fake.fails = True
    with pytest.raises(StepError, match="^op: token 3 is wrong$"):
        cell(np.ones(2, np.int32))
    fake.fails = False
    cell(np.ones(2, np.int32))
    assert (reports, cell.num_compiles) == (["compiling", "compiling"], 2)
