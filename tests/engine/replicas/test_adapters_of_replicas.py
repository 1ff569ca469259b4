"""Adapters of several engines: all have one, or none; requests find it in whichever runs them."""

import pytest

from mindspore_paged import SamplingParams
from mindspore_paged.engine.replicas.adapters import load_lora_adapter, unload_lora_adapter
from mindspore_paged.engine.requests.lora_adapters import LoraAdapters
from mindspore_paged.errors import RequestError
from tests.engine.paged_oracle import make_engine, run_to_end
from tests.engine.replicas.test_replicas import routed_over
from tests.engine.requests.test_lora_adapters import Slots, adapter_of


def engines_of(count=2, places=1):
    return [make_engine(lora=LoraAdapters(Slots(places, 4))) for _ in range(count)]


def test_every_replica_loads_and_unloads():
    engines = engines_of(3, places=2)
    with routed_over(engines) as routed:
        for name, seed in (("a", 1), ("b", 2)):
            load_lora_adapter(routed, name, adapter_of(seed))
        assert [engine.lora.names for engine in engines] == [("a", "b")] * 3
        unload_lora_adapter(routed, "a")
        assert [engine.lora.names for engine in engines] == [("b",)] * 3
        with pytest.raises(RequestError, match="not loaded"):
            unload_lora_adapter(routed, "a")


def test_no_replica_loads_what_one_of_them_cannot():
    """Which has a request under way with one that was unloaded."""
    engines = engines_of()
    with routed_over(engines) as routed:
        load_lora_adapter(routed, "a", adapter_of(1))
        held = engines[1].lora.find("a")
        engines[1].lora.hold(held)
        unload_lora_adapter(routed, "a")
        with pytest.raises(RequestError, match="replica 1: adapter 'b' finds no place"):
            load_lora_adapter(routed, "b", adapter_of(2))
        assert [engine.lora.names for engine in engines] == [(), ()]
        engines[1].lora.release(held)
        load_lora_adapter(routed, "b", adapter_of(2))
        assert [engine.lora.names for engine in engines] == [("b",)] * 2


def test_requests_have_it_in_every_replica(monkeypatch):
    engines = engines_of()
    seen = []
    for engine in engines:
        run = engine.runner.run
        monkeypatch.setattr(
            engine.runner, "run", lambda inputs, run=run, engine=engine: seen.append((engine, inputs)) or run(inputs)
        )
    with routed_over(engines) as routed:
        load_lora_adapter(routed, "a", adapter_of(1))
        for _ in range(6):
            routed.add_request(routed.make_request([1, 2, 3], SamplingParams(max_tokens=3), lora_adapter="a"))
        run_to_end(routed, check=False)
        with pytest.raises(RequestError, match="lora_adapter is 'b', which is not loaded"):
            routed.make_request([1], SamplingParams(), lora_adapter="b")
        for engine in engines:
            of_engine = [inputs.adapters for runs_in, inputs in seen if runs_in is engine]
            assert of_engine
            assert all((adapters == 0).all() for adapters in of_engine)


def test_one_that_is_unloaded_while_requests_wait_for_their_replica():
    """They are refused here, not in a replica, which would end by it."""
    engines = engines_of()
    with routed_over(engines) as routed:
        load_lora_adapter(routed, "a", adapter_of(1))
        late = [routed.make_request([1, 2, 3], SamplingParams(max_tokens=2), lora_adapter="a") for _ in range(4)]
        unload_lora_adapter(routed, "a")
        for request in late:
            with pytest.raises(RequestError, match="'a' was unloaded before the request began"):
                routed.add_request(request)
        assert not routed.has_unfinished
        load_lora_adapter(routed, "a", adapter_of(2))
        routed.add_request(routed.make_request([1, 2, 3], SamplingParams(max_tokens=2), lora_adapter="a"))
        run_to_end(routed, check=False)
