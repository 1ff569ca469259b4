import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mindspore_paged.errors import IntegrityError, StepError
from mindspore_paged.sampling.sampler import SampledToken, Sampler
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.sampling.sampling_state import SamplingState

# Ties (5 and 9), a masked token (7) and a spread over which every filter cuts somewhere.
LOGITS = np.array([0.3, -1.0, 2.0, 0.9, -2.5, 1.4, 0.0, -np.inf, 2.4, 1.4, -0.4, 0.7], dtype=np.float32)


def sample(logits, *states) -> list:
    return Sampler().sample(np.asarray(logits, dtype=np.float32), states)


def state(index=0, prompt=(), **params) -> SamplingState:
    return SamplingState(SamplingParams(**params), prompt, index)


def tokens_of(logits, sampling_state, count) -> list[int]:
    row = np.asarray(logits, dtype=np.float32)[None]
    return [Sampler().sample(row, [sampling_state])[0].token_id for _ in range(count)]


def exact_distribution(logits, params: SamplingParams) -> list[float]:
    """The definition, token by token in plain Python: who is kept depends on the mass of those that go before."""
    weights = [math.exp(logit / params.temperature) for logit in np.asarray(logits, dtype=float)]

    def goes_before(other, token):
        return (-weights[other], other) < (-weights[token], token)

    def renormalised(kept):
        total = sum(weights[token] for token in kept)
        return {token: weights[token] / total for token in kept}

    everyone = range(len(weights))
    kept = [token for token in everyone if weights[token] >= params.min_p * max(weights)]
    if params.top_k > 0:
        kept = [t for t in kept if sum(goes_before(other, t) for other in everyone) < params.top_k]
    shares = renormalised(kept)
    before = {t: sum(shares[other] for other in kept if goes_before(other, t)) for t in kept}
    shares = renormalised([token for token in kept if before[token] < params.top_p])
    return [shares.get(token, 0.0) for token in everyone]


def assert_drawn_from(distribution, tokens):
    drawn = np.bincount(tokens, minlength=len(distribution))
    possible = np.asarray(distribution) > 0
    assert drawn[~possible].sum() == 0, "a token that was filtered out was drawn"
    expected = np.asarray(distribution)[possible] * len(tokens)
    if possible.sum() > 1:
        assert stats.chisquare(drawn[possible], expected).pvalue > 1e-3


class TestGreedy:
    def test_takes_the_largest_logit_of_each_row(self):
        logits = np.random.default_rng(0).standard_normal((7, 50)).astype(np.float32)
        picked = sample(logits, *[state() for _ in range(7)])
        assert [token.token_id for token in picked] == [max(range(50), key=row.__getitem__) for row in logits]

    def test_lowest_id_wins_a_tie(self):
        assert sample([[1, 3, 3, 0]], state()) == [SampledToken(1)]

    def test_reports_no_logprobs_unless_asked(self):
        assert sample([[0, 1]], state())[0] == SampledToken(1, logprob=None, top_logprobs=None)

    def test_draws_nothing_and_leaves_the_logits_alone(self):
        greedy = state(repetition_penalty=2.0, prompt=[0, 1])
        logits = np.array([[1.0, 2.0, 0.5]], dtype=np.float32)
        before = logits.copy()
        stream_before = repr(greedy.generator.bit_generator.state)
        Sampler().sample(logits, [greedy])
        assert np.array_equal(logits, before)
        assert repr(greedy.generator.bit_generator.state) == stream_before

    def test_an_empty_batch_is_no_tokens(self):
        assert Sampler().sample(np.zeros((0, 5), dtype=np.float32), []) == []


FILTERS = [
    {"temperature": 1.0},
    {"temperature": 0.4},
    {"temperature": 3.0},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 1.0, "top_k": 3},  # cuts the tie of 5 and 9: the lower id stays
    {"temperature": 1.0, "top_k": 4},
    {"temperature": 1.0, "top_k": -1},
    {"temperature": 1.0, "top_k": 500},
    {"temperature": 1.0, "top_p": 0.05},
    {"temperature": 1.0, "top_p": 0.6},  # cuts the tie as well
    {"temperature": 1.0, "top_p": 0.95},
    {"temperature": 1.0, "min_p": 0.2},
    {"temperature": 1.0, "min_p": 1.0},
    {"temperature": 2.0, "min_p": 0.2},  # min_p looks at probabilities after temperature
    {"temperature": 1.5, "top_k": 6, "top_p": 0.7, "min_p": 0.15},
    {"temperature": 1.0, "top_k": 4, "top_p": 0.55},  # top_p counts shares of what top_k left
    {"temperature": 1.0, "min_p": 0.3, "top_p": 0.8},  # and of what min_p left
]


