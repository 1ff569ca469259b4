"""What the engine counts while it runs, and the statistics that it reports."""

from dataclasses import dataclass


@dataclass
class Metrics:
    """Running totals; times in seconds of time.perf_counter(). `start_step` and the engine's own additions mutate."""

    num_steps: int = 0
    num_requests_finished: int = 0
    num_requests_failed: int = 0
    num_output_tokens: int = 0
    num_computed_tokens: int = 0
    busy_seconds: float = 0.0
    time_to_first_token_sum: float = 0.0
    num_first_tokens: int = 0
    slots_held: int = 0
    slots_filled: int = 0
    peak_used_blocks: int = 0

    def record_pool(self, used_blocks: int, block_size: int, unfilled_slots: int) -> None:
        """Take note of how full the used pages are in one step."""
        self.slots_held += used_blocks * block_size
        self.slots_filled += used_blocks * block_size - unfilled_slots
        self.peak_used_blocks = max(self.peak_used_blocks, used_blocks)

    def record_first_token(self, seconds: float) -> None:
        """Take note of one request's time from arrival to its first token."""
        self.time_to_first_token_sum += seconds
        self.num_first_tokens += 1

    @property
    def block_utilization(self) -> float:
        """Share of the slots in used pages that hold a token, over all steps."""
        return _ratio(self.slots_filled, self.slots_held)

    @property
    def throughput(self) -> float:
        """Generated tokens a second of the time spent in steps."""
        return _ratio(self.num_output_tokens, self.busy_seconds)

    @property
    def time_to_first_token_s(self) -> float:
        """Mean over the requests that got a token."""
        return _ratio(self.time_to_first_token_sum, self.num_first_tokens)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
