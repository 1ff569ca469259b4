"""How long a step takes, from a few that were measured: a time for each graph, and one for each token attended to."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np

from mindspore_paged.engine.engine import LLMEngine
from mindspore_paged.errors import ConfigError
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.step_inputs import StepInputs

REPEATS = 7
SHORT_CONTEXT = 16


@dataclass(frozen=True)
class StepWork:
    """What a step computes: tokens in the graph of `bucket`, which attend to `attended` tokens of the cache in all."""

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
    """Seconds of a step: those of its tokens in their graph, and `per_attended` for each token attended to.

    base: of each graph, by its bucket, the times of some numbers of tokens; between them it is a straight line. Where a
    graph computes its padding, all numbers of tokens take the same.
    """

    def __init__(self, base: dict[int, dict[int, float]], per_attended: float):
        self.base, self.per_attended = base, per_attended

    @classmethod
    def fit(cls, points: Sequence[StepPoint]) -> "StepTimeModel":
        """The model with the least squares of relative errors; raises ConfigError without points.

        Where attention cannot be told from noise (no step was measured at two lengths, or longer was faster), it counts
        nothing.
        """
        if not points:
            raise ConfigError("no measured step times to fit a model to")
        lengths = defaultdict(set)
        for point in points:
            lengths[point.work.bucket, point.work.num_tokens].add(point.work.attended)
        kinds = sorted(lengths)
        seconds = np.array([point.seconds for point in points])
        steps = np.array([[float((p.work.bucket, p.work.num_tokens) == kind) for kind in kinds] for p in points])
        attended = np.array([[float(point.work.attended)] for point in points])
        base, slope = _least_relative_squares(steps, seconds), 0.0
        if any(len(of_kind) > 1 for of_kind in lengths.values()):
            *with_slope, fitted = _least_relative_squares(np.hstack([steps, attended]), seconds)
            if fitted > 0 and min(with_slope) > 0:
                base, slope = with_slope, float(fitted)
        times = defaultdict(dict)
        for (bucket, num_tokens), of_kind in zip(kinds, base, strict=True):
            times[bucket][num_tokens] = float(of_kind)
        return cls(dict(times), slope)

    def seconds(self, work: StepWork) -> float:
        """The time of a step; raises ConfigError for a bucket that was not measured."""
        if work.bucket not in self.base:
            raise ConfigError(f"no step of {work.bucket} tokens was measured, but the run has such steps")
        of_graph = self.base[work.bucket]
        tokens_part = float(np.interp(work.num_tokens, list(of_graph), list(of_graph.values())))
        return tokens_part + self.per_attended * work.attended


def _least_relative_squares(columns: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(columns / seconds[:, None], np.ones(len(seconds)), rcond=None)[0]


def measure_step_times(engine: LLMEngine, token_buckets: Sequence[int], max_num_seqs: int) -> list[StepPoint]:
    """Medians of steps of each graph, with the fewest tokens that it is for and with the most.

    Decode steps at a short and a long context, or one chunk of a prompt. The engine must be idle, its pages without
    names: prompts repeat.
    """
    usable_tokens = (engine.scheduler.cache.pool.num_blocks - 1) * engine.scheduler.cache.block_size
    points, below = [], 0
    for bucket in token_buckets:
        if bucket <= max_num_seqs:
            points += [
                _decode_point(engine, token_buckets, rows, context)
                for rows in sorted({below + 1, bucket})
                for context in _contexts(engine, token_buckets, rows)
            ]
        else:
            most = min(bucket, engine.limits.max_model_len - 1, usable_tokens - 1)
            points += [
                _prefill_point(engine, token_buckets, num_tokens)
                for num_tokens in sorted({below + 1, most})
                if below < num_tokens <= most
            ]
        below = bucket
    return points


def _contexts(engine: LLMEngine, token_buckets: Sequence[int], rows: int) -> list[int]:
    """A short context and the longest that the pool holds of all rows, with the tokens that they decode meanwhile."""
    cache = engine.scheduler.cache
    room = min(engine.limits.max_model_len, (cache.pool.num_blocks - 1) // rows * cache.block_size)
    room -= REPEATS + 2 + _prompt_steps(rows, room, token_buckets)
    return sorted(context for context in {min(SHORT_CONTEXT, room), room} if context > 0)


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


@dataclass(frozen=True)
class PageTimes:
    """Milliseconds that a page takes to host memory, alone, and from there, among others."""

    save_ms: float
    load_ms: float


def measure_page_times(engine: LLMEngine) -> PageTimes:
    """Medians of moving pages of an idle engine: they are read and written back as they were."""
    runner, blocks = engine.runner, list(range(1, min(9, engine.scheduler.cache.pool.num_blocks)))
    saves, loads = [], []
    for _ in range(REPEATS):
        started = perf_counter()
        runner.read_pages(blocks[:1])
        saves.append(perf_counter() - started)
        pages = runner.read_pages(blocks)
        started = perf_counter()
        runner.write_pages(blocks, pages)
        loads.append((perf_counter() - started) / len(blocks))
    return PageTimes(1e3 * median(saves), 1e3 * median(loads))


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
