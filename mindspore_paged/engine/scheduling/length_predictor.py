"""How long an answer will be, learned from the answers that ended lately."""

import math
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict, deque

from mindspore_paged.engine.requests.sequence import Request
from mindspore_paged.errors import ConfigError, IntegrityError

DEFAULT_LENGTH = 128
"""Tokens of an answer while nothing is known, as `max_tokens` has it too."""


class LengthPredictor:
    """A quantile of recent answers of the same class, among those longer than what is there; `observe` mutates.

    Where fewer than `min_samples` of a class are longer, the answers of all classes are asked; where those are too few
    too, DEFAULT_LENGTH tokens are expected, or as much again as is there, if that is more.

    quantile: the share of answers that should not turn out longer, above 0 and at most 1.
    window: answers kept, the latest, of each class and of all together. max_classes: classes kept, the ones that were
    observed last. Both bound the memory; the time for a call is O(log window), but for moving `window` small numbers.
    Raises ConfigError for a value out of range.
    """

    def __init__(self, quantile: float = 0.9, min_samples: int = 8, window: int = 256, max_classes: int = 256):
        if not 0 < quantile <= 1:
            raise ConfigError(f"length predictor: quantile is {quantile}; it must be above 0 and at most 1")
        if not 1 <= min_samples <= window:
            raise ConfigError(f"length predictor: min_samples is {min_samples}; it must be 1 to window ({window})")
        if max_classes < 1:
            raise ConfigError(f"length predictor: max_classes is {max_classes}; it must be at least 1")
        self.quantile = quantile
        self.min_samples = min_samples
        self.window = window
        self.max_classes = max_classes
        self._of_all = _RecentLengths(window)
        self._of_class: OrderedDict[str, _RecentLengths] = OrderedDict()

    @property
    def num_classes(self) -> int:
        """Classes that are remembered."""
        return len(self._of_class)

    def observe(self, request_class: str, num_output_tokens: int) -> None:
        """Learn from an answer that ended by itself or at its limit; one that was aborted or failed says nothing."""
        self._of_all.add(num_output_tokens)
        self._of_class.setdefault(request_class, _RecentLengths(self.window)).add(num_output_tokens)
        self._of_class.move_to_end(request_class)
        if len(self._of_class) > self.max_classes:
            self._of_class.popitem(last=False)

    def predict(self, request_class: str, num_output_so_far: int, max_tokens: int) -> int:
        """Tokens that the whole answer is expected to have: num_output_so_far + 1 .. max_tokens.

        Raises IntegrityError for an answer that is at its limit, and so at its end.
        """
        if not 0 <= num_output_so_far < max_tokens:
            raise IntegrityError(f"an answer of {num_output_so_far} tokens cannot go on: max_tokens is {max_tokens}")
        for lengths in (self._of_class.get(request_class), self._of_all):
            if lengths is not None and lengths.num_above(num_output_so_far) >= self.min_samples:
                return min(lengths.quantile_above(num_output_so_far, self.quantile), max_tokens)
        return min(max(DEFAULT_LENGTH, 2 * num_output_so_far), max_tokens)


def class_of(request: Request) -> str:
    """The class that the user gave the request, or else one for prompts of about its length, by powers of two."""
    if request.request_class is not None:
        return request.request_class
    bound = 1 << (len(request.prompt_token_ids) - 1).bit_length()
    return f"prompts of {bound // 2 + 1} to {bound} tokens"


def output_limit(request: Request, max_model_len: int) -> int:
    """Tokens that an answer to the request can have at most; one stands for an embedding, which has none."""
    if request.pooling is not None:
        return 1
    room = max_model_len - len(request.prompt_token_ids)
    return room if request.params.max_tokens is None else min(room, request.params.max_tokens)


class _RecentLengths:
    """The latest `window` lengths, by age and by size."""

    def __init__(self, window: int):
        self._window = window
        self._by_age: deque[int] = deque()
        self._by_size: list[int] = []

    def add(self, length: int) -> None:
        if len(self._by_age) == self._window:
            del self._by_size[bisect_left(self._by_size, self._by_age.popleft())]
        self._by_age.append(length)
        insort(self._by_size, length)

    def num_above(self, length: int) -> int:
        return len(self._by_size) - bisect_right(self._by_size, length)

    def quantile_above(self, length: int, quantile: float) -> int:
        """The shortest length that at least `quantile` of the lengths above `length` do not exceed."""
        num_above = self.num_above(length)
        return self._by_size[-num_above + math.ceil(quantile * num_above) - 1]
