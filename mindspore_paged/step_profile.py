"""Where a step's time goes: real engine steps on random tokens, taken apart by what host and operators measure.

    step = scheduling + graph + sampling + output
    graph = groups of operators + MindSpore

The engine is watched from outside: within `_watched` its runner and its sampler leave the times at which they were
called and came back, and the operators count for themselves (custom_ops/op_times.py). Of each part the median over the
steps is taken, and a whole is the sum of its parts' medians.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from time import perf_counter

from mindspore_paged.custom_ops.op_times import OP_GROUPS, OpTime, take_op_times
from mindspore_paged.engine.engine import LLMEngine
from mindspore_paged.engine.requests.sequence import Request
from mindspore_paged.errors import StepError
from mindspore_paged.sampling.sampling_params import SamplingParams

SCHEDULING, SAMPLING, OUTPUT, MINDSPORE = "scheduling", "sampling", "output", "MindSpore"
HOST_PARTS = (SCHEDULING, SAMPLING, OUTPUT)
"""scheduling: everything before the graph, pages and inputs too. sampling: logits to tokens. output: everything else
after the graph: pages committed, text, counting."""


@dataclass(frozen=True)
class StepTimes:
    """One step, in seconds: the host's parts, the call of the graph, and the operators within it."""

    host: dict[str, float]
    graph_seconds: float
    ops: dict[str, OpTime]
    seconds: float

    @property
    def mindspore_seconds(self) -> float:
        """What the graph took beyond its timed operators: starting them, operators not timed, logits to the host."""
        return self.graph_seconds - sum(op.seconds for op in self.ops.values())


@dataclass(frozen=True)
class StepProfile:
    """Medians over steps that are alike.

    phase: decode or prefill. tokens: of a step; graph_tokens: with the padding of its graph. context: the tokens that
    the step's last token of a sequence attends to, their mean. host: seconds of each of HOST_PARTS. ops: those of
    OP_GROUPS that were called; mindspore_seconds: the rest of the graph.
    """

    phase: str
    tokens: int
    graph_tokens: int
    context: float
    num_steps: int
    host: dict[str, float]
    ops: dict[str, OpTime]
    mindspore_seconds: float

    @property
    def graph_seconds(self) -> float:
        """Operators and MindSpore."""
        return sum(op.seconds for op in self.ops.values()) + self.mindspore_seconds

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.graph_seconds + sum(self.host.values())


def longest_sequence(batch: int, context: int, chunk: int, num_steps: int) -> int:
    """Tokens that a sequence of `profile_decode` may reach, prompts being computed `chunk` tokens a step."""
    return context + -(-batch * context // (chunk - batch)) + num_steps + 2


def profile_decode(
    engine: LLMEngine, library: Path, batch: int, context: int, steps: Iterable[int]
) -> tuple[StepProfile, list[StepTimes]]:
    """Steps in which `batch` sequences get one token each; their prompts of `context` tokens are computed before.

    steps: measured ones, as many as it yields. The engine has room for the sequences (`longest_sequence`) and nothing
    to do. library: see `cpu_library`. Returns the profile and the steps that it is made of; raises StepError.
    """
    requests = [_request(engine, context, engine.limits.max_model_len, seed) for seed in range(batch)]
    for request in requests:
        engine.add_request(request)
    try:
        while any(not sequence.num_output_tokens for request in requests for sequence in request.sequences):
            engine.step()
            _check(requests)
        return _profile("decode", engine, library, steps, lambda: requests)
    finally:
        for request in requests:
            engine.abort(request.request_id)


def profile_prefill(
    engine: LLMEngine, library: Path, num_tokens: int, steps: Iterable[int]
) -> tuple[StepProfile, list[StepTimes]]:
    """Steps that compute a whole prompt of `num_tokens`, which the engine takes at once; see `profile_decode`."""
    seeds = iter(range(1_000_000))

    def next_prompt() -> list[Request]:
        request = _request(engine, num_tokens, 1, next(seeds))
        engine.add_request(request)
        return [request]

    next_prompt()
    engine.step()  # the first has the machine's caches against it
    return _profile("prefill", engine, library, steps, next_prompt)


def _profile(
    phase: str, engine: LLMEngine, library: Path, steps: Iterable[int], requests_of_step: Callable[[], list[Request]]
) -> tuple[StepProfile, list[StepTimes]]:
    """Measure; requests_of_step: queues what is missing, and returns the requests that the next step computes."""
    times, contexts = [], []
    computed = engine.metrics.num_computed_tokens
    with _watched(engine.runner, "run") as runs, _watched(engine.sampler, "sample") as samples:
        for _ in steps:
            requests = requests_of_step()
            runs.clear()
            samples.clear()
            take_op_times(library)
            started = perf_counter()
            engine.step()
            ended = perf_counter()
            ops = take_op_times(library)
            _check(requests)
            times.append(_step_times(started, runs[0], samples[0], ended, ops))
            # The token that the step brought is not in the cache yet.
            contexts += [sequence.num_tokens - 1 for request in requests for sequence in request.sequences]
    num_tokens = (engine.metrics.num_computed_tokens - computed) // len(times)
    return _medians(phase, num_tokens, _graph_tokens(engine, num_tokens), fmean(contexts), times), times


def _step_times(
    started: float, run: tuple[float, float], sample: tuple[float, float], ended: float, ops: dict[str, OpTime]
) -> StepTimes:
    sampling = sample[1] - sample[0]
    host = {SCHEDULING: run[0] - started, SAMPLING: sampling, OUTPUT: ended - run[1] - sampling}
    return StepTimes(host, run[1] - run[0], ops, ended - started)


def _graph_tokens(engine: LLMEngine, num_tokens: int) -> int:
    return min(bucket for bucket in engine.runner.token_buckets if bucket >= num_tokens)


def _medians(phase: str, tokens: int, graph_tokens: int, context: float, times: list[StepTimes]) -> StepProfile:
    ops = {}
    for name in OP_GROUPS:
        of_steps = [step.ops[name] for step in times]
        if any(op.calls for op in of_steps):
            ops[name] = OpTime(
                round(median(op.calls for op in of_steps)),
                median(op.seconds for op in of_steps),
                round(median(op.bytes for op in of_steps)),
                round(median(op.products for op in of_steps)),
            )
    return StepProfile(
        phase,
        tokens,
        graph_tokens,
        context,
        len(times),
        {part: median(step.host[part] for step in times) for part in HOST_PARTS},
        ops,
        median(step.mindspore_seconds for step in times),
    )


def _request(engine: LLMEngine, num_prompt: int, num_answer: int, seed: int) -> Request:
    draws = random.Random(seed)
    prompt = [draws.randrange(engine.limits.vocab_size) for _ in range(num_prompt)]
    return engine.make_request(prompt, SamplingParams(max_tokens=num_answer, ignore_eos=True))


def _check(requests: list[Request]) -> None:
    for request in requests:
        if request.error is not None:
            raise StepError(request.error)


@contextmanager
def _watched(owner: object, method: str) -> Iterator[list[tuple[float, float]]]:
    """Within it, each call of the owner's method appends when it began and ended; afterwards nothing of it is left."""
    calls, called = [], getattr(owner, method)

    def watched(*arguments):
        started = perf_counter()
        try:
            return called(*arguments)
        finally:
            calls.append((started, perf_counter()))

    setattr(owner, method, watched)
    try:
        yield calls
    finally:
        delattr(owner, method)
