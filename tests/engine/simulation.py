"""The real scheduler over a device that computes nothing: an order of service can be judged in milliseconds.

Every request's true length is known beforehand, and one step is one unit of time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

from mindspore_paged import SamplingParams
from mindspore_paged.cache.block_pool import BlockPool
from mindspore_paged.cache.block_table import BlockTable
from mindspore_paged.cache.cache_manager import CacheManager
from mindspore_paged.engine.requests.detokenizer import IncrementalDetokenizer
from mindspore_paged.engine.requests.sequence import Request, Sequence
from mindspore_paged.engine.scheduling.scheduler import Scheduler


@dataclass
class Job:
    """A request with one sequence, which arrives at a step and generates `output_length` tokens."""

    sequence: Sequence
    output_length: int
    arrives_at: int
    first_token_at: int | None = None
    ended_at: int | None = None

    @property
    def request(self) -> Request:
        return self.sequence.request

    @property
    def wait(self) -> int:
        """Steps from its arrival until its first token."""
        return self.first_token_at - self.arrives_at


def make_job(
    arrival: int, prompt_length: int, output_length: int, arrives_at: int = 0, max_tokens: int | None = None, **fields
) -> Job:
    """A job whose answer ends at `max_tokens` unless that is larger; `fields` are the request's."""
    params = SamplingParams(max_tokens=max_tokens or output_length)
    request = Request(f"job {arrival}", arrival, None, [arrival] * prompt_length, params, 0.0, **fields)
    return Job(Sequence(request, 0, IncrementalDetokenizer(None)), output_length, arrives_at)


class ObservedScheduler(Scheduler):
    """Keeps, for each preemption, the victim's place in the order and the places of those who ran beside it."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.preemptions: list[tuple[tuple, list[tuple]]] = []

    def give_up(self, sequence: Sequence) -> None:
        self.preemptions.append((sequence.order, [other.order for other in self.running if other is not sequence]))
        super().give_up(sequence)


def make_scheduler(
    step_tokens=256, max_num_seqs=16, num_blocks=4500, block_size=16, max_model_len=4100, **options
) -> ObservedScheduler:
    """A scheduler without prefix cache, with room for every sequence unless told otherwise."""
    table = BlockTable(max_num_seqs, -(-max_model_len // block_size))
    cache = CacheManager(BlockPool(num_blocks), table, block_size, enable_prefix_caching=False)
    return ObservedScheduler(cache, step_tokens, max_model_len=max_model_len, **options)


def simulate(scheduler: Scheduler, jobs: list[Job], max_steps: int = 20_000) -> int:
    """Serve the jobs and return the steps that it took; fails if they are not done within `max_steps`."""
    of_sequence = {job.sequence: job for job in jobs}
    to_come = sorted(jobs, key=lambda job: (job.arrives_at, job.request.arrival), reverse=True)
    step = 0
    while to_come or scheduler.has_unfinished:
        if step == max_steps:
            raise AssertionError(f"{sum(job.ended_at is None for job in jobs)} jobs are left after {max_steps} steps")
        while to_come and to_come[-1].arrives_at == step:
            scheduler.add(to_come.pop().sequence)
        plan = scheduler.schedule()
        step += 1
        scheduler.commit(plan)
        for chunk in plan.chunks:
            if chunk.is_last:
                _append_token(scheduler, of_sequence[chunk.sequence], step)
    return step


def _append_token(scheduler: Scheduler, job: Job, step: int) -> None:
    job.sequence.token_ids.append(0)
    if job.first_token_at is None:
        job.first_token_at = step
    if job.sequence.num_output_tokens == job.output_length:
        job.ended_at = step
        scheduler.finish(job.sequence, "stop")


def mean_wait(jobs: list[Job]) -> float:
    """Steps until the first token, on average."""
    return mean(job.wait for job in jobs)


def true_length(jobs: list[Job]) -> Callable[[Request], int]:
    """A predictor that is always right."""
    lengths = {job.request.arrival: job.output_length for job in jobs}
    return lambda request: lengths[request.arrival]
