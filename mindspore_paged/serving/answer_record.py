"""What is known of an engine's answer to one request: its tokens, times and ends, as its stream shows them."""

from array import array
from time import perf_counter

from mindspore_paged.engine.requests.outputs import SequenceUpdate
from mindspore_paged.engine.requests.sequence import Request


class AnswerRecord:
    """Looks at a request's updates as they pass; `take` and `end` mutate. Times in seconds of perf_counter().

    num_output_tokens: of all its texts. gaps: seconds between one update of a text and its next.
    ended: when the last was seen; None while it goes on.
    """

    def __init__(self, request: Request):
        self.request = request
        self.num_output_tokens = 0
        self.gaps = array("d")
        self.ended: float | None = None
        self._failed = False
        self._reasons: dict[int, str] = {}
        self._last_times: dict[int, float] = {}

    def take(self, update: SequenceUpdate) -> None:
        """Take note of an update that has just come."""
        if update.finish_reason is not None:
            self._reasons[update.index] = update.finish_reason
        if not update.token_ids:
            return
        now = perf_counter()
        self.num_output_tokens += len(update.token_ids)
        if update.index in self._last_times:
            self.gaps.append(now - self._last_times[update.index])
        self._last_times[update.index] = now

    def end(self, failed: bool) -> None:
        """Nothing more will come. failed: by an error of the server, not because the reader stopped."""
        self.ended = perf_counter()
        self._failed = failed

    @property
    def finish_reasons(self) -> list[str]:
        """Why each of its texts ended: `stop`, `length`, `error`, or `abort` where nobody read to its end."""
        missing = "error" if self._failed else "abort"
        return [self._reasons.get(index, missing) for index in range(self.request.params.n)]

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_token_ids)

    @property
    def num_cached_tokens(self) -> int:
        """Tokens of the prompt that were in the cache already."""
        return self.request.num_cached_tokens

    @property
    def last_token_time(self) -> float | None:
        """When the last token was seen; None if none was."""
        return max(self._last_times.values(), default=None)
