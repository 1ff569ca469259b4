"""How much of the coming step long prefills may take, so that short prompts get their turn beside them."""

from collections import deque

from mindspore_paged.errors import ConfigError


class PrefillWindow:
    """Keeps long prefills to a share of the last steps' tokens wherever others want the rest; `record` mutates.

    A prefill is long, from its first chunk to its last, if more than `long_prompt_tokens` had to be computed when its
    sequence got a row: of a prompt that the prefix cache knew, the rest; after a preemption, everything::

        step            1    2    3    4    5 (to come)
        long prefills   256  256  0    0    ?            all of steps 1 and 2, when nobody else came
        window of 4          [................]          share 0.5 of 4 * 256 tokens: 256 are left for step 5

    Nothing deadlocks: a token is allowed at each step, whatever was taken before, and a step's whole budget where
    nobody else wants any. Nothing starves, if a step plans decodes first, then long prefills up to the allowance, then
    short ones: the share, which is at least a block a window, is then a promise as well as a limit. Time O(1) a step.

    step_tokens: tokens of a step, all sequences together. share: above 0 and at most 1. num_steps: of the window, the
    coming one included. Raises ConfigError for a value out of range.
    """

    def __init__(
        self, step_tokens: int, block_size: int, long_prompt_tokens: int, share: float = 0.5, num_steps: int = 4
    ):
        if not 0 < share <= 1:
            raise ConfigError(f"long prefills: share is {share}; it must be above 0 and at most 1")
        if long_prompt_tokens < 1:
            raise ConfigError(f"long prefills: long_prompt_tokens is {long_prompt_tokens}; it must be at least 1")
        if share * num_steps * step_tokens < block_size:
            raise ConfigError(
                f"long prefills: share {share} of a window of {num_steps} steps of {step_tokens} tokens is less than "
                f"a block ({block_size} tokens)"
            )
        self.step_tokens = step_tokens
        self.long_prompt_tokens = long_prompt_tokens
        self.share = share
        self.num_steps = num_steps
        self._taken: deque[int] = deque()
        self._sum_taken = 0

    def is_long(self, num_prefill_tokens: int) -> bool:
        """Whether a prefill of this many tokens is under the limit."""
        return num_prefill_tokens > self.long_prompt_tokens

    def allowance(self, num_tokens_of_others: int) -> int:
        """Tokens that all long prefills together may take in the coming step: 1 .. step_tokens.

        num_tokens_of_others: tokens that everything else would compute in it, were there no limit to a step.
        """
        left_by_others = self.step_tokens - num_tokens_of_others
        left_of_share = int(self.share * self.step_tokens * (len(self._taken) + 1)) - self._sum_taken
        return min(max(left_by_others, left_of_share, 1), self.step_tokens)

    def record(self, long_prefill_tokens: int) -> None:
        """End the step, in which long prefills took this many tokens."""
        self._taken.append(long_prefill_tokens)
        self._sum_taken += long_prefill_tokens
        if len(self._taken) == self.num_steps:
            self._sum_taken -= self._taken.popleft()
