"""Putting the heap aside while graphs are compiled."""

import gc
import weakref

import pytest

from mindspore_paged.engine.execution.garbage import heap_put_aside


class Knot:
    """An object that only the collector can take away."""

    def __init__(self):
        self.self = self


@pytest.fixture(params=[0, 1], ids=["nothing frozen", "frozen by the caller"])
def frozen(request):
    """How many objects are frozen before; as they were afterwards."""
    was_frozen = gc.get_freeze_count()
    gc.unfreeze()
    if request.param:
        gc.freeze()
    yield gc.get_freeze_count()
    gc.unfreeze()
    if was_frozen:
        gc.freeze()


def test_what_was_there_is_passed_over_and_what_is_new_is_not(frozen):
    old = Knot()
    old_is_there = weakref.ref(old)
    with heap_put_aside():
        new = Knot()
        new_is_there = weakref.ref(new)
        del old, new
        gc.collect()
        assert old_is_there() is not None
        assert new_is_there() is None
    assert bool(gc.get_freeze_count()) == bool(frozen)
    gc.unfreeze()
    gc.collect()
    assert old_is_there() is None


def test_an_error_inside_ends_it(frozen):
    with pytest.raises(ValueError, match="no graph"), heap_put_aside():
        raise ValueError("no graph")
    assert bool(gc.get_freeze_count()) == bool(frozen)
