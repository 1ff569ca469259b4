import math

import pytest

from mindspore_paged.errors import RequestError
from mindspore_paged.sampling_params import SamplingParams


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("temperature", -1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("temperature", None),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("top_k", -2),
        ("top_k", 2.0),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("n", 0),
        ("n", None),
        ("seed", -1),
        ("seed", 1.0),
        ("stop", ""),
        ("stop", ["end", ""]),
        ("stop", [3]),
        ("stop_token_ids", ["2"]),
        ("stop_token_ids", [True]),
        ("ignore_eos", 1),
        ("logprobs", -1),
        ("logprobs", 1.0),
        ("presence_penalty", 2.1),
        ("presence_penalty", math.nan),
        ("frequency_penalty", -2.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", -1.0),
        ("repetition_penalty", math.inf),
        ("repetition_penalty", math.nan),
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_it(name, value):
    with pytest.raises(RequestError, match=f"^{name} is ") as refusal:
        SamplingParams(**{name: value})
    assert "\n" not in str(refusal.value)
    assert "it must be" in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", None),
        ("max_tokens", 1),
        ("temperature", 0),
        ("temperature", 1e-6),
        ("top_p", 1),
        ("top_p", 1e-9),
        ("top_k", -1),
        ("top_k", 0),
        ("top_k", 10**9),
        ("min_p", 0),
        ("min_p", 1),
        ("n", 4),
        ("seed", 0),
        ("seed", 2**70),
        ("stop_token_ids", ()),
        ("ignore_eos", True),
        ("logprobs", 0),
        ("presence_penalty", -2),
        ("frequency_penalty", 2),
        ("repetition_penalty", 0.1),
    ],
)
def test_a_value_at_the_edge_is_kept(name, value):
    assert getattr(SamplingParams(**{name: value}), name) == value


def test_stop_may_be_one_string_or_several():
    assert SamplingParams(stop="END").stop == ("END",)
    assert SamplingParams(stop=["END", "\n"]).stop == ("END", "\n")


def test_lists_become_tuples_that_nobody_can_change():
    stop_token_ids = [1, 2]
    params = SamplingParams(stop_token_ids=stop_token_ids)
    stop_token_ids.append(3)
    assert params.stop_token_ids == (1, 2)


def test_only_temperature_zero_is_greedy():
    assert SamplingParams().greedy
    assert not SamplingParams(temperature=1e-6).greedy
