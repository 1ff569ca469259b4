"""CompiledCell over a stand-in for a Cell: when it compiles, and that the job's supervisor hears of it."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from mindspore import Tensor

from mindspore_paged.engine.execution.compiled_cell import CompiledCell
from mindspore_paged.errors import StepError
from mindspore_paged.launch import supervision


class FakeCell:
    """Adds 1; `run` is what runs its compiled graphs."""

    def __init__(self):
        self.compile_cache = {}
        self.compile_phase = None
        self.fails = False
        self.runs = []

    def __call__(self, tensor):
        self.compile_cache[tensor.shape] = "a graph"
        self.compile_phase = f"graph of {tensor.shape[0]}"
        return self.run(self.compile_phase, (tensor,))

    def run(self, phase, tensors):
        (tensor,) = tensors
        self.runs.append(phase)
        if self.fails:
            raise RuntimeError("MindSpore reports.\nError message is op: token 3 is wrong\nand more")
        return Tensor(tensor.asnumpy() + 1)


def test_compiling_is_reported_also_after_a_failure(monkeypatch):
    reports = []
    monkeypatch.setattr(supervision, "report_compiling", lambda: reports.append("compiling"))
    fake = FakeCell()
    cell = CompiledCell(fake, fake.run)
    np.testing.assert_array_equal(cell(np.zeros(2, np.int32)), [1, 1])
    cell(np.ones(2, np.int32))
    assert (reports, cell.num_compiles) == (["compiling"], 1)
    fake.fails = True
    with pytest.raises(StepError, match="^op: token 3 is wrong$"):
        cell(np.ones(2, np.int32))
    fake.fails = False
    cell(np.ones(2, np.int32))
    assert (reports, cell.num_compiles) == (["compiling", "compiling"], 2)


def test_a_graph_that_is_known_is_run_without_the_cell():
    """By the shapes of its inputs; after a failure the cell is asked again, for all of them."""
    fake = FakeCell()
    cell = CompiledCell(fake, fake.run)
    for size in (2, 3):
        cell(np.zeros(size, np.int32))
    fake.compile_phase = "of none"
    for size in (3, 2):
        np.testing.assert_array_equal(cell(np.full(size, 4, np.int32)), [5] * size)
    assert fake.runs == ["graph of 2", "graph of 3", "graph of 3", "graph of 2"]
    fake.fails = True
    with pytest.raises(StepError):
        cell(np.zeros(2, np.int32))
    assert fake.compile_phase == "of none"
    fake.fails = False
    for size in (3, 2):
        cell(np.zeros(size, np.int32))
        assert fake.compile_phase == f"graph of {size}"


def test_graphs_of_several_threads_run_one_after_the_other():
    """MindSpore's, at once, can wait for each other for ever."""
    under_way, most = 0, 0

    class Slow(FakeCell):
        def run(self, phase, tensors):
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            time.sleep(0.01)
            under_way -= 1
            return super().run(phase, tensors)

    fakes = [Slow() for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda fake: CompiledCell(fake, fake.run)(np.zeros(3, np.float32)), fakes))
    assert most == 1
    assert all((result == 1).all() for result in results)
