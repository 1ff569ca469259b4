"""DRY's sequence breakers, texts, as tokens: found where the model's tokenizer is known."""

from collections.abc import Iterator
from functools import lru_cache

from mindspore_paged.errors import RequestError
from mindspore_paged.sampling.dry import Breakers, DryPenalty
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.tokenizer import Tokenizer

MAX_KEPT = 8
"""Lists of texts whose tokens are kept: the whole vocabulary is looked through once for each text."""


class DryBreakers:
    """Makes the DRY penalties of requests to one model; several threads may call it. tokenizer: None for none."""

    def __init__(self, tokenizer: Tokenizer | None):
        self._tokenizer = tokenizer
        self._vocabulary: _Vocabulary | None = None
        self._kept = lru_cache(MAX_KEPT)(self._breakers)

    def penalty(self, params: SamplingParams, prompt_token_ids: list[int]) -> DryPenalty | None:
        """What DRY takes behind a prompt, None where nothing is asked for; raises RequestError without a tokenizer."""
        if params.dry_multiplier == 0 or params.dry_penalty_last_n == 0:
            return None
        if params.dry_sequence_breakers and self._tokenizer is None:
            raise RequestError("dry_sequence_breakers needs a tokenizer, and this model has none; give an empty list")
        return DryPenalty(params, prompt_token_ids, self._kept(params.dry_sequence_breakers))

    def sequences(self, text: str) -> Iterator[tuple[int, ...]]:
        """All tokens that hold the text; and those that end with its beginning, each with the tokens of the rest.

        So llama.cpp finds them (`get_overlapping_token_sequences`); and the text's own tokens, which matter where it
        has characters that no token holds whole.
        """
        if self._vocabulary is None:  # two threads may both make it, of which the last is kept
            self._vocabulary = _Vocabulary(self._tokenizer)
        vocabulary = self._vocabulary
        if own := self._encoded(text):
            yield own
        for token_id in vocabulary.holding(text):
            yield (token_id,)
        for length in range(1, len(text)):
            heads = [one for one in vocabulary.ending(text[:length]) if text not in vocabulary.texts[one]]
            rest = self._encoded(text[length:]) if heads else ()
            for head in heads:
                yield (head, *rest)

    def _breakers(self, texts: tuple[str, ...]) -> Breakers:
        return Breakers(sequence for text in texts for sequence in self.sequences(text))

    def _encoded(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))


class _Vocabulary:
    """The texts of all tokens, found by their last one and two characters."""

    def __init__(self, tokenizer: Tokenizer):
        self.texts = _token_texts(tokenizer)
        self._by_end: dict[str, list[int]] = {}
        for token_id, said in enumerate(self.texts):
            for end in {said[-1:], said[-2:]}:
                self._by_end.setdefault(end, []).append(token_id)

    def holding(self, text: str) -> list[int]:
        return [token_id for token_id, said in enumerate(self.texts) if text in said]

    def ending(self, text: str) -> list[int]:
        candidates, texts = self._by_end.get(text[-2:], ()), self.texts
        return candidates if len(text) <= 2 else [one for one in candidates if texts[one].endswith(text)]


def _token_texts(tokenizer: Tokenizer) -> list[str]:
    """The text of each token behind another one: alone, some decoders strip the space that it begins with."""
    backend, ids = tokenizer.backend, range(tokenizer.vocab_size)
    alone = backend.decode_batch([[token_id] for token_id in ids], skip_special_tokens=False)
    twice = backend.decode_batch([[token_id, token_id] for token_id in ids], skip_special_tokens=False)
    return [both[len(one) :] if both.startswith(one) else one for one, both in zip(alone, twice, strict=True)]
