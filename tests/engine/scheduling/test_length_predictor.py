"""Predictions against plain lists."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspore_paged import SamplingParams
from mindspore_paged.engine.scheduling.length_predictor import DEFAULT_LENGTH, LengthPredictor, class_of, output_limit
from mindspore_paged.errors import ConfigError, IntegrityError

MUCH = 10_000


def taught(lengths, request_class="chat", **options):
    predictor = LengthPredictor(**options)
    for length in lengths:
        predictor.observe(request_class, length)
    return predictor


def request(prompt_length, request_class=None, max_tokens=128):
    return SimpleNamespace(
        prompt_token_ids=range(prompt_length),
        request_class=request_class,
        params=SamplingParams(max_tokens=max_tokens),
        pooling=None,
    )


def smallest_that_covers(lengths, quantile):
    """By definition, without sorting by rank: the first length that enough of the others do not exceed."""
    return min(x for x in lengths if sum(y <= x for y in lengths) >= quantile * len(lengths))


@given(
    answers=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 30)), max_size=60),
    asked=st.sampled_from("abcd"),
    so_far=st.integers(0, 35),
    more=st.integers(1, 200),
    quantile=st.sampled_from([0.125, 0.5, 0.75, 0.9375, 1.0]),
    min_samples=st.integers(1, 4),
    window=st.integers(4, 12),
)
def test_predictions_are_those_of_plain_lists(answers, asked, so_far, more, quantile, min_samples, window):
    predictor = LengthPredictor(quantile, min_samples, window)
    for kind, length in answers:
        predictor.observe(kind, length)
    of_class = [length for kind, length in answers if kind == asked][-window:]
    of_all = [length for _, length in answers][-window:]
    expected = 128  # twice what is there is never more here
    for lengths in (of_all, of_class):
        longer = [length for length in lengths if length > so_far]
        if len(longer) >= min_samples:
            expected = smallest_that_covers(longer, quantile)
    answer = predictor.predict(asked, so_far, so_far + more)
    assert answer == min(expected, so_far + more)
    assert so_far < answer <= so_far + more


def test_nine_of_ten_answers_are_not_longer_than_predicted():
    assert taught(range(10, 110, 10)).predict("chat", 0, MUCH) == 90


def test_what_was_generated_already_leaves_only_the_longer_answers():
    predictor = taught([10] * 90 + [500] * 10, quantile=0.5)
    assert predictor.predict("chat", 0, MUCH) == 10
    assert predictor.predict("chat", 9, MUCH) == 10
    assert predictor.predict("chat", 10, MUCH) == 500


def test_an_unknown_class_is_judged_by_all_and_a_known_one_by_its_own():
    predictor = taught([20] * 10, "chat")
    for _ in range(10):
        predictor.observe("essay", 300)
    assert predictor.predict("chat", 0, MUCH) == 20
    assert predictor.predict("essay", 0, MUCH) == 300
    assert predictor.predict("poem", 0, MUCH) == 300


def test_until_enough_is_known_the_default_holds():
    predictor = taught([5] * 7, min_samples=8)
    assert predictor.predict("chat", 0, MUCH) == DEFAULT_LENGTH
    assert predictor.predict("chat", 0, 50) == 50
    predictor.observe("chat", 5)
    assert predictor.predict("chat", 0, MUCH) == 5


def test_an_answer_that_outgrows_all_known_ones_is_expected_to_double():
    assert taught([5] * 20).predict("chat", 400, MUCH) == 800


def test_old_answers_are_forgotten():
    predictor = taught([900] * 300 + [20] * 64, window=64)
    assert predictor.predict("chat", 0, MUCH) == 20


def test_classes_are_bounded_and_the_one_unseen_for_longest_goes():
    predictor = LengthPredictor(quantile=0.5, min_samples=1, max_classes=2)
    for kind, length in [("first", 10), ("second", 20), ("first", 10), ("third", 30)]:
        predictor.observe(kind, length)
    for _ in range(20):
        predictor.observe("third", 30)
    assert predictor.num_classes == 2
    assert predictor.predict("first", 0, MUCH) == 10
    assert predictor.predict("second", 0, MUCH) == 30  # forgotten: judged by all


@pytest.mark.parametrize(("so_far", "max_tokens"), [(5, 5), (6, 5), (-1, 5)])
def test_an_answer_at_its_limit_has_no_future(so_far, max_tokens):
    with pytest.raises(IntegrityError, match=f"answer of {so_far} tokens.*max_tokens is 5"):
        LengthPredictor().predict("chat", so_far, max_tokens)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"quantile": 0}, "quantile is 0"),
        ({"quantile": 1.01}, "quantile is 1.01"),
        ({"quantile": float("nan")}, "quantile is nan"),
        ({"min_samples": 0}, "min_samples is 0"),
        ({"min_samples": 9, "window": 8}, "min_samples is 9"),
        ({"max_classes": 0}, "max_classes is 0"),
    ],
)
def test_options_out_of_range_are_refused(options, named):
    with pytest.raises(ConfigError, match=named):
        LengthPredictor(**options)


def test_the_users_class_wins_over_the_length_of_the_prompt():
    assert class_of(request(100, "chat")) == "chat"


@pytest.mark.parametrize(("shortest", "longest"), [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (65, 128), (1025, 2048)])
def test_prompts_are_classed_by_powers_of_two(shortest, longest):
    assert class_of(request(shortest)) == class_of(request(longest)) == f"prompts of {shortest} to {longest} tokens"
    assert class_of(request(longest)) != class_of(request(longest + 1))


def test_an_answer_is_limited_by_max_tokens_and_by_the_room_behind_the_prompt():
    assert output_limit(request(10, max_tokens=5), 40) == 5
    assert output_limit(request(37, max_tokens=5), 40) == 3
    assert output_limit(request(10, max_tokens=None), 40) == 30
