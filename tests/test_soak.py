"""The soak's own eyes: it passes an engine that is right, and sees one that answers wrongly, forgets or leaks."""

import json

import numpy as np
import pytest

from mindspore_paged.cache.host_tier import HostTier
from mindspore_paged.engine.prefix_store import export_prefix, import_prefix
from mindspore_paged.engine.requests.response_cache import ResponseCache
from mindspore_paged.engine.scheduling.swap_cost import SwapCost
from mindspore_paged.errors import IntegrityError
from mindspore_paged.soak import driver
from mindspore_paged.soak.driver import Soak, answer_alone
from mindspore_paged.soak.traffic import draw_kinds
from tests.engine.paged_oracle import VOCAB, make_engine
from tests.script_runs import run_script

LONGEST = 40


class OracleLLM:
    """The part of LLM that a soak uses, over the device whose model is a digest of what it reads."""

    def __init__(self, **options):
        self.engine = make_engine(max_model_len=LONGEST, **options)

    def make_request(self, prompt, params, priority=0, request_class=None):
        return self.engine.make_request(prompt, params, priority=priority, request_class=request_class)

    def run(self, requests):
        for request in requests:
            self.engine.add_request(request)
        while self.engine.has_unfinished:
            finished = self.engine.step().finished
        return finished

    def export_prefix(self, prompt):
        return export_prefix(self.engine, prompt)

    def import_prefix(self, data):
        return import_prefix(self.engine, data)

    def get_statistics(self):
        return self.engine.get_statistics()


@pytest.fixture(scope="module")
def kinds():
    corpus = np.random.default_rng(3).integers(VOCAB, size=500)
    drawn = draw_kinds(60, corpus, LONGEST, seed=1)
    # No text here: stop strings need a tokenizer.
    return [kind for kind in drawn if not kind.params.stop]


@pytest.fixture(scope="module")
def expected(kinds):
    return json.loads(json.dumps(answer_alone(OracleLLM(enable_prefix_caching=False), kinds, iter)))


def soaked(llm, kinds, expected, monkeypatch):
    monkeypatch.setattr(driver, "REQUESTS_PER_ROUND", 100)
    return Soak(llm, kinds, expected, seed=5).run(lambda requests, _: requests >= 400, lambda _: None)


def cramped(**options):
    tier = HostTier(100 * 16)  # pages of four int32
    return OracleLLM(
        num_blocks=20, host_tier=tier, swap_cost=SwapCost("always"), response_cache=ResponseCache(4), **options
    )


def test_kinds_are_of_every_kind_and_the_same_for_a_seed():
    corpus = list(range(64)) * 10
    kinds = draw_kinds(300, corpus, 96, seed=1)
    assert kinds == draw_kinds(300, corpus, 96, seed=1) != draw_kinds(300, corpus, 96, seed=2)
    options = [kind.params for kind in kinds]
    assert {params.n for params in options} == {1, 2, 3}
    for seen in ("stop", "stop_token_ids", "ignore_eos", "top_k", "presence_penalty", "temperature", "seed"):
        assert any(getattr(params, seen) for params in options), seen
    assert any(params.repetition_penalty > 1 for params in options)
    assert any(params.logprobs is not None for params in options)
    assert any(not kind.is_repeatable for kind in kinds)


def test_a_right_engine_has_no_wrong_answer(kinds, expected, monkeypatch):
    report = soaked(cramped(), kinds, expected, monkeypatch)
    assert report.wrong == []
    assert report.requests["ended"] == report.requests["sent"] >= 400
    assert report.requests["aborted"] > 0
    assert report.requests["finished"] > 200
    assert report.statistics["num_preemptions"] > 0
    assert report.statistics["num_pages_loaded"] > 0
    assert len(report.resources) == 3


def test_pages_loaded_to_the_wrong_block_are_seen(kinds, expected, monkeypatch):
    llm = cramped()
    write_pages = llm.engine.runner.write_pages
    llm.engine.runner.write_pages = lambda blocks, pages: write_pages(blocks, pages[::-1])
    assert soaked(llm, kinds, expected, monkeypatch).requests["wrong"] > 0


def test_an_update_that_is_lost_is_seen(kinds, expected, monkeypatch):
    llm = cramped()
    step = llm.engine.step

    def forgetful():
        output = step()
        del output.updates[3:4]
        return output

    llm.engine.step = forgetful
    assert any("updates" in fault for fault in soaked(llm, kinds, expected, monkeypatch).wrong)


def test_a_page_that_does_not_come_back_is_seen(kinds, expected, monkeypatch):
    llm = cramped()
    release = llm.engine.scheduler.cache.pool.release
    llm.engine.scheduler.cache.pool.release = lambda blocks: release(list(blocks)[1:])
    with pytest.raises(IntegrityError):
        soaked(llm, kinds, expected, monkeypatch)


@pytest.mark.slow
def test_the_script_runs_the_tiny_model_with_faults(tmp_path):
    report = tmp_path / "soak.json"
    run = run_script("soak.py", "--requests", "600", "--places", "process", "--kinds", "50", "--output", str(report))
    assert run.returncode == 0, run.stderr
    (figures,) = json.loads(report.read_text()).values()
    assert figures["requests"]["ended"] >= 600
    assert figures["requests"].get("wrong", 0) == 0
    assert sum(figures["faults"].values()) > 10


@pytest.mark.slow
def test_clients_at_their_worst_leave_nothing_behind(tmp_path):
    report = tmp_path / "soak.json"
    run = run_script("soak.py", "--requests", "900", "--places", "http", "--kinds", "40", "--output", str(report))
    assert run.returncode == 0, run.stderr
    (figures,) = json.loads(report.read_text()).values()
    requests = figures["requests"]
    assert requests["ended"] >= 900
    assert requests["aborted"] > 250
    assert min(requests["half open"], requests["read slowly"]) > 10
    assert (requests.get("wrong", 0), requests.get("failed", 0)) == (0, 0)
    assert set(figures["statistics"].values()) == {0}
