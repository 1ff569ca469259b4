"""DRY's sequence breakers, texts, as tokens: found where the model's tokenizer is known."""

from collections.abc import Iterator
from functools import lru_cache

from mindspore_paged.errors import RequestError
from mindspore_paged.sampling.dry import DryPenalty
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.tokenizer import Tokenizer

MAX_KEPT = 64
"""Texts whose tokens are kept: the whole vocabulary is looked through once for each."""


class DryBreakers:
    """Makes the DRY penalties of requests to one model; several threads may call it. tokenizer: None for none."""

    def __init__(self, tokenizer: Tokenizer | None):
        self._tokenizer = tokenizer
        self._texts: list[str] | None = None
        self._kept = lru_cache(MAX_KEPT)(lambda text: tuple(dict.fromkeys(self._sequences(text))))

    def penalty(self, params: SamplingParams, prompt_token_ids: list[int]) -> DryPenalty | None:
        """What DRY takes behind a prompt, None where nothing is asked for; raises RequestError without a tokenizer."""
        if params.dry_multiplier == 0 or params.dry_penalty_last_n == 0:
            return None
        if params.dry_sequence_breakers and self._tokenizer is None:
            raise RequestError("dry_sequence_breakers needs a tokenizer, and this model has none; give an empty list")
        breakers = (breaker for text in params.dry_sequence_breakers for breaker in self.sequences(text))
        return DryPenalty(params, prompt_token_ids, tuple(breakers))

    def sequences(self, text: str) -> tuple[tuple[int, ...], ...]:
        """All tokens that hold the text; and those that end with its beginning, each with the tokens of the rest.

        So llama.cpp finds them (`get_overlapping_token_sequences`); and the text's own tokens, which matter where it
        has characters that no token holds whole.
        """
        return self._kept(text)

    def _sequences(self, text: str) -> Iterator[tuple[int, ...]]:
        if self._texts is None:  # two threads may both find them, of which the last are kept
            self._texts = _token_texts(self._tokenizer)
        if own := self._encoded(text):
            yield own
        rests = {length: self._encoded(text[length:]) for length in range(1, len(text))}
        for token_id, said in enumerate(self._texts):
            if text in said:
                yield (token_id,)
                continue
            for length, rest in rests.items():
                if said.endswith(text[:length]):
                    yield (token_id, *rest)

    def _encoded(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))


def _token_texts(tokenizer: Tokenizer) -> list[str]:
    """The text of each token behind another one: alone, some decoders strip the space that it begins with."""
    backend, ids = tokenizer.backend, range(tokenizer.vocab_size)
    alone = backend.decode_batch([[token_id] for token_id in ids], skip_special_tokens=False)
    twice = backend.decode_batch([[token_id, token_id] for token_id in ids], skip_special_tokens=False)
    return [both[len(one) :] if both.startswith(one) else one for one, both in zip(alone, twice, strict=True)]
