"""Log-probabilities of a prompt's own tokens, told chunk by chunk: no logits are kept behind their step."""

import numpy as np

from mindspore_paged.errors import StepError
from mindspore_paged.sampling.sampler import SampledToken, with_logprobs


class PromptLogprobs:
    """What is known of one prompt's tokens so far; `add` mutates.

    token_ids: of the prompt. count: how many of the most likely tokens are told at each place.
    """

    def __init__(self, token_ids: list[int], count: int):
        self._token_ids = token_ids
        self._count = count
        self.entries: list[SampledToken | None] = [None]  # nothing stands before the first token

    @property
    def is_complete(self) -> bool:
        """Whether every token's is known."""
        return len(self.entries) == len(self._token_ids)

    def add(self, start: int, logits: np.ndarray) -> None:
        """Take the logits [T, vocab_size] behind tokens start, start + 1, …; those that are known are left alone.

        Raises StepError for logits that are not finite.
        """
        for place, row in enumerate(logits, start + 1):
            if place != len(self.entries) or self.is_complete:
                continue
            peak = row.max()
            if not np.isfinite(peak):
                raise StepError(f"the largest logit is {peak}; it must be finite")
            self.entries.append(with_logprobs(row, self._token_ids[place], self._count))
