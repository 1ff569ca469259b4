"""What a step takes by its number of tokens, as lately measured."""

SHARE_OF_THE_LATEST = 0.1
"""Weight of a new measurement in a moving average."""


class StepCosts:
    """Seconds of a model's steps, a moving average for each power of two of their tokens; `observe` mutates.

    Steps of 1, 2, 3 to 4, 5 to 8 tokens and so on are of one size each.
    """

    def __init__(self):
        self._seconds: dict[int, float] = {}

    def observe(self, num_tokens: int, seconds: float) -> None:
        """Take note of a step of `num_tokens` tokens that took `seconds`."""
        size = _size(num_tokens)
        before = self._seconds.get(size, seconds)
        self._seconds[size] = before + SHARE_OF_THE_LATEST * (seconds - before)

    def seconds(self, num_tokens: int) -> float | None:
        """What a step of so many tokens takes; None before anything was measured.

        A step takes no less than a smaller one does. One of a size that was not measured is expected to take no more
        than that, or than the smallest that was: so it is tried, and measured.
        """
        if not self._seconds:
            return None
        size = _size(num_tokens)
        smaller = [seconds for measured, seconds in self._seconds.items() if measured <= size]
        return max(smaller) if smaller else self._seconds[min(self._seconds)]


def _size(num_tokens: int) -> int:
    return (num_tokens - 1).bit_length()
