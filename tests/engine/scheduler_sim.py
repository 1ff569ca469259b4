"""A scheduler without a device: steps are planned, committed, and answered with made-up tokens."""

from mindspore_paged.cache.block_pool import BlockPool
from mindspore_paged.cache.block_table import BlockTable
from mindspore_paged.cache.cache_manager import CacheManager
from mindspore_paged.engine.requests.detokenizer import IncrementalDetokenizer
from mindspore_paged.engine.requests.sequence import Request, Sequence
from mindspore_paged.engine.scheduling.scheduler import Scheduler
from mindspore_paged.engine.scheduling.step_plan import StepPlan
from mindspore_paged.sampling.sampling_params import SamplingParams


class SchedulerSim:
    """Runs sequences that are known by the number of their arrival; integrity is checked at every step.

    history: for each step, (arrival, start, tokens) of each chunk. finished: arrivals in the order in which they ended.
    """

    def __init__(
        self, num_blocks=64, block_size=4, rows=4, budget=16, longest=64, chunked=True, prefix_caching=False
    ):  # fmt: skip
        table = BlockTable(rows, -(-longest // block_size))
        cache = CacheManager(BlockPool(num_blocks), table, block_size, prefix_caching)
        self.scheduler = Scheduler(cache, budget, chunked)
        self.rows, self.budget = rows, budget
        self.history: list[list[tuple[int, int, int]]] = []
        self.finished: list[int] = []
        self.sequences: dict[int, Sequence] = {}
        self._answers: dict[int, int] = {}

    def add(self, prompt: int | list[int], answer: int = 1) -> int:
        """Queue a prompt (or one of so many tokens of its own) that will be answered by `answer` tokens."""
        arrival = len(self.sequences)
        prompt = [1000 * arrival + place for place in range(prompt)] if isinstance(prompt, int) else prompt
        request = Request(str(arrival), arrival, None, prompt, SamplingParams(), 0.0)
        sequence = Sequence(request, 0, IncrementalDetokenizer(None))
        request.sequences = [sequence]
        self.sequences[arrival] = sequence
        self._answers[arrival] = answer
        self.scheduler.add(sequence)
        return arrival

    def plan(self) -> StepPlan:
        """Plan a step and note it down, without running it."""
        plan = self.scheduler.schedule()
        self.history.append([(c.sequence.request.arrival, c.start, c.num_tokens) for c in plan.chunks])
        return plan

    def step(self) -> list[tuple[int, int, int]]:
        """Plan and run a step; returns its chunks."""
        plan = self.plan()
        assert plan.num_tokens <= self.budget
        assert len(self.scheduler.running) <= self.rows
        self.scheduler.commit(plan)
        for chunk in plan.chunks:
            if chunk.is_last:
                self._append(chunk.sequence)
        self.scheduler.check_integrity()
        return self.history[-1]

    def run(self) -> None:
        """Step until nothing is left; a run that does not come to an end fails."""
        for _ in range(10_000):
            if not self.scheduler.has_unfinished:
                return
            self.step()
        raise AssertionError("sequences are left after 10,000 steps")

    def running(self) -> list[int]:
        """Arrivals that hold a row."""
        return [sequence.request.arrival for sequence in self.scheduler.running]

    def chunks_of(self, arrival: int) -> list[tuple[int, int]]:
        """(start, tokens) of every chunk of one sequence."""
        return [(start, tokens) for step in self.history for who, start, tokens in step if who == arrival]

    def _append(self, sequence: Sequence) -> None:
        arrival = sequence.request.arrival
        sequence.token_ids.append(1000 * arrival + 500 + sequence.num_output_tokens)
        if sequence.num_output_tokens == self._answers[arrival]:
            self.scheduler.finish(sequence, "length")
            self.finished.append(arrival)
