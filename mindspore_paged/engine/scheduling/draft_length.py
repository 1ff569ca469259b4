"""How many tokens to guess ahead: as many as bring the most tokens a second, by what was measured lately."""

from mindspore_paged.engine.scheduling.step_costs import StepCosts

MEMORY = 0.98
"""What a sequence's step leaves of the weight of those before it: some 50 of them count."""

PRIOR = 4.0
"""Guesses at a place that count as measured, before any were: they are as often right as those at the place before."""

PATIENCE, MOST_PATIENCE = 64, 1024
"""Steps without guesses after which one is tried: texts change, and so do loads. Twice as many after each try that was
in vain, up to the most: a draft model that has not followed for long has much to catch up with."""


class DraftLength:
    """Chooses the number of drafts of a step's sequences; `choose` and the `observe_*` mutate.

    With a share r[i] of the drafts at place i that prove right where those before them do, a sequence gets
    1 + r[1] + r[1] r[2] + … tokens of a step with k drafts (Leviathan et al. 2023), for the time of a step of the
    model with k tokens more a sequence and of k steps of the draft model. k is what makes the quotient largest, the
    smallest among equals; num_speculative_tokens, the most, until a step was measured.

    The answer follows from what was observed alone: it reads no clock.
    """

    def __init__(self, num_speculative_tokens: int):
        self.num_speculative_tokens = num_speculative_tokens
        self._checked = [0.0] * num_speculative_tokens
        self._right = [0.0] * num_speculative_tokens
        self._step, self._draft = StepCosts(), StepCosts()
        self._steps_without, self._patience = 0, PATIENCE

    def observe_drafts(self, num_checked: int, num_right: int) -> None:
        """Take note of one sequence's drafts in one step.

        num_checked: those at whose places a token was sampled, up to the first wrong one. num_right: of these.
        """
        for place in range(num_checked):
            self._checked[place] = MEMORY * self._checked[place] + 1
            self._right[place] = MEMORY * self._right[place] + (place < num_right)

    def observe_step(self, num_tokens: int, seconds: float) -> None:
        """Take note of what the model itself took for a step."""
        self._step.observe(num_tokens, seconds)

    def observe_draft_step(self, num_tokens: int, seconds: float) -> None:
        """Take note of what the draft model took for a step of its own; none are told of where drafts cost nothing."""
        self._draft.observe(num_tokens, seconds)

    def rates(self) -> list[float]:
        """For each place the share of drafts that prove right there, where those before them did."""
        rates, rate = [], 1.0
        for checked, right in zip(self._checked, self._right, strict=True):
            rate = (right + PRIOR * rate) / (checked + PRIOR)
            rates.append(rate)
        return rates

    def choose(self, num_sequences: int, num_tokens: int) -> int:
        """Drafts of each sequence in the coming step, from 0 to num_speculative_tokens.

        num_sequences: that may have drafts, at least 1; num_tokens: of the step without any.
        """
        length = self._best(num_sequences, num_tokens)
        if length:
            self._steps_without, self._patience = 0, PATIENCE
            return length
        self._steps_without += 1
        if self._steps_without <= self._patience:
            return 0
        self._steps_without, self._patience = 0, min(2 * self._patience, MOST_PATIENCE)
        return 1

    def _best(self, num_sequences: int, num_tokens: int) -> int:
        without = self._step.seconds(num_tokens)
        if without is None:
            return self.num_speculative_tokens
        drafting = self._draft.seconds(num_sequences) or 0.0
        best, best_speed = 0, 1 / without
        expected = reached = 1.0
        for length, rate in enumerate(self.rates(), 1):
            reached *= rate
            expected += reached
            seconds = self._step.seconds(num_tokens + length * num_sequences) + length * drafting
            if expected / seconds > best_speed:
                best, best_speed = length, expected / seconds
        return best
