"""How long a step takes, from a few that were measured: a time for each graph, and one for each token attended to."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np

from mindspore_paged.engine.engine import LLMEngine
from mindspore_paged.engine.step_inputs import StepInputs
from mindspore_paged.errors import ConfigError
from mindspore_paged.sampling_params import SamplingParams

REPEATS = 7
SHORT_CONTEXT = 16


@dataclass(frozen=True)
class StepWork:
    """What a step computes: tokens padded to `bucket`, which attend to `attended` tokens of the cache in all."""

    bucket: int
    num_tokens: int
    attended: int


@dataclass(frozen=True)
class StepPoint:
    """A step, and the seconds that it was measured to take."""

    work: StepWork
    seconds: float


def work_of(inputs: StepInputs, token_buckets: Sequence[int]) -> StepWork:
    """What a runner with these buckets computes for these inputs."""
    bucket = token_buckets[bisect_left(token_buckets, inputs.num_tokens)]
    return StepWork(bucket, inputs.num_tokens, int(inputs.positions.sum()) + inputs.num_tokens)


class StepTimeModel:
    """Seconds of a step: `base` of its bucket's graph, and `per_attended` for each token attended to.

    A graph computes all of its padded tokens whatever is in them, so its weights and products are one constant.
    """

    def __init__(self, base: dict[int, float], per_attended: float):
        self.base, self.per_attended = base, per_attended

    @classmethod
    def fit(cls, points: Sequence[StepPoint]) -> "StepTimeModel":
        """The model with the least squares of relative errors; raises ConfigError without points.

        Where attention cannot be told from noise (no bucket has two lengths, or longer was faster), it counts nothing.
        """
        if not points:
            raise ConfigError("no measured step times to fit a model to")
        buckets = sorted({point.work.bucket for point in points})
        seconds = np.array([point.seconds for point in points])
        graphs = np.array([[float(point.work.bucket == bucket) for bucket in buckets] for point in points])
        attended = np.array([[float(point.work.attended)] for point in points])
        lengths = defaultdict(set)
        for point in points:
            lengths[point.work.bucket].add(point.work.attended)
        if any(len(of_bucket) > 1 for of_bucket in lengths.values()):
            *base, slope = _least_relative_squares(np.hstack([graphs, attended]), seconds)
            if slope > 0 and min(base) > 0:
                return cls(dict(zip(buckets, map(float, base), strict=True)), float(slope))
        base = _least_relative_squares(graphs, seconds)
        return cls(dict(zip(buckets, map(float, base), strict=True)), 0.0)

    def seconds(self, work: StepWork) -> float:
        """The time of a step; raises ConfigError for a bucket that was not measured."""
        if work.bucket not in self.base:
            raise ConfigError(f"no step of {work.bucket} tokens was measured, but the run has such steps")
        return self.base[work.bucket] + self.per_attended * work.attended


def _least_relative_squares(columns: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(columns / seconds[:, None], np.ones(len(seconds)), rcond=None)[0]


def measure_step_times(engine: LLMEngine, token_buckets: Sequence[int], max_num_seqs: int) -> list[StepPoint]:
    """Medians of steps of each graph: decode steps at a short and a long context, or one chunk of a prompt.

    The engine must be idle, with prefix caching off: prompts repeat.
    """
    cache, longest = engine.scheduler.cache, engine.limits.max_model_len
    usable = cache.pool.num_blocks - 1
    points = []
    for place, bucket in enumerate(token_buckets):
        if bucket <= max_num_seqs:
            # Room for all rows, with the tokens that they decode meanwhile.
            room = min(longest, usable // bucket * cache.block_size)
            room -= REPEATS + 2 + _prompt_steps(bucket, room, token_buckets)
            contexts = sorted({min(SHORT_CONTEXT, room), room})
            points += [_decode_point(engine, token_buckets, bucket, context) for context in contexts if context > 0]
            continue
        num_tokens = min(bucket, longest - 1, usable * cache.block_size - 1)
        if num_tokens > (token_buckets[place - 1] if place else 0):
            points.append(_prefill_point(engine, token_buckets, num_tokens))
    return points


def _decode_point(engine: LLMEngine, token_buckets: Sequence[int], rows: int, context: int) -> StepPoint:
    # The first goes on decoding until the last prompt is in the cache: only then do all rows decode together.
    num_output = REPEATS + 1 + _prompt_steps(rows, context, token_buckets)
    requests = [([row % engine.limits.vocab_size] * context, num_output) for row in range(rows)]
    steps = [step for step in _timed_steps(engine, token_buckets, requests) if step.work.num_tokens == rows]
    return _median(steps[-REPEATS:])


def _prompt_steps(rows: int, context: int, token_buckets: Sequence[int]) -> int:
    """Steps that the prompts of `rows` requests take, those decode that are ready."""
    return -(-rows * context // max(1, token_buckets[-1] - rows)) + 1


def _prefill_point(engine: LLMEngine, token_buckets: Sequence[int], num_tokens: int) -> StepPoint:
    steps = [_timed_steps(engine, token_buckets, [([0] * num_tokens, 1)]) for _ in range(REPEATS)]
    return _median([step for of_prompt in steps for step in of_prompt])


def _median(steps: list[StepPoint]) -> StepPoint:
    attended = round(median(step.work.attended for step in steps))
    work = StepWork(steps[0].work.bucket, steps[0].work.num_tokens, attended)
    return StepPoint(work, median(step.seconds for step in steps))


def _timed_steps(engine: LLMEngine, token_buckets: Sequence[int], requests: list) -> list[StepPoint]:
    """Run requests (prompt, number of output tokens) to their end, and time every step."""
    works: list[StepWork] = []
    runner = engine.runner
    engine.runner = WatchedRunner(runner, lambda inputs: works.append(work_of(inputs, token_buckets)))
    points = []
    try:
        for prompt, num_output in requests:
            params = SamplingParams(max_tokens=num_output, ignore_eos=True)
            engine.add_request(engine.make_request(prompt, params))
        while engine.has_unfinished:
            started = perf_counter()
            engine.step()
            points.append(StepPoint(works[-1], perf_counter() - started))
    finally:
        engine.runner = runner
    return points


class WatchedRunner:
    """A runner that tells `watch` of the inputs of every step before it computes them."""

    def __init__(self, runner, watch: Callable[[StepInputs], object]):
        self._runner, self._watch = runner, watch

    def __getattr__(self, name):
        return getattr(self._runner, name)

    def run(self, inputs: StepInputs) -> np.ndarray:
        """As the runner's own."""
        self._watch(inputs)
        return self._runner.run(inputs)