@pytest.mark.parametrize("params", FILTERS, ids=str)
def test_frequencies_follow_the_exact_distribution(params):
    distribution = exact_distribution(LOGITS, SamplingParams(**params))
    assert_drawn_from(distribution, tokens_of(LOGITS, state(seed=1, **params), 4000))


def test_a_tie_at_the_cut_keeps_exactly_k():
    assert set(tokens_of([1.0] * 6, state(seed=0, temperature=1.0, top_k=2), 100)) == {0, 1}


def test_top_p_takes_the_token_that_reaches_it_and_no_more():
    quarters = [0.0] * 4
    assert set(tokens_of(quarters, state(seed=0, temperature=1.0, top_p=0.5), 100)) == {0, 1}
    assert set(tokens_of(quarters, state(seed=0, temperature=1.0, top_p=0.51), 100)) == {0, 1, 2}


class FixedUniform:
    def __init__(self, value):
        self.value = value

    def random(self):
        return self.value


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2.0**-53])
def test_the_extreme_draws_stay_off_masked_tokens(uniform):
    sampling_state = state(temperature=1.0)
    sampling_state.generator = FixedUniform(uniform)
    assert sample([[-np.inf, 0.3, -np.inf]], sampling_state) == [SampledToken(1)]


def test_many_unlikely_tokens_keep_their_share_of_the_mass():
    # Each is below half a float32 rounding step of the first token's weight; together they hold 0.8%.
    logits = np.full(200_000, -17.0)
    logits[0] = 0.0
    sampling_state = state(temperature=1.0)
    sampling_state.generator = FixedUniform(0.996)
    assert 0 < sample([logits], sampling_state)[0].token_id < 200_000


@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 1e-310])
@pytest.mark.filterwarnings("error")
def test_a_tiny_temperature_is_greedy_without_overflow(temperature):
    assert set(tokens_of([-1e4, 88.0, 1e4, 9.9e3], state(seed=0, temperature=temperature), 50)) == {2}


@pytest.mark.filterwarnings("error")
def test_a_huge_temperature_is_uniform():
    drawn = tokens_of([-50.0, 0.0, 50.0], state(seed=0, temperature=1e30), 3000)
    assert_drawn_from([1 / 3] * 3, drawn)


@given(
    logits=st.lists(st.floats(-20, 20, width=32) | st.just(-math.inf) | st.just(1.0), min_size=1, max_size=40),
    temperature=st.floats(0.05, 5),
    top_k=st.integers(-1, 45),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 1),
    seed=st.integers(0, 2**70),
)
def test_only_tokens_that_pass_the_filters_are_drawn(logits, temperature, top_k, top_p, min_p, seed):
    if max(logits) == -math.inf:
        return
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    # A hair wider, so that the last bit of a sum at the cut does not decide the test.
    wider = SamplingParams(temperature=temperature, top_k=top_k, top_p=min(1, top_p + 1e-9), min_p=min_p * (1 - 1e-9))
    allowed = exact_distribution(logits, wider)
    assert all(allowed[token] > 0 for token in tokens_of(logits, SamplingState(params, []), 5))


@settings(max_examples=30)
@given(data=st.data())
def test_top_p_on_a_large_vocabulary_equals_a_full_sort(data):
    spread = data.draw(st.just(0.0) | st.floats(0.1, 8.0))
    top_p = data.draw(st.floats(0.01, 0.999))
    logits = np.random.default_rng(data.draw(st.integers(0, 99))).normal(scale=spread, size=3000).astype(np.float32)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities, kind="stable")
    nucleus = order[np.cumsum(probabilities[order]) - probabilities[order] < top_p + 1e-9]
    drawn = tokens_of(logits, state(seed=1, temperature=1.0, top_p=top_p), 200)
    assert set(drawn) <= set(nucleus.tolist())


