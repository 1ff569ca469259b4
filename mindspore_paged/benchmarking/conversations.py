"""What is asked of a server: conversations of random words that arrive over time."""

from dataclasses import dataclass

import numpy as np

from mindspore_paged.benchmarking.lengths import Lengths
from mindspore_paged.benchmarking.serving import draw_schedule

_WORDS = """
time year people way day man thing woman life child world school state family student group country problem hand part
place case week company system program question work government number night point home water room mother area money
story fact month lot right study book eye job word business issue side kind head house service friend father power
hour game line end member law car city community name president team minute idea body information back parent face
others level office door health person art war history party result change morning reason research girl guy moment air
teacher force education good new first last long great little own other old big high different small large next early
young important few public bad same able go know take see come think look want give use find tell ask seem feel try
leave call need become put mean keep let begin help talk turn start show hear play run move like live believe hold
bring happen write provide sit stand lose pay meet include continue set learn
"""
WORDS = tuple(_WORDS.split())
"""Common words of English: nearly every vocabulary has each of them, with the space before it, as one token."""


@dataclass(frozen=True)
class Turn:
    """What a user says, and how many tokens the answer to it has."""

    text: str
    num_output: int


@dataclass(frozen=True)
class Conversation:
    """at: seconds after the start. system: a text before all turns, or None."""

    at: float
    system: str | None
    turns: tuple[Turn, ...]


def draw_conversations(
    rate: float,
    count: int,
    prompts: Lengths,
    outputs: Lengths,
    seed: int,
    run: int = 0,
    *,
    num_turns: int = 1,
    shared_prefix_len: int = 0,
) -> list[Conversation]:
    """Conversations of a Poisson process of `rate` a second (infinite: all at once), as `draw_arrivals` has it.

    Lengths are in words. Words depend on `run` too, so that no run finds those of an earlier one in a prefix cache; the
    `shared_prefix_len` words of the system text are the same for all conversations of a run.
    """
    times, num_prompts, num_outputs = draw_schedule(rate, count, prompts, outputs, seed, num_turns)
    rng = np.random.default_rng((seed, run))
    system = _text(rng, shared_prefix_len) if shared_prefix_len else None
    return [
        Conversation(
            float(at),
            system,
            tuple(Turn(_text(rng, words), int(tokens)) for words, tokens in zip(*lengths, strict=True)),
        )
        for at, *lengths in zip(times, num_prompts, num_outputs, strict=True)
    ]


def _text(rng: np.random.Generator, num_words: int) -> str:
    return " ".join(WORDS[index] for index in rng.integers(len(WORDS), size=num_words))
