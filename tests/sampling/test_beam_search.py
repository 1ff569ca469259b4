"""Beams picked from logits: against every answer that there is, and against a search over whole rows."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspore_paged.errors import IntegrityError, StepError
from mindspore_paged.sampling.beam_search import BeamSearch, best_candidates
from mindspore_paged.sampling.beam_search_params import BeamSearchParams
from tests.reference.beam_search import beam_search


def logits_behind(seed, vocab_size, levels):
    """Logits float32 that depend on the answer so far; few levels make many of them equal."""

    def of(tokens):
        rng = np.random.default_rng([seed, *tokens])
        return (rng.integers(0, levels, vocab_size) * (4 / levels)).astype(np.float32)

    return of


def logprobs_of(logits):
    exact = logits.astype(np.float64)
    return exact - np.log(np.exp(exact).sum())


def searched(logits, params, eos, max_length):
    """The answers of a BeamSearch that is given logits step by step."""
    search = BeamSearch(params, eos, max_length)
    while not search.is_done:
        before = [beam.token_ids for beam in search.live]
        rows = [best_candidates(logits(tokens), search.num_candidates) for tokens in before]
        kept_from = search.advance(rows)
        for place, beam in zip(kept_from, search.live):
            assert beam.token_ids[:-1] == before[place]
    return search.best(params.beam_width)


SEEDS = st.integers(0, 2**32)
PENALTIES = st.sampled_from([1.0, 0.0, 2.0, -1.0, 0.5])


@given(
    SEEDS, st.integers(1, 4), st.integers(1, 6), st.integers(0, 2), PENALTIES, st.sampled_from([False, True, "never"])
)
def test_it_keeps_what_a_search_over_whole_rows_keeps(seed, width, max_length, num_eos, penalty, early_stopping):
    logits = logits_behind(seed, 13, 2**20)
    eos = range(num_eos)
    params = BeamSearchParams(width, max_length, length_penalty=penalty, early_stopping=early_stopping)
    expected = beam_search(lambda t: logprobs_of(logits(t)), width, max_length, eos, penalty, early_stopping)
    answers = searched(logits, params, eos, max_length)
    assert [beam.token_ids for beam in answers] == [tokens for tokens, _ in expected]
    np.testing.assert_allclose([beam.cumulative_logprob for beam in answers], [total for _, total in expected])
    for beam in answers:
        assert beam.finish_reason == ("stop" if beam.token_ids[-1] in eos else "length")


@given(SEEDS, st.integers(2, 3), st.integers(1, 4), PENALTIES)
def test_beams_for_every_answer_find_the_best_of_all(seed, vocab_size, max_length, penalty):
    logits = logits_behind(seed, vocab_size, 2**20)
    scores = {}
    for length in range(1, max_length + 1):
        for answer in product(range(vocab_size), repeat=length):
            if 0 in answer[:-1] or (length < max_length and answer[-1] != 0):
                continue  # not an answer: it ends at token 0, and nowhere else before max_length
            logprobs = [logprobs_of(logits(list(answer[:place])))[token] for place, token in enumerate(answer)]
            scores[answer] = sum(logprobs) / length**penalty
    params = BeamSearchParams(vocab_size**max_length, max_length, length_penalty=penalty)
    answers = searched(logits, params, [0], max_length)
    assert {tuple(beam.token_ids) for beam in answers} == set(scores)
    np.testing.assert_allclose(
        [beam.score(penalty) for beam in answers], sorted(scores.values(), reverse=True), rtol=1e-9
    )


@given(SEEDS, st.integers(1, 12), st.integers(1, 3))
def test_candidates_are_the_first_of_the_largest(seed, count, levels):
    logits = logits_behind(seed, 12, levels)([])
    order = sorted(range(12), key=lambda token: (-logits[token], token))
    candidates = best_candidates(logits, count)
    assert candidates.token_ids.tolist() == sorted(order[:count])
    np.testing.assert_allclose(candidates.logprobs, logprobs_of(logits)[candidates.token_ids])


def test_equals_go_by_beam_and_then_by_token():
    even = best_candidates(np.zeros(6, np.float32), 4)
    search = BeamSearch(BeamSearchParams(2, 3), [], 3)
    assert search.advance([even]) == [0, 0]
    assert search.advance([even, even]) == [0, 0]
    assert [beam.token_ids for beam in search.live] == [[0, 0], [0, 1]]


def test_one_beam_is_greedy_and_width_one_stops_where_greedy_does():
    logits = logits_behind(3, 9, 2**20)
    (beam,) = searched(logits, BeamSearchParams(1, 8), [], 8)
    tokens = []
    for _ in range(8):
        tokens.append(int(logits(tokens).argmax()))
    assert beam.token_ids == tokens


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_an_error(broken):
    with pytest.raises(StepError, match="must be finite"):
        best_candidates(np.array([0.0, broken], np.float32), 1)


def test_rows_must_be_those_of_the_beams():
    search = BeamSearch(BeamSearchParams(2, 1), [], 1)
    row = best_candidates(np.zeros(8, np.float32), 4)
    with pytest.raises(IntegrityError, match="2 rows of candidates for 1 beams"):
        search.advance([row, row])
    search.advance([row])
    assert search.is_done
    with pytest.raises(IntegrityError):
        search.advance([row])
