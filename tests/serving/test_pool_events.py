"""The pool as watchers see it, against the engine's own books."""

import asyncio
import json
import random
import time
from collections import Counter
from itertools import chain

import pytest

from mindspore_paged import SamplingParams
from mindspore_paged.cache.event_log import CACHED, FREE, NULL, PINNED, SHARED, WITHHELD
from mindspore_paged.serving import pool_events
from mindspore_paged.serving.pool_events import PoolEvents, pool_picture
from tests.engine.paged_oracle import make_engine, run_to_end
from tests.engine.replicas.test_replicas import replicas
from tests.serving.stepped_llm import SteppedLLM

PREFIX = list(range(12))  # three blocks of four tokens


def cells_of(picture) -> list[int]:
    return list(chain.from_iterable([code] * length for length, code in picture["cells"]))


def add(engine, prompt, **params):
    request = engine.make_request(prompt, SamplingParams(max_tokens=20, **params))
    engine.add_request(request)
    return request.arrival + 1


def blocks_of(engine, number) -> set[int]:
    table = engine.scheduler.cache.table
    rows = [sequence.row for sequence in engine.scheduler.running if sequence.request.arrival + 1 == number]
    return set(chain.from_iterable(table.blocks(row) for row in rows))


def test_an_empty_pool():
    picture = pool_picture(make_engine())
    assert (picture["num_blocks"], picture["block_size"], picture["blocks_per_cell"]) == (64, 4, 1)
    assert picture["cells"] == [[1, NULL], [63, FREE]]
    assert picture["requests"] == []
    assert picture["blocks"] == {"free": 63, "cached": 0, "withheld": 0, "used": 0, "shared": 0, "pinned": 0}


def test_who_holds_what_and_who_shares():
    engine = make_engine()
    first = add(engine, [*PREFIX, 40, 41, 42, 43, 44])
    while engine.get_statistics()["num_output_tokens"] < 2:
        engine.step()
    second = add(engine, [*PREFIX, 50])
    engine.step()
    picture = pool_picture(engine)
    cells = cells_of(picture)
    ours, theirs = blocks_of(engine, first), blocks_of(engine, second)
    assert len(ours & theirs) == 3
    for block, code in enumerate(cells[1:], 1):
        expected = SHARED if block in ours & theirs else first if block in ours else second if block in theirs else FREE
        assert code == expected, block
    assert picture["blocks"]["shared"] == 3
    described = {request["number"]: request for request in picture["requests"]}
    assert described[first]["num_blocks"] == len(ours)
    assert described[second] == {
        "number": second,
        "id": f"request-{second - 1}",
        "num_prompt_tokens": 13,
        "num_cached_tokens": 12,
        "num_output_tokens": 1,
        "num_blocks": 4,
        "num_shared_blocks": 3,
    }
    assert picture["counts"]["num_running"] == 2
    run_to_end(engine)
    kinds = Counter(cells_of(pool_picture(engine)))
    assert kinds[CACHED] == engine.scheduler.cache.pool.num_cached > 0
    assert kinds.keys() == {NULL, CACHED, FREE}


def test_texts_of_one_request_are_listed_together():
    engine = make_engine()
    number = add(engine, PREFIX, n=3, temperature=1.0, seed=0)
    engine.step()
    engine.step()
    (request,) = pool_picture(engine)["requests"]
    assert (request["number"], request["num_output_tokens"]) == (number, 6)
    assert request["num_blocks"] == len(blocks_of(engine, number)) == 3 + 3  # a prompt's, and one for each text


