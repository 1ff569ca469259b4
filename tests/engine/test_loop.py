"""EngineLoop: what others want is done between two steps, in order, and whoever waits is told of every end."""

from concurrent.futures import Future
from queue import SimpleQueue
from threading import Event, current_thread

import pytest

from mindspore_paged.engine.loop import EngineLoop
from mindspore_paged.errors import EngineStoppedError, RequestError
from mindspore_paged.sampling.sampling_params import SamplingParams
from tests.engine.paged_oracle import make_engine

SECONDS = 10


class Listener:
    """A Subscriber that remembers what it hears."""

    def __init__(self):
        self.tokens: dict[str, list[int]] = {}
        self.ended: SimpleQueue = SimpleQueue()

    def deliver(self, updates, ended):
        for update in updates:
            self.tokens.setdefault(update.request_id, []).extend(update.token_ids)
        for request in ended:
            self.ended.put((request.request_id, request.sequences[0].finish_reason))

    def fail(self, requests, error):
        for request in requests:
            self.ended.put((request.request_id, error))


@pytest.fixture
def engine():
    return make_engine()


@pytest.fixture
def loop(engine):
    loop = EngineLoop(engine)
    yield loop
    loop.close()


def make(engine, prompt, max_tokens=4):
    return engine.make_request(prompt, SamplingParams(max_tokens=max_tokens))


def held(engine, monkeypatch):
    """Steps that wait until they are let go: (a step has begun, let it go)."""
    begun, go, step = Event(), Event(), engine.step

    def wait_and_step():
        begun.set()
        assert go.wait(SECONDS)
        return step()

    monkeypatch.setattr(engine, "step", wait_and_step)
    return begun, go


def test_requests_of_several_subscribers_run_together_and_each_hears_of_its_own(engine, loop):
    ours, theirs = Listener(), Listener()
    first, second, third = (make(engine, [number]) for number in range(3))
    loop.add([first, second], ours).result(SECONDS)
    loop.add([third], theirs).result(SECONDS)
    assert {ours.ended.get(timeout=SECONDS)[0] for _ in range(2)} == {first.request_id, second.request_id}
    assert theirs.ended.get(timeout=SECONDS) == (third.request_id, "length")
    assert {name: len(tokens) for name, tokens in ours.tokens.items()} == {first.request_id: 4, second.request_id: 4}
    assert set(theirs.tokens) == {third.request_id}


def test_commands_are_done_in_their_order_between_two_steps_in_one_thread(engine, loop, monkeypatch):
    begun, go = held(engine, monkeypatch)
    loop.add([make(engine, [1], 40)], Listener())
    assert begun.wait(SECONDS)
    done = []
    calls = [loop.call(lambda engine, n=n: done.append((n, engine, current_thread().name))) for n in range(5)]
    assert not done
    go.set()
    calls[-1].result(SECONDS)
    assert done == [(n, engine, "engine loop") for n in range(5)]


def test_requests_are_added_all_or_none(engine, loop):
    good, listener = make(engine, [1]), Listener()
    with pytest.raises(RequestError, match="in use"):
        loop.add([good, good], listener).result(SECONDS)
    assert loop.call(lambda engine: engine.has_unfinished).result(SECONDS) is False
    assert listener.ended.empty()


def test_only_who_added_a_request_can_abort_it(engine, loop, monkeypatch):
    begun, go = held(engine, monkeypatch)
    request, listener = make(engine, [1], 40), Listener()
    loop.add([request], listener)
    assert begun.wait(SECONDS)
    stranger, owner = loop.abort([request], Listener()), loop.abort([request], listener)
    state = loop.call(lambda engine: engine.has_unfinished)
    go.set()
    assert (stranger.result(SECONDS), owner.result(SECONDS), state.result(SECONDS)) == (None, None, False)
    assert request.sequences[0].finish_reason == "abort"
    assert listener.ended.empty()


def test_a_request_that_a_command_ends_is_told_of(engine, loop, monkeypatch):
    begun, go = held(engine, monkeypatch)
    request, listener = make(engine, [1], 40), Listener()
    loop.add([request], listener)
    assert begun.wait(SECONDS)
    loop.call(lambda engine: engine.abort(request.request_id) and None)
    go.set()
    assert listener.ended.get(timeout=SECONDS) == (request.request_id, "abort")


def test_what_a_call_raises_goes_to_its_caller_and_harms_nobody(engine, loop):
    listener, request = Listener(), make(engine, [1])
    loop.add([request], listener)
    with pytest.raises(ZeroDivisionError):
        loop.call(lambda engine: 1 / 0).result(SECONDS)
    assert listener.ended.get(timeout=SECONDS) == (request.request_id, "length")


@pytest.mark.parametrize("cause", ["step", "post"])
def test_an_error_fails_what_is_under_way_and_the_next_request_begins_anew(engine, loop, monkeypatch, cause):
    begun, go = held(engine, monkeypatch)
    error, request, listener = RuntimeError("the device burns"), make(engine, [1], 40), Listener()

    def burn(*_):
        raise error

    loop.add([request], listener)
    assert begun.wait(SECONDS)
    if cause == "post":
        loop.post(burn)
    else:
        monkeypatch.setattr(engine.runner, "run", burn)
    go.set()
    assert listener.ended.get(timeout=SECONDS) == (request.request_id, error)
    assert request.sequences[0].finish_reason == "abort"
    monkeypatch.undo()
    again = make(engine, [1])
    loop.add([again], listener).result(SECONDS)
    assert listener.ended.get(timeout=SECONDS) == (again.request_id, "length")
    loop.call(lambda engine: engine.check_integrity()).result(SECONDS)


def test_closing_ends_it_after_the_step_and_refuses_what_comes_later(engine, loop, monkeypatch):
    begun, go = held(engine, monkeypatch)
    request, listener = make(engine, [1], 40), Listener()
    loop.add([request], listener)
    assert begun.wait(SECONDS)
    go.set()
    loop.close()
    name, error = listener.ended.get(timeout=SECONDS)
    assert name == request.request_id
    assert isinstance(error, EngineStoppedError)
    with pytest.raises(EngineStoppedError, match="the engine was closed"):
        loop.call(lambda engine: None).result(SECONDS)
    engine.check_integrity()
    loop.close()


def test_it_can_be_driven_by_who_calls_run(engine):
    heard: list = []
    loop = EngineLoop(engine, own_thread=False, on_step=lambda output: heard.extend(output.updates))
    request, ended = make(engine, [1]), Future()

    class ClosesAtTheEnd(Listener):
        def deliver(self, updates, ended_requests):
            if ended_requests:
                ended.set_result(ended_requests)
                loop.close()

    added = loop.add([request], ClosesAtTheEnd())
    assert not added.done()
    loop.run()
    assert ended.result(0) == [request]
    assert [token for update in heard for token in update.token_ids] == request.sequences[0].output_token_ids
