"""Arrivals and waiting times, on a clock that the test moves: an engine whose every step takes a second."""

import numpy as np
import pytest

from mindspore_paged.benchmarking.lengths import parse_lengths
from mindspore_paged.benchmarking.paging import PaperRunner
from mindspore_paged.benchmarking.serving import Arrival, draw_arrivals, serve, summary
from mindspore_paged.cache.block_pool import BlockPool
from mindspore_paged.cache.block_table import BlockTable
from mindspore_paged.cache.cache_manager import CacheManager
from mindspore_paged.engine.engine import LLMEngine
from mindspore_paged.engine.requests.request_check import ModelLimits
from mindspore_paged.engine.scheduling.scheduler import Scheduler
from mindspore_paged.errors import ConfigError, StepError


class Clock:
    """Time that only steps and sleep let pass."""

    def __init__(self):
        self.now = 100.0
        self.slept = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds
        self.slept += seconds


class SlowRunner(PaperRunner):
    """A second for every step; `bad_token` makes a step fail."""

    def __init__(self, clock, bad_token=None):
        super().__init__((1, 2, 4, 64))
        self.clock, self.bad_token = clock, bad_token

    def run(self, inputs):
        self.clock.now += 1.0
        if self.bad_token in inputs.input_ids:
            raise StepError("a bad token")
        return super().run(inputs)


class Server:
    """What `serve` needs of an LLM."""

    def __init__(self, clock, max_num_seqs, bad_token=None):
        cache = CacheManager(BlockPool(100), BlockTable(max_num_seqs, 8), 16, enable_prefix_caching=False)
        runner = SlowRunner(clock, bad_token)
        self.engine = LLMEngine(Scheduler(cache, 64), runner, None, ModelLimits(50, 128, ()))

    def make_request(self, prompt, params):
        return self.engine.make_request(prompt, params)


def run(arrivals, max_num_seqs=4, bad_token=None):
    clock = Clock()
    server = Server(clock, max_num_seqs, bad_token)
    records, load = serve(server, arrivals, clock=clock, sleep=clock.sleep)
    server.engine.check_integrity()
    return records, load, clock


def test_one_request_by_hand():
    """Three tokens: three steps of a second, the first of which is the prompt's."""
    (record,), load, clock = run([Arrival(5.0, [1, 2, 3], 3)])
    assert (record.queued, record.ttft, record.tpot, record.latency) == (0, 1, 1, 3)
    assert record.gaps.tolist() == [1, 1]
    assert clock.slept == 5
    assert (load.running, load.waiting) == ([1, 1, 0], [0, 0, 0])


def test_who_comes_during_a_step_waits_for_its_end():
    first, second = run([Arrival(0.0, [1], 2), Arrival(0.25, [1], 1)])[0]
    assert (first.queued, first.ttft) == (0, 1)
    assert (second.queued, second.ttft, second.tpot) == (0.75, 1.75, None)


def test_who_finds_no_row_queues():
    first, second = run([Arrival(0.0, [1], 3), Arrival(0.0, [1], 1)], max_num_seqs=1)[0]
    assert (first.latency, second.queued, second.ttft) == (3, 3, 4)


def test_figures_by_hand():
    records, load, _ = run([Arrival(0.0, [1, 2], 2), Arrival(0.0, [1, 2], 4)])
    figures = summary(records, load)
    assert (figures["seconds"], figures["num_requests"], figures["num_failed"]) == (4, 2, 0)
    assert figures["output_tokens_per_second"] == 6 / 4
    assert figures["total_tokens_per_second"] == 10 / 4
    assert figures["latency_ms_p50"] == 3000
    assert figures["latency_ms_p99"] == pytest.approx(2000 + 0.99 * 2000)
    assert figures["itl_ms_p99"] == 1000
    assert figures["most_running"] == 2


def test_a_request_that_fails_is_counted_apart():
    records, load, _ = run([Arrival(0.0, [1, 2], 2), Arrival(0.0, [49], 2)], bad_token=49)
    assert [record.error for record in records] == [None, "a bad token"]
    figures = summary(records, load)
    assert (figures["num_requests"], figures["num_failed"]) == (2, 1)


def test_all_that_fail_leave_no_figures():
    records, load, _ = run([Arrival(0.0, [49], 2)], bad_token=49)
    assert summary(records, load) == {"num_requests": 1, "num_failed": 1}


def test_an_interrupt_leaves_nothing_behind():
    clock = Clock()
    server = Server(clock, 4)

    def interrupt(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serve(server, [Arrival(0.0, [1], 5)], on_finished=interrupt, clock=clock, sleep=clock.sleep)
    server.engine.check_integrity()
    assert not server.engine.has_unfinished


def draw(rate=2.0, count=4000, run_number=0, outputs="fixed:5", max_model_len=64):
    lengths = parse_lengths("uniform:2:4", "p"), parse_lengths(outputs, "o")
    return draw_arrivals(rate, count, *lengths, 50, max_model_len, 7, run_number)


def test_arrivals_are_a_poisson_process():
    """Gaps have the mean 1 / rate, and a deviation of that too."""
    gaps = np.diff([arrival.at for arrival in draw()])
    assert gaps.mean() == pytest.approx(0.5, rel=0.05)
    assert gaps.std() == pytest.approx(0.5, rel=0.05)


def test_another_rate_is_the_same_load_at_another_pace():
    slow, fast = draw(1.0, 20), draw(4.0, 20)
    assert [a.at for a in slow] == pytest.approx([4 * a.at for a in fast])
    assert [a.prompt for a in slow] == [a.prompt for a in fast]
    other = draw(1.0, 20, run_number=1)
    assert [len(a.prompt) for a in other] == [len(a.prompt) for a in slow]
    assert [a.prompt for a in other] != [a.prompt for a in slow]


def test_an_infinite_rate_brings_all_at_once():
    assert {arrival.at for arrival in draw(np.inf, 10)} == {0.0}


def test_a_request_that_cannot_run():
    with pytest.raises(ConfigError, match="but scheduler.max_model_len is 8"):
        draw(max_model_len=8)
