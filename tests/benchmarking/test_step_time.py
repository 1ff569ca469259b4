"""A model of step times finds the machine that made them."""

import numpy as np
import pytest

from mindspore_paged.benchmarking.paging import PaperRunner
from mindspore_paged.benchmarking.step_time import (
    StepPoint,
    StepTimeModel,
    StepWork,
    measure_step_times,
    work_of,
)
from mindspore_paged.cache.block_pool import BlockPool
from mindspore_paged.cache.block_table import BlockTable
from mindspore_paged.cache.cache_manager import CacheManager
from mindspore_paged.engine.engine import LLMEngine
from mindspore_paged.engine.requests.request_check import ModelLimits
from mindspore_paged.engine.scheduling.scheduler import Scheduler
from mindspore_paged.errors import ConfigError
from mindspore_paged.step_inputs import StepInputs


def point(bucket, attended, seconds):
    return StepPoint(StepWork(bucket, bucket, attended), seconds)


def test_exact_points_give_the_machine_back():
    points = [point(b, a, 0.01 * b**0.5 + 1e-6 * a) for b in (1, 8, 64) for a in (100, 5000)]
    model = StepTimeModel.fit(points)
    assert model.per_attended == pytest.approx(1e-6)
    assert model.seconds(StepWork(8, 5, 777)) == pytest.approx(0.01 * 8**0.5 + 777e-6)


def test_between_two_numbers_of_tokens_it_is_a_straight_line():
    """A graph of 8 tokens that takes 10 ms for 2 and 16 ms for 8, apart from attention."""
    points = [
        StepPoint(StepWork(8, tokens, attended), 0.008 + 0.001 * tokens + 1e-6 * attended)
        for tokens in (2, 8)
        for attended in (100, 5000)
    ]
    model = StepTimeModel.fit([*points, point(64, 6000, 0.05)])
    for tokens, expected in ((2, 0.010), (5, 0.013), (8, 0.016)):
        assert model.seconds(StepWork(8, tokens, 300)) == pytest.approx(expected + 300e-6)
    assert model.seconds(StepWork(64, 40, 6000)) == pytest.approx(0.05)


def test_attention_that_noise_hides_counts_nothing():
    model = StepTimeModel.fit([point(1, 10, 0.0102), point(1, 1000, 0.0098)])
    assert model.per_attended == 0
    assert model.seconds(StepWork(1, 1, 500)) == pytest.approx(0.01, rel=0.01)


def test_one_length_of_each_graph_says_nothing_about_attention():
    model = StepTimeModel.fit([point(1, 10, 0.01), point(8, 4000, 0.03)])
    assert (model.base[1][1], model.base[8][8], model.per_attended) == (pytest.approx(0.01), pytest.approx(0.03), 0)


def test_a_graph_that_was_not_measured():
    model = StepTimeModel.fit([point(1, 10, 0.01)])
    with pytest.raises(ConfigError, match="no step of 8 tokens was measured"):
        model.seconds(StepWork(8, 8, 10))


def test_the_work_of_a_step():
    """Two tokens at positions 4 and 9 attend to 5 and 10 tokens, in the graph of four."""
    nothing = np.zeros(0, np.int32)
    inputs = StepInputs(np.array([1, 1]), np.array([4, 9]), nothing, nothing, nothing, nothing)
    assert work_of(inputs, (1, 4, 16)) == StepWork(4, 2, 15)


@pytest.mark.parametrize("num_blocks", [65, 600])
def test_all_rows_of_a_graph_are_timed_together_also_with_prompts_of_many_steps(num_blocks):
    """Prompts as long as the pool allows take dozens of steps of 32 tokens: who is first has to wait for the last."""
    buckets = (1, 8, 32)
    cache = CacheManager(BlockPool(num_blocks), BlockTable(8, 64), 16, enable_prefix_caching=False)
    engine = LLMEngine(Scheduler(cache, 32), PaperRunner(buckets), None, ModelLimits(50, 1024, ()))
    points = measure_step_times(engine, buckets, max_num_seqs=8)
    assert [(point.work.bucket, point.work.num_tokens) for point in points] == [
        *[(1, 1)] * 2,
        *[(8, 2)] * 2,
        *[(8, 8)] * 2,
        (32, 9),
        (32, 32),
    ]
    short, long = points[4:6]
    assert long.work.attended > short.work.attended
    assert engine.scheduler.cache.pool.num_used == 0
