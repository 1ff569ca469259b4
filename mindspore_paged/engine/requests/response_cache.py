"""Answers kept for requests that would be answered the same way again."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import replace

from mindspore_paged.engine.requests.outputs import CompletionOutput
from mindspore_paged.errors import ConfigError, IntegrityError
from mindspore_paged.sampling.sampling_params import SamplingParams

COMPLETE = ("stop", "length")
"""Finish reasons of an answer that is whole; the others come from the user or from a fault."""


def is_deterministic(params: SamplingParams) -> bool:
    """Whether equal requests have equal answers: nothing is drawn, or all draws come from the request's own seed."""
    return params.greedy or params.seed is not None


class ResponseCache:
    """The answers to the `capacity` requests used last, by prompt tokens, parameters and scope; `get` and `put` mutate.

    scope: who may be given an answer; see `Request.scope`.
    Nothing but an identical request is a hit. It belongs to one engine: another model would answer differently.
    Answers are copied on the way in and out, so that what a user does to one reaches nobody else.
    """

    def __init__(self, capacity: int):
        """Start empty; raises ConfigError below one entry."""
        if capacity < 1:
            raise ConfigError(f"a response cache of {capacity} entries holds nothing; it needs at least 1")
        self._capacity = capacity
        self._answers: OrderedDict[tuple, list[CompletionOutput]] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        return len(self._answers)

    def get(
        self, prompt_token_ids: Sequence[int], params: SamplingParams, scope: Hashable = None
    ) -> list[CompletionOutput] | None:
        """The `params.n` completions that the same request got before, or None."""
        key = _key(prompt_token_ids, params, scope)
        answer = self._answers.get(key)
        if answer is None:
            return None
        self._answers.move_to_end(key)
        return _copy(answer)

    def put(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        completions: Sequence[CompletionOutput],
        scope: Hashable = None,
    ) -> None:
        """Keep the answer to a request, unless it is incomplete or would be another next time.

        Raises IntegrityError if there are not `params.n` completions.
        """
        if len(completions) != params.n:
            raise IntegrityError(f"{len(completions)} completions answer a request for {params.n}")
        if not is_deterministic(params) or any(c.finish_reason not in COMPLETE for c in completions):
            return
        key = _key(prompt_token_ids, params, scope)
        self._answers[key] = _copy(completions)
        self._answers.move_to_end(key)
        if len(self._answers) > self._capacity:
            self._answers.popitem(last=False)


def _key(prompt_token_ids: Sequence[int], params: SamplingParams, scope: Hashable) -> tuple:
    return tuple(prompt_token_ids), params, scope


def _copy(completions: Sequence[CompletionOutput]) -> list[CompletionOutput]:
    return [
        replace(
            completion,
            token_ids=list(completion.token_ids),
            logprobs=None if completion.logprobs is None else list(completion.logprobs),
        )
        for completion in completions
    ]
