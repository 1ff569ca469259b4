"""Prompt lookup against a search through the whole text at every step."""

import gc
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspore_paged.engine.scheduling.ngram_proposer import NgramIndex, NgramProposer
from tests.engine.scheduler_sim import SchedulerSim


def looked_up(text: list[int], shortest: int, longest: int, count: int) -> list[int]:
    """The definition, word by word."""
    for n in range(longest, shortest - 1, -1):
        for start in range(len(text) - n - 1, -1, -1):  # the latest first; at least one token stands behind it
            if n < len(text) and text[start : start + n] == text[-n:]:
                grown = list(text)
                for _ in range(count):
                    grown.append(grown[start + n + len(grown) - len(text)])
                return grown[len(text) :]
    return []


@given(
    text=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    stops=st.sets(st.integers(1, 60)),
    shortest=st.integers(1, 3),
    more=st.integers(0, 3),
    count=st.integers(1, 8),
)
def test_every_proposal_of_a_growing_text_is_what_a_search_finds(text, stops, shortest, more, count):
    index = NgramIndex(shortest, shortest + more)
    for length in sorted(stop for stop in stops if stop <= len(text)):
        assert index.propose(text[:length], count) == looked_up(text[:length], shortest, shortest + more, count)


@pytest.mark.parametrize(
    ("text", "drafts"),
    [
        ([1], []),
        ([1, 2, 3], []),
        ([1, 2, 3, 9, 1, 2], [3, 9, 1]),
        ([1, 2, 3, 1, 2, 4, 1, 2], [4, 1, 2]),  # the latest place
        ([5, 1, 2, 3, 8, 2, 3, 9, 1, 2, 3], [8, 2, 3]),  # the longest n-gram, though the shorter one stood later
        ([7, 7], [7, 7, 7]),  # a loop goes on
        ([4, 5, 6, 4, 5, 6], [4, 5, 6]),
    ],
)
def test_what_follows_the_latest_place_of_the_longest_end(text, drafts):
    assert NgramIndex(1, 3).propose(text, 3) == drafts


def test_n_grams_shorter_than_the_shortest_do_not_count():
    assert NgramIndex(2, 3).propose([1, 2, 3, 9, 3], 3) == []


def test_each_sequence_has_a_text_of_its_own_and_leaves_nothing_behind():
    sim, proposer = SchedulerSim(), NgramProposer(1, 3)
    arrivals = [sim.add([1, 2, 3, 1]), sim.add([1, 5, 6, 1])]
    assert [proposer.propose(sim.sequences[a], 2) for a in arrivals] == [[2, 3], [5, 6]]
    sim.sequences[0].token_ids.append(2)
    assert [proposer.propose(sim.sequences[a], 2) for a in arrivals] == [[3, 1], [5, 6]]
    del sim
    gc.collect()
    assert len(proposer._indices) == 0


def test_the_work_of_a_step_does_not_grow_with_the_text():
    def seconds_of_the_last_thousand(length):
        index, text = NgramIndex(1, 3), [place * place % 1009 for place in range(length)]
        index.propose(text, 4)
        started = time.process_time()
        for token in range(1000):
            text.append(token)
            index.propose(text, 4)
        return time.process_time() - started

    fastest = {n: min(seconds_of_the_last_thousand(n) for _ in range(3)) for n in (1_000, 200_000)}
    assert fastest[200_000] < 20 * fastest[1_000]  # a search would take 200 times as long, or more
