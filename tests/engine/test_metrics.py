"""Times in the statistics, on a clock that only the device moves."""

import pytest

from mindspore_paged import SamplingParams
from tests.engine.paged_oracle import make_engine, run_to_end

SECONDS_A_STEP = 2.0


@pytest.fixture
def engine(monkeypatch):
    """An engine whose every step takes two seconds."""
    now = [100.0]
    engine = make_engine(max_num_batched_tokens=8)
    run = engine.runner.run

    def slow_run(inputs):
        now[0] += SECONDS_A_STEP
        return run(inputs)

    monkeypatch.setattr("mindspore_paged.engine.engine.perf_counter", lambda: now[0])
    monkeypatch.setattr("mindspore_paged.engine.requests.request_maker.perf_counter", lambda: now[0])
    monkeypatch.setattr(engine.runner, "run", slow_run)
    return engine


def submit(engine, length, max_tokens):
    engine.add_request(engine.make_request([1] * length, SamplingParams(max_tokens=max_tokens)))


def test_time_to_first_token_is_the_mean_from_arrival(engine):
    submit(engine, 16, 3)  # two chunks: the first token after 4 s
    submit(engine, 7, 1)  # then what is left of the budget: after 6 s
    run_to_end(engine)
    assert engine.get_statistics()["time_to_first_token_s"] == pytest.approx((4.0 + 6.0) / 2)


def test_throughput_counts_the_time_in_steps_alone(engine):
    submit(engine, 16, 3)
    run_to_end(engine)
    assert engine.get_statistics()["throughput"] == pytest.approx(3 / (4 * SECONDS_A_STEP))


def test_before_anything_ran_all_is_zero(engine):
    statistics = engine.get_statistics()
    for name in ("throughput", "time_to_first_token_s", "block_utilization", "prefix_cache_hit_rate"):
        assert statistics[name] == 0


def test_counts_of_now_and_of_tokens_since_the_start(engine):
    submit(engine, 16, 3)
    submit(engine, 17, 3)
    engine.step()
    statistics = engine.get_statistics()
    counts = ("num_running", "num_waiting", "num_used_blocks", "num_prompt_tokens", "num_prefix_query_tokens")
    assert [statistics[name] for name in counts] == [1, 1, 2, 0, 16]  # eight tokens in blocks of four
    run_to_end(engine)
    statistics = engine.get_statistics()
    assert [statistics[name] for name in counts] == [0, 0, 0, 33, 33]
    assert statistics["num_prefix_hit_tokens"] == 16  # of the second, all full blocks of the first
    assert statistics["prefix_cache_hit_rate"] == pytest.approx(16 / 33)
