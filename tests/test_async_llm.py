"""AsyncLLM: many readers on one event loop, whatever becomes of each."""

import asyncio
from contextlib import aclosing
from time import sleep

import pytest

from mindspore_paged import LLM, AsyncLLM, SamplingParams
from mindspore_paged.config import config_from_dict
from mindspore_paged.errors import EngineStoppedError, RequestError, SlowReaderError

FOUR, FORTY = SamplingParams(max_tokens=4), SamplingParams(max_tokens=40)
PROMPTS = [[1, 2, 3], [200] * 20, [7]]


@pytest.fixture(scope="module")
def shared_llm():
    sections = {
        "model": {"name": "tiny", "weights": "random"},
        "cache": {"num_blocks": 24},
        "scheduler": {"max_num_seqs": 4, "max_num_batched_tokens": 8, "token_buckets": [8], "max_model_len": 64},
        "runtime": {"debug": True},
    }
    with LLM(config_from_dict(sections), show_progress=False) as llm:
        yield llm


@pytest.fixture
def llm(shared_llm):
    """An LLM of which a test must leave nothing behind: no request, no page."""
    yield shared_llm
    shared_llm.loop.call(lambda engine: engine.check_integrity()).result(5)
    assert not shared_llm.engine.has_unfinished
    assert shared_llm.engine.scheduler.cache.pool.num_used == 0


@pytest.fixture
def slow_steps(llm, monkeypatch):
    run = llm.engine.runner.run

    def run_slowly(inputs):
        sleep(0.01)
        return run(inputs)

    monkeypatch.setattr(llm.engine.runner, "run", run_slowly)


async def tokens_of(llm, prompt, params):
    return [token async for update in llm.generate(prompt, params) for token in update.token_ids]


async def until_one_runs(llm):
    while llm.num_unfinished == 0:
        await asyncio.sleep(0.01)


def test_many_readers_get_what_each_gets_alone(llm):
    alone = [output.outputs[0].token_ids for output in llm.generate(PROMPTS, FOUR)]

    async def ask():
        asynchronous = AsyncLLM(llm)
        return await asyncio.gather(*(tokens_of(asynchronous, PROMPTS[i % 3], FOUR) for i in range(32)))

    assert asyncio.run(ask()) == [alone[i % 3] for i in range(32)]


def test_updates_and_the_whole_answer_have_log_probabilities(llm):
    async def ask():
        asynchronous = AsyncLLM(llm)
        request = await asynchronous.make_request([1, 2], SamplingParams(max_tokens=3, logprobs=2))
        updates = [update async for update in asynchronous.generate(request)]
        return request, updates, await asynchronous.run(await asynchronous.make_request([1, 2], request.params))

    request, updates, output = asyncio.run(ask())
    streamed = [entry for update in updates for entry in update.logprobs]
    assert [entry.token_id for entry in streamed] == request.sequences[0].output_token_ids
    assert streamed == output.outputs[0].logprobs


def test_leaving_a_stream_or_cancelling_its_reader_aborts_it(llm, slow_steps):
    async def leave():
        asynchronous = AsyncLLM(llm)
        left = await asynchronous.make_request([1], FORTY)
        async with aclosing(asynchronous.generate(left)) as updates:
            await anext(updates)
        cancelled = await asynchronous.make_request([1], FORTY)
        task = asyncio.create_task(asynchronous.run(cancelled))
        while cancelled.first_scheduled_time is None:  # one that was not queued yet would never run
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asynchronous.num_unfinished == 0
        await asynchronous.get_statistics()  # done after what was asked for before
        return [request.sequences[0].finish_reason for request in (left, cancelled)]

    assert asyncio.run(leave()) == ["abort", "abort"]


def test_a_reader_who_is_too_slow_is_cut_off_and_no_other(llm, slow_steps):
    async def read_slowly():
        asynchronous = AsyncLLM(llm, max_buffered_updates=8)
        slow = asynchronous.generate(await asynchronous.make_request([1], FORTY))
        await anext(slow)
        assert len(await tokens_of(asynchronous, [2], FORTY)) == 40  # all the while the other is not read
        with pytest.raises(SlowReaderError, match="its reader left 8 updates waiting"):
            async for _ in slow:
                pass

    asyncio.run(read_slowly())


def test_what_is_wrong_with_a_request_is_told_before_it_runs(llm):
    async def ask():
        asynchronous = AsyncLLM(llm)
        with pytest.raises(RequestError, match="the prompt is empty"):
            await asynchronous.make_request([])
        request = await asynchronous.make_request([1], FOUR)
        await asynchronous.run(request)
        with pytest.raises(RequestError, match="has ended already"):
            await asynchronous.run(request)

    asyncio.run(ask())


def test_draining_waits_for_those_who_run_and_takes_no_others(llm, slow_steps):
    async def drain():
        asynchronous = AsyncLLM(llm)
        task = asyncio.create_task(tokens_of(asynchronous, [1], FORTY))
        await until_one_runs(asynchronous)
        assert not await asynchronous.drain(0.05)
        with pytest.raises(EngineStoppedError, match="takes no new requests"):
            await asynchronous.run(await asynchronous.make_request([1], FOUR))
        assert await asynchronous.drain()
        return await task

    assert len(asyncio.run(drain())) == 40


def test_an_engine_that_fails_tells_every_reader_why(llm, monkeypatch):
    def burn(inputs):
        raise RuntimeError("the device burns")

    async def ask():
        asynchronous = AsyncLLM(llm)
        with monkeypatch.context() as patch:
            patch.setattr(llm.engine.runner, "run", burn)
            answers = await asyncio.gather(
                *(tokens_of(asynchronous, [i], FOUR) for i in range(3)), return_exceptions=True
            )
        assert [str(answer) for answer in answers] == ["the device burns"] * 3
        assert str(await asynchronous.wait_failed()) == "the device burns"
        return await tokens_of(asynchronous, [1], FOUR)  # this engine can go on

    assert len(asyncio.run(ask())) == 4
