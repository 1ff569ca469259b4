"""Elastic capacity: how much of the pool may be used, following the load."""

import math

from mindspore_paged.errors import ConfigError


class ElasticCapacity:
    """Grows the usable part of the pool above a high load and shrinks it below a low one; `advise` mutates.

    min_blocks, max_blocks: bounds of the usable part. high, low: loads, used / usable (the article: 0.8 and 0.3).
    growth: factor of one expansion; a shrink divides by it. patience: steps in a row that a load must be low before
    the part shrinks. Growth does not wait: whoever is refused a page now is preempted now. The gap between the two
    loads is the hysteresis: after a change by `growth` the load is inside it, as low * growth < high / growth.
    """

    def __init__(self, min_blocks, max_blocks, high=0.8, low=0.3, growth=1.5, patience=32):
        if not (0 < low * growth < high / growth < 1):
            raise ConfigError(
                f"elastic loads {low} and {high} are too close for a growth of {growth}; low * growth must be below "
                "high / growth"
            )
        self.min_blocks, self.max_blocks = min_blocks, max_blocks
        self.high, self.low, self.growth, self.patience = high, low, growth, patience
        self._low_steps = 0

    def advise(self, used: int, usable: int) -> int:
        """How many blocks should be usable from the next step on, for a step that uses `used` of `usable`."""
        load = used / usable
        self._low_steps = self._low_steps + 1 if load < self.low else 0
        if load > self.high:
            return min(self.max_blocks, math.ceil(usable * self.growth))
        if self._low_steps >= self.patience:
            self._low_steps = 0
            return max(self.min_blocks, math.ceil(usable / self.growth))
        return usable
