"""A request and its sequences: tokens known, tokens computed, and the row of block_table that holds them."""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mindspore_paged.cache.block_pool import extend_block_hashes
from mindspore_paged.engine.requests.detokenizer import IncrementalDetokenizer
from mindspore_paged.engine.requests.lora_adapters import LoadedAdapter
from mindspore_paged.engine.requests.pooling import PooledStates, Pooling
from mindspore_paged.engine.requests.prompt_logprobs import PromptLogprobs
from mindspore_paged.sampling.beam_search_params import BeamSearchParams
from mindspore_paged.sampling.constraint import Constraint
from mindspore_paged.sampling.dry import DryPenalty
from mindspore_paged.sampling.logits_processors import LogitsProcessor
from mindspore_paged.sampling.sampler import SampledToken, SamplingState
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.sampling.token_rules import TokenRules

if TYPE_CHECKING:
    from mindspore_paged.engine.requests.beam_group import BeamGroup


class Sequence:
    """One text under way. It holds pages exactly while it has a row.

    Tokens 0 .. num_computed_tokens - 1 are in the cache; the rest of token_ids must still go through the model. In
    decode one token is left, the one sampled last; after a preemption all of them are.
    """

    def __init__(self, request: "Request", index: int, detokenizer: IncrementalDetokenizer):
        self.request = request
        self.index = index
        self.token_ids = list(request.prompt_token_ids)
        self.num_computed_tokens = 0
        self.row: int | None = None
        self.block_hashes: list[bytes] = []
        self.num_registered_blocks = 0
        self.num_passed_over = 0
        self.quarantined = False
        self.is_held = False  # its logits are taken, and it waits for the other beams of its request
        self.is_long_prefill = False
        self.finish_reason: str | None = None
        constraint = request.constraint.copy() if request.constraint is not None else None
        dry = request.dry.copy() if request.dry is not None else None
        self.sampling_state = SamplingState(
            request.params, request.prompt_token_ids, index, constraint, request.rules, dry, request.processors
        )
        self.detokenizer = detokenizer
        self.logprobs: list[SampledToken] = []
        self.pooled = PooledStates(request.pooling) if request.pooling is not None else None
        count = request.params.prompt_logprobs if index == 0 else None
        self.prompt_logprobs = PromptLogprobs(list(request.prompt_token_ids), count) if count is not None else None

    @property
    def num_tokens(self) -> int:
        """Tokens known: the prompt and what was generated."""
        return len(self.token_ids)

    @property
    def num_uncomputed_tokens(self) -> int:
        """Tokens that the model has not seen since the sequence last got its row."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def output_token_ids(self) -> list[int]:
        """What was generated so far."""
        return self.token_ids[len(self.request.prompt_token_ids) :]

    @property
    def num_output_tokens(self) -> int:
        """How many tokens were generated so far."""
        return len(self.token_ids) - len(self.request.prompt_token_ids)

    @property
    def order(self) -> tuple[float, int, int]:
        """Place in the order of service: the smallest is served first and preempted last. Fixed once it is queued."""
        return (*self.request.rank, self.index)

    @property
    def takes_cached(self) -> bool:
        """Whether pages of tokens that another sequence computed are as good as its own."""
        return not self.wants_all_logits and (self.pooled is None or not self.pooled.needs_all)

    @property
    def wants_all_logits(self) -> bool:
        """Whether logits are wanted behind every token, as the prompt's own log-probabilities are not all known."""
        return self.prompt_logprobs is not None and not self.prompt_logprobs.is_complete

    @property
    def is_finished(self) -> bool:
        """Whether it ended, for whatever reason."""
        return self.finish_reason is not None

    def branch_from(self, parent: "Sequence") -> None:
        """Become another beam behind all of the parent's tokens; it has no pages yet."""
        self.token_ids, self.block_hashes = list(parent.token_ids), list(parent.block_hashes)

    def extend_hashes(self, block_size: int) -> list[bytes]:
        """Names of all full blocks of its tokens, for the prefix index."""
        extend_block_hashes(self.block_hashes, self.token_ids, block_size, *self.request.scope)
        return self.block_hashes


@dataclass
class Request:
    """What a user asked for: one prompt, `params.n` answers. Times in seconds of time.perf_counter().

    sequences: one for each answer; of a beam search one for each beam, of which `params.n` are told. beams: how these
    go on together; None where each goes on by itself.

    pooling: it asks for an embedding of the prompt, of this kind, and no text; `embedding` is there when it has ended.

    priority: the higher, the more it matters to policies that ask. request_class: requests of one class are expected
    to have answers of like length; None lets the prompt's length tell. rank: its place once it is queued.
    cache_salt: its pages are found by requests with an equal one alone, or without one if it has none.
    adapter: of low rank, which its tokens are computed with; None: the model alone computes them.
    constraint: what its texts are held to, at their beginning; each has a copy of its own.
    rules: which tokens it forbids. dry: what DRY takes behind its prompt; each text has a copy of its own.
    processors: the user's own functions, which change logits.
    stop_token_ids: the tokens that end its texts, besides the model's own; stop strings that are such tokens included.
    first_scheduled_time, first_token_time: when it first got a row, and its first token; None until then.
    num_cached_tokens: how many of the prompt's tokens were in the prefix cache when it first got a row.
    prompt_logprobs: an entry for each of the prompt's tokens, None for the first, once all are known.
    """

    request_id: str
    arrival: int
    prompt: str | None
    prompt_token_ids: SequenceOf[int]
    params: SamplingParams
    arrival_time: float
    stop_token_ids: frozenset[int] = frozenset()
    priority: int = 0
    request_class: str | None = None
    cache_salt: str | None = None
    adapter: LoadedAdapter | None = None
    constraint: Constraint | None = None
    rules: TokenRules | None = None
    dry: DryPenalty | None = None
    processors: tuple[LogitsProcessor, ...] = ()
    pooling: Pooling | None = None
    beams: "BeamGroup | None" = None
    rank: tuple[float, int] | None = None
    sequences: list[Sequence] = field(default_factory=list)
    first_scheduled_time: float | None = None
    first_token_time: float | None = None
    num_cached_tokens: int = 0
    error: str | None = None
    embedding: np.ndarray | None = None
    prompt_logprobs: list[SampledToken | None] | None = None
    answer: list | None = None  # the completions, where they are not what its sequences hold

    @property
    def scope(self) -> tuple[str | None, bytes | None]:
        """Who may be given what was computed for it: requests with an equal salt, by the same adapter."""
        return self.cache_salt, None if self.adapter is None else self.adapter.digest

    @property
    def is_cacheable(self) -> bool:
        """Whether its texts are the whole answer, so that another request's may stand for them.

        What a user's own functions do to them is not known to be the same again.
        """
        is_whole = self.pooling is None and self.params.prompt_logprobs is None and self.beams is None
        return is_whole and not self.processors

    @property
    def asked(self) -> SamplingParams | BeamSearchParams:
        """What it was made with."""
        return self.params if self.beams is None else self.beams.search.params

    @property
    def is_finished(self) -> bool:
        """Whether every sequence ended."""
        return all(sequence.is_finished for sequence in self.sequences)
