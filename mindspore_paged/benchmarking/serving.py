"""Requests that arrive over time, the engine's step loop that serves them, and what each of them had to wait for."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mindspore_paged.benchmarking.goodput import Limit, num_good
from mindspore_paged.benchmarking.lengths import Lengths
from mindspore_paged.benchmarking.report import percentile
from mindspore_paged.errors import ConfigError
from mindspore_paged.sampling.sampling_params import SamplingParams


@dataclass(frozen=True)
class Arrival:
    """A request before it is one: seconds after the start, and tokens."""

    at: float
    prompt: list[int]
    num_output: int


@dataclass
class Record:
    """What became of one request; times in seconds after the start.

    started: when the step began that computed its first token of prompt. token_times: the end of the step that brought
    each token.
    """

    arrival: float
    num_prompt: int
    started: float | None = None
    token_times: list[float] = field(default_factory=list)
    error: str | None = None

    @property
    def num_output(self) -> int:
        """Tokens of the answer."""
        return len(self.token_times)

    @property
    def queued(self) -> float | None:
        """From arrival to the first step that it took part in: None where nobody can tell."""
        return None if self.started is None else self.started - self.arrival

    @property
    def ttft(self) -> float:
        """Time to first token, from arrival."""
        return self.token_times[0] - self.arrival

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first: None of an answer of one token."""
        times = self.token_times
        return (times[-1] - times[0]) / (self.num_output - 1) if self.num_output > 1 else None

    @property
    def gaps(self) -> np.ndarray:
        """Inter-token latencies: between each token and the one before it."""
        return np.diff(self.token_times)

    @property
    def latency(self) -> float:
        """From arrival to the last token."""
        return self.token_times[-1] - self.arrival


@dataclass
class Load:
    """How many requests ran and waited at the end of each step."""

    times: list[float] = field(default_factory=list)
    running: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)


def draw_arrivals(
    rate: float,
    count: int,
    prompts: Lengths,
    outputs: Lengths,
    vocab_size: int,
    max_model_len: int,
    seed: int,
    run: int = 0,
) -> list[Arrival]:
    """Requests of a Poisson process of `rate` a second (infinite: all at once), the first at 0, of random token ids.

    Lengths and the shape of the arrivals depend on the seed alone; tokens on `run` too, so that no run finds those of
    an earlier one in the prefix cache. Raises ConfigError for a request that max_model_len does not hold.
    """
    times, num_prompts, num_outputs = draw_schedule(rate, count, prompts, outputs, seed)
    num_prompts, num_outputs = num_prompts[:, 0], num_outputs[:, 0]
    longest = int((num_prompts + num_outputs).max())
    if longest > max_model_len:
        raise ConfigError(
            f"a request of {longest} tokens was drawn, but scheduler.max_model_len is {max_model_len}; "
            "give shorter lengths (lognormal takes a MAX), or raise it"
        )
    rng = np.random.default_rng((seed, run))
    return [
        Arrival(float(at), rng.integers(vocab_size, size=num_prompt).tolist(), int(num_output))
        for at, num_prompt, num_output in zip(times, num_prompts, num_outputs, strict=True)
    ]


def draw_schedule(
    rate: float, count: int, prompts: Lengths, outputs: Lengths, seed: int, num_turns: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """When each of `count` users of a Poisson process comes, and how long what each says and is answered will be.

    Times (count,) float64, the first 0; lengths of prompts and of answers (count, num_turns) int64.
    """
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1.0, count)
    gaps[0] = 0.0
    shape = (count, num_turns)
    return np.cumsum(gaps) / rate, prompts.sample(rng, shape), outputs.sample(rng, shape)


def serve(
    llm,
    arrivals: list[Arrival],
    *,
    on_finished: Callable[[int], object] = lambda count: None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> tuple[list[Record], Load]:
    """Let requests in when their time has come, between steps, until all have ended.

    A request that comes while a step runs waits for its end: that counts, because arrival is the drawn time.
    on_finished: called with the number of requests that a step ended.
    """
    engine, load = llm.engine, Load()
    records = [Record(arrival.at, len(arrival.prompt)) for arrival in arrivals]
    pending: dict[str, tuple] = {}  # those under way: their request and record
    next_one, start = 0, clock()
    try:
        while next_one < len(arrivals) or engine.has_unfinished:
            now = clock() - start
            while next_one < len(arrivals) and arrivals[next_one].at <= now:
                arrival = arrivals[next_one]
                params = SamplingParams(max_tokens=arrival.num_output, ignore_eos=True)
                request = llm.make_request(arrival.prompt, params)
                pending[engine.add_request(request)] = (request, records[next_one])
                next_one += 1
            if not engine.has_unfinished:
                sleep(arrivals[next_one].at - now)
                continue
            began = clock() - start
            output = engine.step()
            _take_note(output, pending, began, clock() - start)
            on_finished(len(output.finished))
            load.times.append(clock() - start)
            load.running.append(len(engine.scheduler.running))
            load.waiting.append(len(engine.scheduler.waiting))
    finally:
        for request_id in pending:  # of an interrupted run
            engine.abort(request_id)
    return records, load


def _take_note(output, pending: dict, began: float, ended: float) -> None:
    for request, record in pending.values():
        if record.started is None and (request.is_finished or request.sequences[0].num_computed_tokens):
            record.started = began
    for update in output.updates:
        _, record = pending[update.request_id]
        record.token_times += [ended] * len(update.token_ids)
        record.error = update.error or record.error
    for finished in output.finished:
        del pending[finished.request_id]


def summary(records: Sequence[Record], load: Load, limits: Sequence[Limit] = ()) -> dict:
    """Throughput over the time from the first arrival to the last token, and latencies in ms at P50 and P99.

    Requests that failed count only as num_failed. limits: those of goodput, the rate of requests that keep all.
    """
    good = [record for record in records if record.error is None and record.token_times]
    figures = {"num_requests": len(records), "num_failed": len(records) - len(good)}
    if not good:
        return figures
    seconds = max(record.token_times[-1] for record in good)
    num_output = sum(record.num_output for record in good)
    figures |= {
        "seconds": seconds,
        "requests_per_second": len(good) / seconds,
        "output_tokens_per_second": num_output / seconds,
        "total_tokens_per_second": (num_output + sum(record.num_prompt for record in good)) / seconds,
        "mean_running": float(np.mean(load.running)),
        "most_running": max(load.running),
        "most_waiting": max(load.waiting, default=None),
    }
    if limits:
        figures["goodput_per_second"] = num_good(good, limits) / seconds
    samples = {
        name: [value for record in good if (value := getattr(record, name)) is not None]
        for name in ("queued", "ttft", "tpot", "latency")
    }
    samples["itl"] = np.concatenate([record.gaps for record in good])
    for name, values in samples.items():
        for percent in (50, 99):
            figures[f"{name}_ms_p{percent}"] = 1e3 * percentile(values, percent) if len(values) else None
    return figures
