"""LLM, the class that users touch: many prompts, streams side by side, and what is left when one breaks off."""

from dataclasses import replace
from threading import Thread
from time import sleep

import pytest

from mindspore_paged import LLM, SamplingParams
from mindspore_paged.config import config_from_dict
from mindspore_paged.errors import ConfigError, RequestError, StepError
from tests import cli_runs
from tests.reference import llama as reference

FOUR, FORTY = SamplingParams(max_tokens=4), SamplingParams(max_tokens=40)
PROMPTS = [[1, 2, 3], [200] * 20, [7]]


def make_llm(seed=0, **scheduler) -> LLM:
    sections = {
        "model": {"name": "tiny", "weights": "random", "seed": seed},
        "cache": {"num_blocks": 24},
        "scheduler": {
            "max_num_seqs": 4, "max_num_batched_tokens": 8, "token_buckets": [8], "max_model_len": 64,
        } | scheduler,
        "runtime": {"debug": True},
    }  # fmt: skip
    return LLM(config_from_dict(sections), show_progress=False)


@pytest.fixture(scope="module")
def shared_llm():
    return make_llm()


@pytest.fixture
def llm(shared_llm):
    """An LLM of which a test must leave nothing behind: no request, no page."""
    yield shared_llm
    assert_idle(shared_llm)


@pytest.fixture
def slow_steps(llm, monkeypatch):
    """Steps of 10 ms: a request of 40 tokens is under way for as long as a test needs."""
    run = llm.engine.runner.run

    def run_slowly(inputs):
        sleep(0.01)
        return run(inputs)

    monkeypatch.setattr(llm.engine.runner, "run", run_slowly)


@pytest.fixture(scope="module")
def alone(shared_llm):
    """What each prompt is answered when it runs alone."""
    return [tokens_of(shared_llm.generate(prompt, FOUR)[0]) for prompt in PROMPTS]


def assert_idle(llm):
    engine = llm.engine
    assert not engine.has_unfinished
    assert not engine.scheduler.has_unfinished
    assert engine.scheduler.cache.pool.num_used == 0
    engine.check_integrity()


def tokens_of(output) -> list[int]:
    return output.outputs[0].token_ids


def streamed(updates) -> list[int]:
    return [token for update in updates for token in update.token_ids]


