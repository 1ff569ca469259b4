"""Whether an evicted page is worth saving: moving it twice against computing it again."""


class SwapCost:
    """Means of what it takes to move a page and to compute a token, measured as the engine runs; `observe_*` mutate.

    mode: `auto` compares, `always` and `never` do not.
    """

    def __init__(self, mode: str = "auto"):
        self.mode = mode
        self._seconds_per_page: float | None = None
        self._seconds_per_token: float | None = None

    def observe_pages(self, count: int, seconds: float) -> None:
        """Take note of `count` pages moved in one direction, in or out."""
        self._seconds_per_page = _mean(self._seconds_per_page, seconds / count)

    def observe_tokens(self, count: int, seconds: float) -> None:
        """Take note of a step that computed `count` tokens, enough of them to tell what a page would take."""
        self._seconds_per_token = _mean(self._seconds_per_token, seconds / count)

    def is_worth_saving(self, block_size: int) -> bool:
        """Whether to save a page of `block_size` tokens; while one side is unknown it is saved, and so measured."""
        if self.mode != "auto" or self._seconds_per_page is None or self._seconds_per_token is None:
            return self.mode != "never"
        return 2 * self._seconds_per_page < block_size * self._seconds_per_token


def _mean(mean: float | None, value: float) -> float:
    """A running mean over some ten values."""
    return value if mean is None else mean + (value - mean) / 10
