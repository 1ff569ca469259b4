"""What MindSpore is told of the operators that write into the caches."""

import inspect

import numpy as np
import pytest
from mindspore.ops import signature

from mindspore_paged.custom_ops import layer_ops, ops

RW = signature.sig_rw
CACHES = ("key_cache", "value_cache")
LAYOUT, OPTIONS = np.zeros((1, 20, 5), np.int64), np.zeros((1, 2), np.int64)

WRITERS = {
    ops.ReshapeAndCache: ("cpu",),
    ops.CopyBlocks: ("cpu",),
    ops.WriteBlocks: ("cpu",),
    layer_ops.AttentionLayer: (1e-5, 1.0, [0] * 4, [False] * 6, True, "cpu"),
    layer_ops.DecoderStep: (1e-5, 1.0, LAYOUT, OPTIONS, 0, 0, "cpu"),
}
"""The Cells, and what they are made with."""


@pytest.fixture
def signed(monkeypatch):
    """For what is made from here on, name, use and kind of each input as MindSpore is told."""
    told, make = [], signature.make_sig

    def make_and_tell(name, rw=RW.RW_READ, kind=signature.sig_kind.KIND_POSITIONAL_KEYWORD):
        told.append((name, rw, kind))
        return make(name, rw, kind)

    monkeypatch.setattr(signature, "make_sig", make_and_tell)
    return told


@pytest.mark.parametrize("cell", WRITERS, ids=lambda cell: cell.__name__)
def test_the_caches_and_nothing_else_are_written(signed, cell):
    """As MindSpore's own ReshapeAndCache: with side_effect_mem, and the caches marked."""
    op = cell(*WRITERS[cell]).op
    assert op.attrs["side_effect_mem"] is True
    assert [name for name, rw, _ in signed if rw == RW.RW_WRITE] == list(CACHES)


@pytest.mark.parametrize("cell", WRITERS, ids=lambda cell: cell.__name__)
def test_the_inputs_are_those_that_construct_passes_on(signed, cell):
    """In their order; what a Cell itself adds to them stands in between."""
    cell(*WRITERS[cell])
    given = [name for name in inspect.signature(cell.construct).parameters if name != "self"]
    names = [name for name, *_ in signed if name in given]
    open_ended = signed[-1][2] == signature.sig_kind.KIND_VAR_POSITIONAL
    assert names == (given[: len(names)] if open_ended else given)
    assert set(CACHES) <= set(names)


@pytest.mark.parametrize("make", [lambda: ops.ReadBlocks("cpu"), lambda: ops.PagedAttention(1.0, "cpu")])
def test_readers_write_nothing(signed, make):
    assert "side_effect_mem" not in make().op.attrs
    assert signed == []
