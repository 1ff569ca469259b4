"""Several tokens a step: drafts are computed behind a sequence's last token, and those that prove right are kept.

A draft is a guess that costs nothing to make, so it is accepted exactly where the token sampled at its place equals it:
speculative sampling (Leviathan et al. 2023) whose draft distribution is a point. Every token is then sampled from the
logits of its own context, by its own draw, in order, as if no draft had been there: greedy or seeded, the output is the
same token for token, and so is its distribution.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from mindspore_paged.cache.cache_manager import CacheManager
from mindspore_paged.engine.requests.sequence import Sequence
from mindspore_paged.engine.scheduling.length_predictor import output_limit
from mindspore_paged.engine.scheduling.step_plan import Chunk, StepPlan
from mindspore_paged.errors import StepError
from mindspore_paged.sampling.sampler import SampledToken, Sampler
from mindspore_paged.sampling.sampling_state import SamplingState


class Proposer(Protocol):
    """Guesses how a sequence goes on; NgramProposer is the real one."""

    def propose(self, sequence: Sequence, count: int) -> list[int]:
        """Up to `count` tokens, all of the model's vocabulary."""


class Speculation:
    """Adds drafts to steps that have room for them; `add_drafts` mutates plan and cache.

    num_speculative_tokens: drafts of a sequence in one step, at most.
    """

    def __init__(self, proposer: Proposer, num_speculative_tokens: int):
        self.proposer = proposer
        self.num_speculative_tokens = num_speculative_tokens

    def add_drafts(
        self, plan: StepPlan, cache: CacheManager, max_num_tokens: int, max_model_len: int, max_num_logits: int
    ) -> None:
        """Let sequences that decode guess ahead, the best ranked first, in a plan to which nothing else is added.

        They take what is left: of the step's `max_num_tokens` and `max_num_logits`, and of blocks that are free. Nobody
        is preempted, no cached prefix is evicted, and the blocks go back when the step is done, so they keep nobody out
        either.
        """
        logits_left = max_num_logits - plan.num_logits
        for place, chunk in enumerate(plan.chunks):
            room = min(self._most_drafts(chunk, cache, max_model_len), max_num_tokens - plan.num_tokens, logits_left)
            drafts = self.proposer.propose(chunk.sequence, room) if room > 0 else []
            constraint = chunk.sequence.sampling_state.constraint
            if constraint is not None:  # what is forbidden is never sampled
                drafts = drafts[: constraint.num_allowed(drafts)]
            if drafts and cache.grow(chunk.sequence.row, chunk.end, chunk.end + len(drafts)):
                plan.add_drafts(place, drafts)
                logits_left -= len(drafts)

    def _most_drafts(self, chunk: Chunk, cache: CacheManager, max_model_len: int) -> int:
        sequence = chunk.sequence
        if chunk.num_tokens != 1 or not chunk.is_last or sequence.num_output_tokens == 0:
            return 0  # part of a prompt, or a sequence that starts over
        if sequence.request.beams is not None:
            return 0  # which goes on by what the other beams are worth
        # The step gives one token more than there are accepted drafts: that one must still be wanted.
        still_wanted = output_limit(sequence.request, max_model_len) - sequence.num_output_tokens - 1
        return min(
            self.num_speculative_tokens, still_wanted, cache.num_tokens_without_eviction(sequence.row) - chunk.end
        )


def verified_tokens(
    sampler: Sampler,
    first: SampledToken | StepError,
    drafts: tuple[int, ...],
    logits: np.ndarray,
    state: SamplingState,
) -> Iterator[SampledToken | StepError]:
    """The tokens of one sequence in one step: `first`, and one more behind each draft that the token before equals.

    Each is sampled when it is asked for, so the caller counts it (`SamplingState.observe`) before it asks for the next,
    and asks for none behind the sequence's end: no draw is made for a token that does not come to be.

    logits: float32 [at least D, vocab_size], behind each of the D drafts.
    """
    token = first
    yield token
    for place, draft in enumerate(drafts):
        if isinstance(token, StepError) or token.token_id != draft:
            return
        (token,) = sampler.sample(logits[place : place + 1], [state])
        yield token
