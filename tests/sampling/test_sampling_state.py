from collections import Counter

import numpy as np
import pytest

from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.sampling.sampling_state import SamplingState


def stream(seed, index=0) -> tuple[float, ...]:
    return tuple(SamplingState(SamplingParams(seed=seed), [], index).generator.random(4))


def test_a_seed_and_an_index_name_one_stream():
    assert stream(7, 2) == stream(7, 2)
    # 1 + 2^32 is the pair (1, 1) when a seed is split into 32-bit words.
    names = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (1 + 2**32, 0), (2**70, 0)]
    assert len({stream(*name) for name in names}) == len(names)


def test_without_a_seed_no_two_streams_are_the_same():
    assert stream(None) != stream(None)


def test_only_what_was_observed_is_counted():
    state = SamplingState(SamplingParams(frequency_penalty=0.1), [7, 7, 9])
    generated = [int(token) for token in np.random.default_rng(0).integers(0, 60, 500)]
    for token in generated:
        state.observe(token)
    counted = zip(state.counts.tokens.tolist(), state.counts.generated.tolist(), strict=True)
    assert dict(counted) == {7: 0, 9: 0} | Counter(generated)
    assert len(state.counts.tokens) == len({7, 9, *generated})


@pytest.mark.parametrize(
    "penalty", [{"repetition_penalty": 1.1}, {"presence_penalty": -0.1}, {"frequency_penalty": 0.1}]
)
def test_counts_are_kept_for_penalties_only(penalty):
    assert SamplingState(SamplingParams(**penalty), [1]).counts is not None
    plain = SamplingState(SamplingParams(temperature=1.0), [1])
    plain.observe(3)
    assert plain.counts is None