class TestPenalties:
    PROMPT = (0, 0, 3)
    OUTPUT = (2, 5, 2, 2, 0)

    def penalised(self, logits, repetition=1.0, presence=0.0, frequency=0.0) -> list[float]:
        result = [float(logit) for logit in logits]
        for token in range(len(result)):
            if token in self.PROMPT or token in self.OUTPUT:
                result[token] *= 1 / repetition if result[token] > 0 else repetition
            times = self.OUTPUT.count(token)
            result[token] -= presence * (times > 0) + frequency * times
        return result

    @pytest.mark.parametrize(
        ("repetition", "presence", "frequency"),
        [(1.7, 0, 0), (0.6, 0, 0), (1, 1.2, 0), (1, -1.0, 0), (1, 0, 0.5), (1, 0, -0.5), (1.3, 0.5, 0.4)],
    )
    def test_change_the_distribution_by_the_formula(self, repetition, presence, frequency):
        params = {
            "repetition_penalty": repetition,
            "presence_penalty": presence,
            "frequency_penalty": frequency,
            "temperature": 0.8,
            "seed": 5,
        }
        sampling_state = state(prompt=self.PROMPT, **params)
        for token in self.OUTPUT:
            sampling_state.observe(token)
        expected = exact_distribution(
            self.penalised(LOGITS, repetition, presence, frequency), SamplingParams(temperature=0.8)
        )
        assert_drawn_from(expected, tokens_of(LOGITS, sampling_state, 4000))

    def test_change_a_greedy_choice(self):
        sampling_state = state(prompt=[], presence_penalty=1.0)
        assert sample([[2.0, 1.5, 0.0]], sampling_state) == [SampledToken(0)]
        sampling_state.observe(0)
        assert sample([[2.0, 1.5, 0.0]], sampling_state) == [SampledToken(1)]

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("penalty", [0.01, 100])
    def test_leave_every_logit_finite(self, penalty):
        sampling_state = state(prompt=[0, 1], repetition_penalty=penalty)
        logits = np.array([3e36, -3e36, 0.0], np.float32)
        sampling_state.edit(logits)
        assert np.isfinite(logits).all()

    def test_do_not_touch_the_neighbour(self):
        penalised, plain = state(prompt=[0], repetition_penalty=2.0), state(prompt=[0])
        assert sample([[2.0, 1.5], [2.0, 1.5]], penalised, plain) == [SampledToken(1), SampledToken(0)]


class TestSeed:
    PARAMS = ({"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.9}, {"temperature": 1.0, "top_k": 5})

    def run(self, sampling_state, steps, neighbours, place):
        """Ten steps of one sequence at `place` of a batch, with other sequences around it."""
        rng, chosen = np.random.default_rng(3), []
        for _ in range(steps):
            row = rng.standard_normal(200).astype(np.float32)
            states = [state(seed=index, temperature=1.0) for index in range(neighbours)]
            rows = [np.random.default_rng().standard_normal(200).astype(np.float32) for _ in states]
            states.insert(place, sampling_state)
            rows.insert(place, row)
            chosen.append(Sampler().sample(np.stack(rows), states)[place].token_id)
        return chosen

    @pytest.mark.parametrize("params", PARAMS, ids=str)
    def test_draws_do_not_depend_on_the_batch(self, params):
        alone = self.run(state(seed=42, **params), 20, neighbours=0, place=0)
        assert self.run(state(seed=42, **params), 20, neighbours=3, place=0) == alone
        assert self.run(state(seed=42, **params), 20, neighbours=5, place=4) == alone


class TestLogprobs:
    def reference(self, logits) -> np.ndarray:
        return np.float64(logits) - np.log(np.exp(np.float64(logits)).sum())

    def test_are_those_of_the_model_whatever_was_asked(self):
        sampling_state = state(prompt=[8, 2], logprobs=3, temperature=0.5, top_k=2, repetition_penalty=3.0, seed=1)
        (picked,) = sample([LOGITS], sampling_state)
        expected = self.reference(LOGITS)
        assert picked.logprob == pytest.approx(expected[picked.token_id], abs=1e-6)
        assert [token for token, _ in picked.top_logprobs] == [8, 2, 5]
        assert [logprob for _, logprob in picked.top_logprobs] == pytest.approx(expected[[8, 2, 5]], abs=1e-6)

    def test_zero_reports_the_chosen_token_only(self):
        (picked,) = sample([LOGITS], state(logprobs=0))
        assert picked.logprob == pytest.approx(self.reference(LOGITS)[8], abs=1e-6)
        assert picked.top_logprobs == ()

    def test_more_than_the_vocabulary_reports_the_vocabulary(self):
        for count in (99, -1):
            (picked,) = sample([LOGITS], state(logprobs=count))
            assert len(picked.top_logprobs) == LOGITS.size

    @pytest.mark.filterwarnings("error")
    def test_very_large_logits_do_not_overflow(self):
        (picked,) = sample([[1e30, 1e30, -1e30]], state(logprobs=2))
        assert picked.top_logprobs == ((0, pytest.approx(math.log(0.5))), (1, pytest.approx(math.log(0.5))))


class TestBrokenRows:
    @pytest.mark.parametrize("bad", [[0.0, np.nan, 9.0], [np.nan] * 3, [-np.inf] * 3, [0.0, np.inf, 1.0]])
    @pytest.mark.parametrize("params", [{}, {"temperature": 1.0}, {"presence_penalty": 1.0}, {"logprobs": 1}], ids=str)
    def test_only_the_broken_row_gets_an_error(self, bad, params):
        good = [0.0, 1.0, 50.0]
        first, second, third = sample([good, bad, good], state(), state(prompt=[0], **params), state())
        assert isinstance(second, StepError)
        assert first == third == SampledToken(2)

    def test_rows_and_states_must_match(self):
        with pytest.raises(IntegrityError, match=r"\(2, 3\).* 1 sequences"):
            sample(np.zeros((2, 3)), state())