class TestGenerate:
    def test_one_prompt_or_many_with_one_or_each_their_params(self, llm, alone):
        assert [tokens_of(output) for output in llm.generate(PROMPTS, FOUR)] == alone
        each = [SamplingParams(max_tokens=count) for count in (1, 4, 2)]
        outputs = llm.generate(PROMPTS, each)
        assert [tokens_of(output) for output in outputs] == [
            tokens[: params.max_tokens] for tokens, params in zip(alone, each)
        ]
        assert [output.prompt_token_ids for output in outputs] == PROMPTS
        assert llm.generate([], FOUR) == []

    def test_without_params_the_config_decides(self, llm):
        (output,) = llm.generate([1, 2, 3])
        assert len(tokens_of(output)) == min(64 - 3, llm.config.sampling.max_tokens)

    def test_as_many_params_as_prompts(self, llm):
        with pytest.raises(RequestError, match="2 sampling params for 3 prompts; give one, or one each"):
            llm.generate(PROMPTS, [FOUR, FOUR])

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            ([], "the prompt is empty"),
            ([1] * 64, "the prompt has 64 tokens"),
            ("text", "this model has no tokenizer"),
            ([{"role": "user", "content": "Hi"}], "messages need a tokenizer"),
            (5, "the prompt is 5; it must be text, a list of token ids, or a list of messages"),
        ],
    )
    def test_a_bad_prompt_among_good_ones_stops_all_before_any_runs(self, llm, bad, message):
        steps = llm.get_statistics()["num_steps"]
        with pytest.raises(RequestError, match=message):
            llm.generate([[1], bad, [2]], FOUR)
        assert llm.get_statistics()["num_steps"] == steps

    def test_an_interrupt_aborts_every_request_of_the_run(self, llm, alone, monkeypatch):
        run, calls = llm.engine.runner.run, []

        def interrupted_at_third(inputs):
            calls.append(inputs)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return run(inputs)

        monkeypatch.setattr(llm.engine.runner, "run", interrupted_at_third)
        with pytest.raises(KeyboardInterrupt):
            llm.generate(PROMPTS * 3, FOUR)
        assert_idle(llm)
        assert [tokens_of(output) for output in llm.generate(PROMPTS, FOUR)] == alone

    def test_a_request_runs_once(self, llm):
        request = llm.make_request([1], FOUR)
        with pytest.raises(RequestError, match="in use by a request under way"):
            llm.run([request, request])
        assert_idle(llm)
        other = llm.make_request([1], FOUR)
        llm.run([other])
        with pytest.raises(RequestError, match="has ended already; make another one"):
            llm.run([other])

    def test_a_run_that_is_refused_leaves_others_alone(self, llm, alone, slow_steps):
        request = llm.make_request(PROMPTS[0], FORTY)
        stream = llm.stream(request)
        tokens = streamed([next(stream)])
        with pytest.raises(RequestError, match="in use"):
            llm.run([llm.make_request([9], FOUR), request])
        tokens += streamed(stream)
        assert len(tokens) == 40
        assert tokens[:4] == alone[0]

    def test_threads_run_beside_each_other(self, llm, alone):
        answers = {}

        def ask(number):
            (output,) = llm.generate(PROMPTS[number % 3], FOUR)
            answers[number] = tokens_of(output)

        threads = [Thread(target=ask, args=(number,)) for number in range(9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == {number: alone[number % 3] for number in range(9)}


class TestStream:
    def test_streams_read_in_turn_give_what_each_gives_alone(self, llm, alone):
        streams = [llm.stream(prompt, FOUR) for prompt in PROMPTS]
        collected = [[] for _ in PROMPTS]
        for _ in range(4):
            for tokens, stream in zip(collected, streams):
                tokens += next(stream).token_ids
        assert collected == alone
        assert [list(stream) for stream in streams] == [[], [], []]

    def test_streams_and_runs_do_not_take_from_each_other(self, llm, alone, slow_steps):
        stream = llm.stream(PROMPTS[0], FORTY)
        first = next(stream)
        assert [tokens_of(output) for output in llm.generate(PROMPTS, FOUR)] == alone
        assert streamed([first, *stream])[:4] == alone[0]

    def test_closing_a_stream_frees_its_pages_and_the_other_goes_on(self, llm, alone, slow_steps):
        request = llm.make_request(PROMPTS[1], FORTY)
        doomed, other = llm.stream(request), llm.stream(PROMPTS[0], FORTY)
        next(doomed)
        tokens = streamed([next(other)])
        doomed.close()
        assert request.sequences[0].finish_reason == "abort"
        assert (
            llm.loop.call(lambda engine: engine.scheduler.cache.pool.num_used).result() <= 3
        )  # 43 tokens of the other
        tokens += streamed(other)
        assert len(tokens) == 40
        assert tokens[:4] == alone[0]

    def test_a_stream_is_checked_at_once_and_runs_when_read(self, llm):
        with pytest.raises(RequestError, match="the prompt is empty"):
            llm.stream([], FOUR)
        llm.stream([1], FOUR)
        assert not llm.engine.has_unfinished

    def test_every_sibling_is_streamed_to_its_end(self, llm):
        updates = list(llm.stream(PROMPTS[0], SamplingParams(max_tokens=5, n=3, temperature=1.0, seed=1)))
        for index in range(3):
            own = [update for update in updates if update.index == index]
            assert len(streamed(own)) == 5
            assert [update.finish_reason for update in own] == [None] * 4 + ["length"]

    def test_a_stream_whose_request_is_aborted_ends(self, llm, slow_steps):
        request = llm.make_request([1], FORTY)
        stream = llm.stream(request)
        next(stream)
        llm.abort(request.request_id)
        assert len(streamed(stream)) < 40
        assert request.sequences[0].finish_reason == "abort"

    def test_a_stream_whose_request_fails_ends_with_the_error(self, llm, alone, monkeypatch):
        run = llm.engine.runner.run

        def fail_on_99(inputs):
            if 99 in inputs.input_ids:
                raise StepError("token 99 is poison")
            return run(inputs)

        monkeypatch.setattr(llm.engine.runner, "run", fail_on_99)
        good, bad = llm.stream(PROMPTS[0], FOUR), llm.stream([99], FOUR)
        tokens = streamed([next(good)])
        (update,) = bad
        assert (update.finish_reason, update.error) == ("error", "token 99 is poison")
        assert tokens + streamed(good) == alone[0]


def test_requests_added_by_hand_run_beside(llm, alone):
    engine = llm.engine
    request = engine.make_request(PROMPTS[1], FOUR)
    engine.add_request(request)
    assert tokens_of(llm.generate(PROMPTS[0], SamplingParams(max_tokens=20))[0])[:4] == alone[0]
    assert request.is_finished
    assert request.sequences[0].output_token_ids == alone[1]


def test_a_run_ends_though_one_of_its_requests_is_aborted_meanwhile(llm, alone, monkeypatch):
    requests = [llm.make_request(prompt, FOUR) for prompt in PROMPTS]
    step, calls = llm.engine.step, []

    def step_and_abort():
        calls.append(step())
        if len(calls) == 2:
            llm.engine.abort(requests[1].request_id)
        return calls[-1]

    monkeypatch.setattr(llm.engine, "step", step_and_abort)
    outputs = llm.run(requests)
    assert [output.outputs[0].finish_reason for output in outputs] == ["length", "abort", "length"]
    assert [tokens_of(outputs[0]), tokens_of(outputs[2])] == [alone[0], alone[2]]


def test_two_llms_do_not_disturb_each_other(llm, alone):
    other = make_llm(seed=1, max_num_seqs=2, token_buckets=[1, 8])
    others_alone = [tokens_of(output) for output in other.generate(PROMPTS, FOUR)]
    assert others_alone != alone
    streams = [one.stream(prompt, FOUR) for one in (llm, other) for prompt in PROMPTS]
    collected = [[] for _ in streams]
    for _ in range(4):
        for tokens, stream in zip(collected, streams):
            tokens += next(stream).token_ids
    assert collected == alone + others_alone
    assert all(list(stream) == [] for stream in streams)
    assert llm.get_statistics()["compiles_after_warmup"] == 0
    assert other.get_statistics()["compiles_after_warmup"] == 0
    assert_idle(other)


def test_text_and_chat_of_a_gguf_file_alone(tmp_path):
    """The third token of the answer is an end of turn that the file does not name as one."""
    prompt = [cli_runs.TOKENS.index(token) for token in ("<s>", "H", "i", "|")]
    expected = reference.greedy(cli_runs.CONFIG, cli_runs.WEIGHTS, prompt, 6)
    assert len({*prompt, *expected[:3]}) == 7
    tokens = list(cli_runs.TOKENS)
    tokens[expected[2]] = "<|eot_id|>"
    path = cli_runs.write_gguf(tmp_path / "model.gguf", tokens=tokens)
    llm = LLM(weights=path, overrides=cli_runs.SMALL, show_progress=False)
    params = SamplingParams(max_tokens=6, ignore_eos=True)
    (by_text,) = llm.generate("<s>Hi|", params)
    by_chat = llm.chat([{"role": "user", "content": "Hi"}], params)
    assert by_text.prompt_token_ids == by_chat.prompt_token_ids == prompt
    assert tokens_of(by_text) == tokens_of(by_chat) == expected
    assert by_text.prompt == "<s>Hi|"
    assert llm.generate([], params) == []
    (turn,) = llm.generate("<s>Hi|", SamplingParams(max_tokens=6))
    assert tokens_of(turn) == expected[:3]
    assert turn.outputs[0].finish_reason == "stop"
    assert turn.outputs[0].text == llm.tokenizer.decode(expected[:2])


def test_a_stop_string_split_over_tokens_is_never_streamed(tmp_path):
    path = cli_runs.write_gguf(tmp_path / "model.gguf")
    llm = LLM(weights=path, overrides=cli_runs.SMALL, show_progress=False)
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    whole = llm.generate("Hello", params)[0].outputs[0].text
    stop = whole[4:7]  # three tokens, as each holds one byte
    updates = list(llm.stream("Hello", replace(params, stop=(stop,))))
    assert "".join(update.text for update in updates) == whole[: whole.index(stop)]
    assert [update.finish_reason for update in updates] == [None] * 6 + ["stop"]
    assert llm.engine.scheduler.cache.pool.num_used == 0


def test_a_pool_too_small_for_one_sequence_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="max_model_len is 64, but the pool holds 32 tokens"):
        LLM(cli_runs.TINY[1], overrides=[*cli_runs.SMALL, "cache.num_blocks=3"])
