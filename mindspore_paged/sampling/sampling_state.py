"""What one sequence carries from token to token so that its sampling depends on nobody else."""

from collections.abc import Sequence
from copy import copy

import numpy as np

from mindspore_paged.sampling.constraint import Constraint
from mindspore_paged.sampling.dry import DryPenalty
from mindspore_paged.sampling.logits_processors import LogitsProcessor
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.sampling.token_rules import TokenRules


class TokenCounts:
    """The distinct tokens a sequence has seen, and how often it generated each; updated a token at a time.

    Holds one entry per distinct token, not per vocabulary entry: a hundred sequences of a 128k vocabulary stay small.
    """

    def __init__(self, prompt_token_ids: Sequence[int]):
        self._tokens = np.unique(np.asarray(prompt_token_ids, dtype=np.int64))
        self._counts = np.zeros_like(self._tokens)
        self._slots = {int(token): slot for slot, token in enumerate(self._tokens)}

    @property
    def tokens(self) -> np.ndarray:
        """Distinct tokens of prompt and output, [S] int64."""
        return self._tokens[: len(self._slots)]

    @property
    def generated(self) -> np.ndarray:
        """How often each of `tokens` was generated, [S] int64; 0 for one that only the prompt holds."""
        return self._counts[: len(self._slots)]

    def add(self, token: int) -> None:
        """Count one generated token."""
        slot = self._slots.setdefault(token, len(self._slots))
        if slot == len(self._tokens):
            self._grow()
        self._tokens[slot] = token
        self._counts[slot] += 1

    def copy(self) -> "TokenCounts":
        """The same counts, to go on from apart."""
        other = copy(self)
        other._tokens, other._counts, other._slots = self._tokens.copy(), self._counts.copy(), self._slots.copy()
        return other

    def _grow(self) -> None:
        room = np.zeros(max(16, len(self._tokens)), dtype=np.int64)
        self._tokens = np.concatenate([self._tokens, room])
        self._counts = np.concatenate([self._counts, room])


class SamplingState:
    """The parameters, random stream and token counts of one sequence; it lives as long as the sequence.

    Preemption must keep the object: the stream goes on where it stopped and no token is counted twice.

    params: what the request asks for.
    prompt_token_ids: tokens of the prompt, for the repetition penalty and processors.
    index: which of the request's `n` sequences this is; each has a random stream of its own.
    generator: Philox (Salmon et al. 2011), one uniform number for each token drawn, or two with XTC.
    counts: None when no penalty is asked for.
    constraint: what the answer is held to, its own; None for nothing.
    rules: which tokens the request forbids; None for none.
    dry: what DRY takes behind the prompt, its own; None for nothing.
    processors: the user's own functions, which see the logits first.
    edits_logits: whether the logits of its row are not taken as they are.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt_token_ids: Sequence[int],
        index: int = 0,
        constraint: Constraint | None = None,
        rules: TokenRules | None = None,
        dry: DryPenalty | None = None,
        processors: Sequence[LogitsProcessor] = (),
    ):
        self.params = params
        self.constraint = constraint
        self.rules = rules
        self.dry = dry
        self.processors = tuple(processors)
        self._prompt = prompt_token_ids if processors else ()
        self._output: list[int] = []  # where rules or processors look at it
        # spawn_key keeps (seed, index) pairs apart where a plain list of both would let large seeds collide.
        seeds = np.random.SeedSequence(params.seed, spawn_key=(index,))
        self.generator = np.random.Generator(np.random.Philox(seeds))
        self.counts = TokenCounts(prompt_token_ids) if _has_penalty(params) else None
        edits = (params.biases, self.counts, dry, rules, constraint)
        self.edits_logits = bool(processors) or any(edit is not None for edit in edits)

    @property
    def forbids_more(self) -> bool:
        """Whether even the one token that its constraint allows may be forbidden."""
        return self.rules is not None or bool(self.processors)

    def observe(self, token: int) -> None:
        """Take note of a token that was appended to the sequence; call once for each, after sampling it."""
        if self.counts is not None:
            self.counts.add(token)
        if self.dry is not None:
            self.dry.observe(token)
        if self.constraint is not None:
            self.constraint.observe(token)
        if self.forbids_more:
            self._output.append(token)

    def edit(self, scores: np.ndarray) -> None:
        """Let processors change them, add biases, take penalties, DRY's last, and forbid tokens: vLLM's order.

        scores: [vocab_size] float32.

        Raises StepError where nothing is left that may come, and where a processor fails.
        """
        for processor in self.processors:
            processor.apply(self._prompt, self._output, scores)
        if self.params.biases is not None:
            tokens, values = self.params.biases
            scores[tokens] += values
        if self.counts is not None:
            _penalise(scores, self.counts, self.params)
        if self.dry is not None:
            self.dry.penalise(scores)
        if self.rules is not None:
            self.rules.forbid(scores, self._output)
        if self.constraint is not None:
            self.constraint.forbid(scores)

    def ahead(self) -> "SamplingState":
        """A copy to guess ahead with: what is drawn from it and counted in it leaves this one as it is.

        Its next draws are those that this one will make.
        """
        other = copy(self)
        if not self.params.greedy:  # greedy rows draw nothing
            stream = np.random.Philox(key=0)
            stream.state = self.generator.bit_generator.state
            other.generator = np.random.Generator(stream)
        other.counts = None if self.counts is None else self.counts.copy()
        other.dry = None if self.dry is None else self.dry.copy()
        other.constraint = None if self.constraint is None else self.constraint.copy()
        other._output = self._output.copy()
        return other

    def pass_over_draw(self) -> None:
        """Leave out the draw of a token that need not be sampled, so that those behind it stay what they are."""
        if not self.params.greedy:
            self.generator.random(1 if self.params.xtc_probability == 0 else 2)


def _penalise(scores: np.ndarray, counts: TokenCounts, params: SamplingParams) -> None:
    tokens, generated = counts.tokens, counts.generated
    seen = scores[tokens].astype(np.float64)
    penalty = params.repetition_penalty
    seen = np.where(seen > 0, seen / penalty, seen * penalty)
    seen -= params.frequency_penalty * generated + params.presence_penalty * (generated > 0)
    scores[tokens] = seen


def _has_penalty(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
