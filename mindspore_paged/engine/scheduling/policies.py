"""In which order requests are served: each gets a rank when it is first queued, and keeps it to its end."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from mindspore_paged.engine.requests.sequence import Request
from mindspore_paged.errors import ConfigError

POLICIES = ("fcfs", "priority", "shortest")

AGEING_STEPS_OF_PRIORITY = 64
AGEING_STEPS_OF_SHORTEST = 1

Rank = tuple[float, int]
"""A virtual step, then the order of arrival: the smallest is served first and preempted last."""


@dataclass(frozen=True)
class SchedulingPolicy:
    """Ranks requests by their cost, which waiting makes up for: `ageing_steps` steps for each unit.

    A request that waits gains on newcomers all the time, yet never changes its order against another that waits as
    long: at step t their merits are `(t - queued) / ageing_steps - cost`, and the difference of two such lines does not
    depend on t. So the rank `queued + ageing_steps * cost` says once and for all who goes first.

    A scheduler that admits in order of rank, plans in order of rank and takes pages only from the worst ranked can
    promise two things, and each rests on ranks that never change and never tie:

    - No two sequences evict each other for ever: pages only move to a better rank, and the best ranked of all
      unfinished sequences is never preempted, goes on at each step, and ends. Then the next one is the best ranked.
    - Nothing starves: a request queued at step q overtakes only what ranks behind q + ageing_steps * its cost, so with
      costs of at least c a rank r has nobody new before it after step r - ageing_steps * c. A preempted sequence must
      therefore keep its rank: were it queued afresh, it would fall behind newcomers again each time.

    A rank that improved only while its request waits would void both: whoever lost its pages would overtake whoever
    took them, and could take them back. For shortest first a frozen rank costs little: a sequence that was preempted
    has all its tokens to compute again, so its work is what it was when it came.
    """

    cost: Callable[[Request], float]
    ageing_steps: float

    def rank(self, request: Request, step: int) -> Rank:
        """The rank of a request that is queued for the first time at `step`; all its sequences share it."""
        return step + self.ageing_steps * self.cost(request), request.arrival


def policy_by_name(
    name: str, expected_output: Callable[[Request], int], ageing_steps: float | None = None
) -> SchedulingPolicy:
    """The policy called `name`; raises ConfigError that says what is allowed.

    fcfs: first come, first served.
    priority: a higher `request.priority` first; each level is made up for by waiting `ageing_steps` steps.
    shortest: least expected work first, which is the prompt and `expected_output`, in tokens; each token of work is
        made up for by waiting `ageing_steps` steps. The n texts of a request run side by side and count once.
    ageing_steps: None takes AGEING_STEPS_OF_PRIORITY or AGEING_STEPS_OF_SHORTEST; first come first served has no use
        for it.
    """
    if ageing_steps is not None and not 0 < ageing_steps < math.inf:
        raise ConfigError(f"scheduler.ageing_steps is {ageing_steps}; it must be above 0, and finite")
    if name == "fcfs":
        return SchedulingPolicy(lambda request: 0, 1)
    if name == "priority":
        return SchedulingPolicy(lambda request: -request.priority, ageing_steps or AGEING_STEPS_OF_PRIORITY)
    if name == "shortest":
        return SchedulingPolicy(
            lambda request: len(request.prompt_token_ids) + expected_output(request),
            ageing_steps or AGEING_STEPS_OF_SHORTEST,
        )
    raise ConfigError(f"scheduler.policy is {name!r}; allowed: {', '.join(POLICIES)}")
