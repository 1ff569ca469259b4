"""The requests of a soak: some hundreds of every kind, drawn from a seed, which come again and again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mindspore_paged.engine.requests.outputs import CompletionOutput
from mindspore_paged.sampling.sampling_params import SamplingParams

NUM_PREFIXES = 6
"""Beginnings that prompts share."""

NUM_CLASSES = 3


@dataclass(frozen=True)
class Kind:
    """A request that a soak makes many times; the same each time but for its priority.

    is_repeatable: whether equal runs have equal answers; if not, only its length can be checked.
    """

    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    request_class: str | None

    @property
    def is_repeatable(self) -> bool:
        """Whether nothing is drawn, or all draws come from the request's own seed."""
        return self.params.greedy or self.params.seed is not None


def draw_kinds(count: int, corpus: Sequence[int], longest: int, seed: int) -> list[Kind]:
    """`count` kinds of requests whose prompts are pieces of `corpus`, token ids.

    longest: tokens of a sequence at most, prompt and answer.
    """
    random = np.random.default_rng(seed)
    corpus = np.asarray(corpus)
    prefixes = [_piece(random, corpus, random.integers(longest // 8, longest // 2)) for _ in range(NUM_PREFIXES)]
    return [_draw_kind(random, corpus, prefixes, longest) for _ in range(count)]


def facts_of(completions: Sequence[CompletionOutput]) -> list[dict[str, Any]]:
    """What must come out alike of each completion, as JSON has it: tokens, text, why it ended, log-probabilities."""
    return [
        {
            "token_ids": list(completion.token_ids),
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "logprobs": [
                [token.logprob, [list(pair) for pair in token.top_logprobs]] for token in completion.logprobs or ()
            ],
        }
        for completion in completions
    ]


def _draw_kind(random, corpus, prefixes, longest: int) -> Kind:
    prefix = prefixes[random.integers(len(prefixes))] if random.random() < 0.7 else ()
    prompt = (*prefix, *_piece(random, corpus, random.integers(1, longest // 4)))
    if random.random() < 0.2:
        prompt = prompt[: longest // 6] * 2  # what repeats itself is guessed right
    options: dict[str, Any] = {"max_tokens": int(random.integers(1, longest // 4))}
    if random.random() < 0.5:
        options |= {"temperature": float(random.uniform(0.2, 1.5)), "seed": int(random.integers(2**31))}
        options |= _one_of(random, {}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"top_k": 20, "top_p": 0.9})
        if random.random() < 0.1:
            options["seed"] = None
    penalties = {"presence_penalty": 0.5, "frequency_penalty": 0.3}, {"repetition_penalty": 1.3}
    options |= _one_of(random, {}, {}, *penalties)
    options |= _one_of(random, {}, {}, {}, {"n": 2}, {"n": 3})
    options |= _one_of(random, {}, {}, {}, {"logprobs": 0}, {"logprobs": 3})
    options |= _one_of(random, {}, {"ignore_eos": True}, {"stop_token_ids": (int(random.choice(corpus)),)})
    if random.random() < 0.2:
        options["stop"] = ("e", "the ", " a")[: random.integers(1, 4)]
    request_class = _one_of(random, None, *(f"class {number}" for number in range(NUM_CLASSES)))
    return Kind(tuple(map(int, prompt)), SamplingParams(**options), request_class)


def _piece(random, corpus: np.ndarray, length: int) -> tuple[int, ...]:
    start = random.integers(len(corpus) - length)
    return tuple(corpus[start : start + length].tolist())


def _one_of(random, *choices):
    return choices[random.integers(len(choices))]