def test_a_large_pool_is_shown_in_few_cells_and_a_request_before_all_else():
    engine = make_engine(num_blocks=50_000, block_size=4, max_num_seqs=64, max_num_batched_tokens=512)
    rng = random.Random(3)
    for _ in range(40):
        add(engine, [rng.randrange(60) for _ in range(18)])
    for _ in range(6):
        engine.step()
    picture = pool_picture(engine)
    cells, each = cells_of(picture), picture["blocks_per_cell"]
    assert (each, len(cells)) == (25, 2000)
    held = {number: blocks_of(engine, number) for number in range(1, 41)}
    assert sum(map(len, held.values())) > 100
    for cell, code in enumerate(cells):
        blocks = set(range(cell * each, (cell + 1) * each))
        holders = [number for number, own in held.items() if own & blocks]
        assert code == (max(holders) if holders else FREE), cell
    assert len(json.dumps(picture)) < 32_000


@pytest.mark.parametrize(
    ("blocks", "shown"),
    [
        ([NULL, FREE], FREE),
        ([FREE, CACHED, WITHHELD], CACHED),
        ([PINNED, CACHED, FREE], PINNED),
        ([PINNED, SHARED, FREE], SHARED),
        ([SHARED, 3, 9, PINNED], 9),
    ],
)
def test_what_a_cell_of_several_blocks_shows(blocks, shown):
    import numpy as np

    assert pool_events._cells(np.array(blocks, np.int32), len(blocks)).tolist() == [shown]


def test_the_requests_that_are_listed_are_bounded():
    engine = make_engine(num_blocks=400, max_num_seqs=100, max_num_batched_tokens=200)
    for number in range(100):
        add(engine, [number % 60])
    engine.step()
    picture = pool_picture(engine)
    assert picture["counts"]["num_running"] == 100
    assert len(picture["requests"]) == pool_events.MOST_REQUESTS == 64


class CountingLLM(SteppedLLM):
    num_calls = 0

    async def call(self, function, *arguments):
        self.num_calls += 1
        return await super().call(function, *arguments)


def test_all_watchers_see_the_same_made_once_and_only_when_it_changed():
    llm = CountingLLM()
    events = PoolEvents(llm, seconds_between=0.02)
    over = False

    async def watch():
        return [json.loads(text.removeprefix("data: ")) async for text in events.events(lambda: over)]

    async def run():
        nonlocal over
        started = time.monotonic()
        watchers = [asyncio.create_task(watch()) for _ in range(5)]
        await asyncio.sleep(0.1)
        add(llm.engine, PREFIX)
        llm.engine.step()
        await asyncio.sleep(0.1)
        over = True
        return await asyncio.gather(*watchers), time.monotonic() - started

    seen, seconds = asyncio.run(run())
    assert seen == [seen[0]] * 5
    assert [len(pictures[0]["requests"]) for pictures in seen[0]] == [0, 1]
    assert 2 <= llm.num_calls <= seconds / 0.02 + 1


def test_nobody_watches_nothing_is_made():
    llm = CountingLLM()

    async def run():
        events = PoolEvents(llm, seconds_between=0.01)
        async for _ in events.events():
            break
        before = llm.num_calls
        await asyncio.sleep(0.1)
        assert llm.num_calls == before

    asyncio.run(run())


def test_pictures_that_take_long_are_rare(monkeypatch):
    llm = CountingLLM()
    monkeypatch.setattr(pool_events, "_timed_pictures", lambda engine: ([], 0.01))
    events = PoolEvents(llm, seconds_between=0.01)

    async def run():
        async def watch():
            async for _ in events.events():
                pass

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(watch(), 0.3)

    asyncio.run(run())
    assert llm.num_calls == 1


def test_replicas_have_a_picture_each():
    with replicas(2, max_model_len=400, num_blocks=300) as (routed, _):
        requests = [routed.make_request([number] * 9, SamplingParams(max_tokens=300)) for number in range(4)]
        for request in requests:
            routed.add_request(request)
        pictures, _ = pool_events._timed_pictures(routed)
        for request in requests:
            routed.abort(request.request_id)
    assert [picture["counts"]["num_running"] + picture["counts"]["num_waiting"] for picture in pictures] == [2, 2]
