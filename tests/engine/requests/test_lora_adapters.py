"""Names and places of adapters, against a simple model: no place is two adapters' at once, and none is lost."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mindspore_paged.engine.requests.lora_adapters import LoraAdapters
from mindspore_paged.errors import RequestError
from mindspore_paged.weights.lora_adapter import AdapterRoom, LoraAdapter, LowRankProduct


class Slots(SimpleNamespace):
    """What is written, by its number."""

    def __init__(self, number, rank):
        super().__init__(room=AdapterRoom(number, rank), written={})

    def write(self, number, adapter):
        assert 0 <= number < self.room.number
        self.written[number] = adapter


def adapter_of(seed, rank=2):
    numbers = np.full((rank, 3), seed, np.float32)
    return LoraAdapter({(0, "q"): LowRankProduct(numbers, numbers.T.copy())})


class Adapters(RuleBasedStateMachine):
    @initialize(number=st.integers(1, 3))
    def begin(self, number):
        self.slots = Slots(number, 4)
        self.adapters = LoraAdapters(self.slots)
        self.loaded = {}  # name -> the adapter
        self.requests = []  # (handle, the adapter that it must be computed with)
        self.made = 0

    @rule(name=st.sampled_from("abcd"))
    def load(self, name):
        self.made += 1
        adapter = adapter_of(self.made)
        in_use = {id(each) for each in self.loaded.values()} | {id(each) for _, each in self.requests}
        if name in self.loaded or len(in_use) == self.slots.room.number:
            written = dict(self.slots.written)
            with pytest.raises(RequestError):
                self.adapters.load(name, adapter)
            assert self.slots.written == written
        else:
            self.adapters.load(name, adapter)
            self.loaded[name] = adapter

    @rule(name=st.sampled_from("abcd"))
    def unload(self, name):
        if name in self.loaded:
            self.adapters.unload(name)
            del self.loaded[name]
        else:
            with pytest.raises(RequestError, match="not loaded"):
                self.adapters.unload(name)

    @precondition(lambda self: self.loaded)
    @rule(data=st.data())
    def begin_request(self, data):
        name = data.draw(st.sampled_from(sorted(self.loaded)))
        found = self.adapters.find(name)
        self.adapters.hold(found)
        self.requests.append((found, self.loaded[name]))

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def end_request(self, data):
        found, _ = self.requests.pop(data.draw(st.integers(0, len(self.requests) - 1)))
        self.adapters.release(found)

    @invariant()
    def every_request_finds_its_own(self):
        if not hasattr(self, "slots"):
            return
        assert set(self.adapters.names) == set(self.loaded)
        for name, adapter in self.loaded.items():
            assert self.slots.written[self.adapters.find(name).number] is adapter
        for found, adapter in self.requests:
            assert self.slots.written[found.number] is adapter


TestAdapters = Adapters.TestCase
TestAdapters.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_one_that_was_unloaded_before_its_request_began():
    """Also where another one has the name by then."""
    adapters = LoraAdapters(Slots(2, 4))
    adapters.load("sql", adapter_of(1))
    found = adapters.find("sql")
    adapters.unload("sql")
    for _ in range(2):
        with pytest.raises(RequestError, match="lora_adapter 'sql' was unloaded before the request began"):
            adapters.hold(found)
        if not adapters.names:
            adapters.load("sql", adapter_of(2))


@pytest.mark.parametrize("name", ["", " ", None, 3, "x" * 257, "\ud800"])
def test_names_that_none_can_have(name):
    with pytest.raises(RequestError, match="it must be text of 1 to 256 characters"):
        LoraAdapters(Slots(1, 4)).load(name, adapter_of(1))


def test_what_does_not_fit():
    adapters = LoraAdapters(Slots(1, 4))
    with pytest.raises(RequestError, match="adapter 'large' has rank 5; model.max_lora_rank is 4"):
        adapters.load("large", adapter_of(1, rank=5))
    with pytest.raises(RequestError, match="model.max_loras says for how many"):
        LoraAdapters(None).load("any", adapter_of(1))
    with pytest.raises(RequestError, match="model.max_loras says for how many"):
        LoraAdapters(None).read("anywhere")
    with pytest.raises(RequestError, match="lora_adapter is 'sql', which is not loaded; loaded: none"):
        adapters.find("sql")
    with pytest.raises(RequestError, match=r"lora_adapter is \['sql'\], which is not loaded"):
        adapters.find(["sql"])
    assert adapters.find(None) is None
