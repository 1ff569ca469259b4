"""Limits of latency that a user states, and how many requests keep all of them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mindspore_paged.errors import ConfigError

LATENCIES = {"ttft": "ttft", "tpot": "tpot", "e2el": "latency"}
"""The names that vLLM's benchmark has for them, and the attribute of a record that each is held against."""

HELP = """limits are given as vLLM's benchmark takes them, in ms: ttft:500, tpot:50 or e2el:10000 (the whole request)"""


@dataclass(frozen=True)
class Limit:
    """The most that one latency of a request may be, in seconds."""

    name: str
    seconds: float

    def is_kept_by(self, record) -> bool:
        """Whether the record keeps it; one that has no such latency (a single token's TPOT) does."""
        value = getattr(record, LATENCIES[self.name])
        return value is None or value <= self.seconds


def parse_limits(texts: Sequence[str], flag: str) -> list[Limit]:
    """The limits that `texts` spell; raises ConfigError that names `flag`."""
    limits = {}
    for text in texts:
        name, _, number = text.partition(":")
        try:
            milliseconds = float(number)
        except ValueError:
            milliseconds = math.nan
        if name not in LATENCIES or not 0 < milliseconds < math.inf:
            names = ", ".join(LATENCIES)
            raise ConfigError(f"{flag} has {text!r}; it must be NAME:MILLISECONDS above 0, with a NAME of {names}")
        if name in limits:
            raise ConfigError(f"{flag} has {name} twice")
        limits[name] = Limit(name, milliseconds / 1e3)
    return list(limits.values())


def num_good(records: Iterable, limits: Sequence[Limit]) -> int:
    """How many records keep all limits."""
    return sum(all(limit.is_kept_by(record) for limit in limits) for record in records)
