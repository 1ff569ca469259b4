"""Several tokens a step: drafts are computed behind a sequence's last token, and those that prove right are kept.

Whoever made a draft, it is accepted exactly where the token sampled at its place equals it: speculative sampling
(Leviathan et al. 2023) whose draft distribution is a point. Every token is then sampled from the logits of its own
context, by its own draw, in order, as if no draft had been there: greedy or seeded, the output is the same token for
token, and so is its distribution. A draft model that draws by the same uniform numbers is right as often as its
distribution and the model's give one number to the same token.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from mindspore_paged.cache.cache_manager import CacheManager
from mindspore_paged.engine.requests.sequence import Sequence
from mindspore_paged.engine.scheduling.draft_length import DraftLength
from mindspore_paged.engine.scheduling.length_predictor import output_limit
from mindspore_paged.engine.scheduling.step_plan import Chunk, StepPlan
from mindspore_paged.errors import StepError
from mindspore_paged.sampling.sampler import SampledToken, Sampler
from mindspore_paged.sampling.sampling_state import SamplingState

UNKNOWN = -1
"""A draft that is still to be guessed, before the step runs."""


class Proposer(Protocol):
    """Guesses how a sequence goes on, from what is known of it; NgramProposer is the real one."""

    def propose(self, sequence: Sequence, count: int) -> list[int]:
        """Up to `count` tokens, all of the model's vocabulary."""


class Speculation:
    """Adds drafts to steps that have room for them; `add_drafts` mutates plan and cache, `observe` counts.

    proposer: whose drafts are added; None adds UNKNOWN ones, for a draft model to fill in before the step.
    num_speculative_tokens: drafts of a sequence in one step, at most. draft_length: chooses how many, up to that; None
    always takes as many as there is room for.
    """

    def __init__(self, proposer: Proposer | None, num_speculative_tokens: int, draft_length: DraftLength | None = None):
        self.proposer = proposer
        self.num_speculative_tokens = num_speculative_tokens
        self.draft_length = draft_length
        self.num_drafts_per_pos = [0] * num_speculative_tokens
        self.num_accepted_per_pos = [0] * num_speculative_tokens

    def add_drafts(
        self, plan: StepPlan, cache: CacheManager, max_num_tokens: int, max_model_len: int, max_num_logits: int
    ) -> None:
        """Let sequences that decode guess ahead, the best ranked first, in a plan to which nothing else is added.

        They take what is left: of the step's `max_num_tokens` and `max_num_logits`, and of blocks that are free. Nobody
        is preempted, no cached prefix is evicted, and the blocks go back when the step is done, so they keep nobody out
        either.
        """
        places = [place for place, chunk in enumerate(plan.chunks) if _decodes(chunk)]
        plan.most_drafts = self._most_of_step(plan, len(places))
        logits_left = max_num_logits - plan.num_logits
        for place in places if plan.most_drafts else ():
            chunk = plan.chunks[place]
            most = min(plan.most_drafts, _most_drafts(chunk, cache, max_model_len))
            drafts = self._drafts(chunk.sequence, min(most, max_num_tokens - plan.num_tokens, logits_left))
            if drafts and cache.grow(chunk.sequence.row, chunk.end, chunk.end + len(drafts)):
                plan.add_drafts(place, drafts)
                logits_left -= len(drafts)

    def observe(self, num_drafts: int, num_accepted: int, num_tokens: int) -> None:
        """Take note of what became of one sequence's drafts, in a step that brought it `num_tokens` sampled tokens."""
        for place in range(num_drafts):
            self.num_drafts_per_pos[place] += 1
            self.num_accepted_per_pos[place] += place < num_accepted
        if self.draft_length is not None:
            self.draft_length.observe_drafts(min(num_drafts, num_tokens), num_accepted)

    def observe_step(self, num_tokens: int, seconds: float) -> None:
        """Take note of what the model itself took for a step."""
        if self.draft_length is not None:
            self.draft_length.observe_step(num_tokens, seconds)

    def _most_of_step(self, plan: StepPlan, num_sequences: int) -> int:
        """Drafts of one sequence in this step.

        A draft model follows prompts where they will have drafts when they are answered.
        """
        if plan.pools or not plan.chunks or (num_sequences == 0 and self.proposer is not None):
            return 0
        if self.draft_length is None:
            return self.num_speculative_tokens
        return self.draft_length.choose(num_sequences or len(plan.chunks), plan.num_tokens)

    def _drafts(self, sequence: Sequence, count: int) -> list[int]:
        if count <= 0:
            return []
        if self.proposer is None:
            return [UNKNOWN] * count
        drafts = self.proposer.propose(sequence, count)
        constraint = sequence.sampling_state.constraint
        if constraint is not None:  # what is forbidden is never sampled
            drafts = drafts[: constraint.num_allowed(drafts)]
        return drafts


def _decodes(chunk: Chunk) -> bool:
    """Whether it is no part of a prompt, nor of a sequence that starts over, nor a beam.

    Beams go on by what the others are worth.
    """
    sequence = chunk.sequence
    return chunk.num_tokens == 1 and chunk.is_last and sequence.num_output_tokens > 0 and sequence.request.beams is None


def _most_drafts(chunk: Chunk, cache: CacheManager, max_model_len: int) -> int:
    sequence = chunk.sequence
    # The step gives one token more than there are accepted drafts: that one must still be wanted.
    still_wanted = output_limit(sequence.request, max_model_len) - sequence.num_output_tokens - 1
    return min(still_wanted, cache.num_tokens_without_eviction(sequence.row) - chunk.end)


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
