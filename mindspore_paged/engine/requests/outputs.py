"""What the engine gives back: pieces of text while it runs, whole answers when it is done."""

from dataclasses import dataclass, field, replace

import numpy as np

from mindspore_paged.engine.requests.sequence import Request
from mindspore_paged.sampling.sampler import SampledToken


@dataclass(frozen=True)
class SequenceUpdate:
    """What one step added to one sequence.

    text is safe to show: no half characters, nothing of a stop string; it may be empty while tokens arrive.
    finish_reason: None while it goes on, then `stop`, `length`, `abort` or `error`, and for the last `error` says why.
    logprobs: one entry for each of token_ids, if they were asked for.
    prompt_logprobs: those of the prompt, if they were asked for, with the first tokens of the first text.
    """

    request_id: str
    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None
    error: str | None = None
    logprobs: list[SampledToken] | None = None
    prompt_logprobs: list[SampledToken | None] | None = None


@dataclass(frozen=True)
class CompletionOutput:
    """One of a request's n texts; logprobs one entry a token, if they were asked for.

    cumulative_logprob: of a beam search's answers the sum of their tokens' log-probabilities.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str
    logprobs: list[SampledToken] | None = None
    cumulative_logprob: float | None = None


@dataclass(frozen=True)
class RequestOutput:
    """A finished request; `error` says why if it ended by an error of its own.

    num_cached_tokens: how many of the prompt's tokens were found in the prefix cache when it first ran.
    prompt_logprobs: an entry for each of prompt_token_ids, None for the first, if they were asked for.
    embedding: float32 [hidden_size] of length 1, where the request asked for one, and then the one output has no text.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    error: str | None = None
    num_cached_tokens: int = field(default=0, compare=False)  # an answer is the same, whatever was in the cache
    embedding: np.ndarray | None = None
    prompt_logprobs: list[SampledToken | None] | None = None


@dataclass(frozen=True)
class StepOutput:
    """What one step brought: pieces of text and tokens, and the requests that it finished."""

    updates: list[SequenceUpdate] = field(default_factory=list)
    finished: list[RequestOutput] = field(default_factory=list)


def request_output(request: Request) -> RequestOutput:
    """The answer that a finished request gives."""
    completions = request.answer or (_beams(request) if request.beams is not None else _texts(request))
    return RequestOutput(
        request_id=request.request_id,
        prompt=request.prompt,
        prompt_token_ids=list(request.prompt_token_ids),
        outputs=completions,
        error=request.error,
        num_cached_tokens=request.num_cached_tokens,
        embedding=request.embedding,
        prompt_logprobs=_prompt_logprobs(request),
    )


def whole_answer(request_id: str, completions: list[CompletionOutput]) -> list[SequenceUpdate]:
    """An answer that comes at once, as updates."""
    return [
        SequenceUpdate(request_id, one.index, one.text, one.token_ids, one.finish_reason, logprobs=one.logprobs)
        for one in completions
    ]


def _texts(request: Request) -> list[CompletionOutput]:
    return [
        CompletionOutput(
            index=sequence.index,
            text=sequence.detokenizer.text,
            token_ids=sequence.output_token_ids,
            finish_reason=sequence.finish_reason,
            logprobs=None if request.params.logprobs is None else sequence.logprobs,
        )
        for sequence in request.sequences
    ]


def _beams(request: Request) -> list[CompletionOutput]:
    """The best beams; of a search that was ended early those that go on say why it was."""
    return [
        CompletionOutput(
            index=index,
            text=request.beams.text_of(beam),
            token_ids=beam.token_ids,
            finish_reason=beam.finish_reason or request.sequences[index].finish_reason,
            cumulative_logprob=beam.cumulative_logprob,
        )
        for index, beam in enumerate(request.beams.best(request.params.n))
    ]


def _prompt_logprobs(request: Request) -> list[SampledToken | None] | None:
    """Those of a request that asked for them, if all of the prompt was computed."""
    if request.prompt_logprobs is not None:  # told by another replica
        return request.prompt_logprobs
    own = request.sequences[0].prompt_logprobs
    return own.entries if own is not None and own.is_complete else None


def as_interrupted(output: RequestOutput) -> RequestOutput:
    """The same answer as a run that is interrupted leaves it: what has not ended by itself ends by `abort`."""
    completions = [replace(answer, finish_reason=answer.finish_reason or "abort") for answer in output.outputs]
    return replace(output, outputs=completions)
