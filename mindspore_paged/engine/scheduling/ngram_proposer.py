"""Drafts without a second model: what followed the latest place where the text ended as it does now."""

from collections.abc import Sequence as SequenceOf
from weakref import WeakKeyDictionary

from mindspore_paged.engine.requests.sequence import Sequence


class NgramIndex:
    """The latest place of each n-gram of one text, for n from `shortest` to `longest`; `propose` mutates.

    The text may only grow. A token is looked at once, when it is no longer the last one, so that a step's work does not
    grow with the text; each token takes an entry of each n.
    """

    def __init__(self, shortest: int, longest: int):
        self._ends: dict[int, dict[tuple[int, ...], int]] = {n: {} for n in range(longest, shortest - 1, -1)}
        self._num_indexed = 0  # the n-grams that end here or before are known, and none that ends later

    def propose(self, token_ids: SequenceOf[int], count: int) -> list[int]:
        """`count` tokens that may come next, or none: those behind the latest earlier place of the longest n-gram at
        the text's end that has one. Where they run into the end, they go on with themselves, as in a text that loops.
        """
        self._index_up_to(len(token_ids) - 1, token_ids)
        for n, ends in self._ends.items():
            end = ends.get(tuple(token_ids[-n:]))
            if end is not None:
                return _continuation(token_ids, end, count)
        return []

    def _index_up_to(self, last_end: int, token_ids: SequenceOf[int]) -> None:
        for end in range(self._num_indexed + 1, last_end + 1):
            for n, ends in self._ends.items():
                if n <= end:
                    ends[tuple(token_ids[end - n : end])] = end
        self._num_indexed = max(self._num_indexed, last_end)


class NgramProposer:
    """Prompt lookup decoding (Saxena 2023): drafts from each sequence's own prompt and output; `propose` mutates.

    prompt_lookup_min, prompt_lookup_max: lengths of the n-grams that are looked up, the longest first.
    """

    def __init__(self, prompt_lookup_min: int, prompt_lookup_max: int):
        self.prompt_lookup_min = prompt_lookup_min
        self.prompt_lookup_max = prompt_lookup_max
        self._indices: WeakKeyDictionary[Sequence, NgramIndex] = WeakKeyDictionary()

    def propose(self, sequence: Sequence, count: int) -> list[int]:
        """Up to `count` tokens that may come next."""
        index = self._indices.get(sequence)
        if index is None:
            index = self._indices[sequence] = NgramIndex(self.prompt_lookup_min, self.prompt_lookup_max)
        return index.propose(sequence.token_ids, count)


def _continuation(token_ids: SequenceOf[int], start: int, count: int) -> list[int]:
    drafts = list(token_ids[start : start + count])
    for place in range(len(drafts), count):
        drafts.append(drafts[start + place - len(token_ids)])
    return drafts
