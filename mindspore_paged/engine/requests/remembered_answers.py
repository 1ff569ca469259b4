"""Requests that need not be computed, because their answers are remembered."""

from mindspore_paged.engine.requests.outputs import CompletionOutput
from mindspore_paged.engine.requests.response_cache import ResponseCache
from mindspore_paged.engine.requests.sequence import Request


class RememberedAnswers:
    """What the response cache gave, until the next step hands it over; all methods mutate.

    cache: None remembers nothing.
    """

    def __init__(self, cache: ResponseCache | None):
        self._cache = cache
        self._found: list[tuple[Request, list[CompletionOutput]]] = []

    def find(self, request: Request) -> bool:
        """Look for a request's answer; returns whether it is remembered."""
        if self._cache is None or not request.is_cacheable:
            return False
        answer = self._cache.get(request.prompt_token_ids, request.params, request.scope)
        if answer is None:
            return False
        self._found.append((request, answer))
        return True

    def take(self) -> list[Request]:
        """Those whose answers were found since the last call, ended by them; not who has ended meanwhile."""
        found, self._found = [each for each in self._found if not each[0].is_finished], []
        for request, answer in found:
            request.answer = answer
            for sequence, completion in zip(request.sequences, answer, strict=True):
                sequence.finish_reason = completion.finish_reason
        return [request for request, _ in found]

    def keep(self, request: Request, completions: list[CompletionOutput]) -> None:
        """Remember the answer of a request that has ended."""
        if self._cache is not None and request.is_cacheable:
            self._cache.put(request.prompt_token_ids, request.params, completions, request.scope)
