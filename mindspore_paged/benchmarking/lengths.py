"""Lengths of prompts and answers, drawn from a distribution that a flag names."""

import math
from dataclasses import dataclass

import numpy as np

from mindspore_paged.errors import ConfigError

SPELLINGS = "fixed:N, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA[:MAX]"
HELP = """lengths are given as
  fixed:N                        always N tokens (N alone is the same)
  uniform:LOW:HIGH               whole numbers from LOW to HIGH, all as likely
  lognormal:MEDIAN:SIGMA[:MAX]   exp of a normal with mean ln(MEDIAN) and deviation SIGMA, rounded, at least 1, at most
                                 MAX; the mean is MEDIAN * exp(SIGMA^2 / 2)"""


@dataclass(frozen=True)
class Lengths:
    """A distribution of whole numbers of tokens from 1 on; `parse_lengths` makes it."""

    kind: str
    first: float
    second: float = 0.0
    largest: int | None = None

    def sample(self, rng: np.random.Generator, shape: int | tuple[int, ...]) -> np.ndarray:
        """Lengths, int64, in an array of that shape."""
        if self.kind == "fixed":
            return np.full(shape, int(self.first))
        if self.kind == "uniform":
            return rng.integers(int(self.first), int(self.second), size=shape, endpoint=True)
        # Clipped before it is rounded: a wide sigma gives numbers that no integer holds.
        drawn = np.clip(rng.lognormal(math.log(self.first), self.second, shape), 1, self.largest or 2**31)
        return np.rint(drawn).astype(np.int64)


def parse_lengths(text: str, flag: str) -> Lengths:
    """The distribution that `text` spells; raises ConfigError that names `flag`."""
    kind, *numbers = text.split(":")
    if not numbers:
        kind, numbers = "fixed", [kind]
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        raise _refused(text, flag) from None
    if not all(math.isfinite(value) for value in values):
        raise _refused(text, flag)
    whole = all(value == int(value) and 1 <= value < 2**31 for value in values)
    if kind == "fixed" and len(values) == 1 and whole:
        return Lengths(kind, *values)
    if kind == "uniform" and len(values) == 2 and whole and values[0] <= values[1]:
        return Lengths(kind, *values)
    if kind == "lognormal" and len(values) in (2, 3) and values[0] >= 1 and values[1] >= 0:
        largest = values[2] if len(values) == 3 else None
        if largest is None or (largest == int(largest) and 1 <= largest < 2**31):
            return Lengths(kind, values[0], values[1], None if largest is None else int(largest))
    raise _refused(text, flag)


def _refused(text: str, flag: str) -> ConfigError:
    return ConfigError(f"{flag} is {text!r}; it must be {SPELLINGS}, in whole tokens from 1 on")
