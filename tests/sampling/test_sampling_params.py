import math
from dataclasses import fields

import numpy as np
import pytest

from mindspore_paged.errors import RequestError
from mindspore_paged.sampling.sampling_params import SamplingParams


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
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("top_k", -2),
        ("top_k", 2.0),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("n", 0),
        ("n", 16385),
        ("seed", -2),
        ("seed", 1.0),
        pytest.param("seed", 10**5000, id="seed-huge"),
        ("stop", ""),
        ("stop", ["end", ""]),
        ("stop", [3]),
        ("stop", 3),
        ("stop", "\ud83d"),
        ("stop", ["ok", "half a pair: \ude00"]),
        ("stop", ["x"] * 65),
        ("stop", "x" * 513),
        ("stop", np.arange(3)),
        ("stop_token_ids", np.ones(2)),
        ("stop_token_ids", np.array(True)),
        ("top_k", np.float32(2)),
        ("temperature", np.float32("nan")),
        ("temperature", np.eye(2)),
        ("stop_token_ids", ["2"]),
        ("stop_token_ids", [True]),
        ("ignore_eos", 1),
        ("logprobs", -2),
        ("logprobs", 1.0),
        ("presence_penalty", 2.1),
        ("presence_penalty", math.nan),
        ("frequency_penalty", -2.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", 2.6e-101),
        ("repetition_penalty", 100.5),
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
    assert len(str(refusal.value)) < 400


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
        ("stop", ("x" * 512,) * 64),
        ("n", 16384),
        ("logprobs", -1),
        ("ignore_eos", True),
        ("logprobs", 0),
        ("presence_penalty", -2),
        ("frequency_penalty", 2),
        ("repetition_penalty", 0.01),
        ("repetition_penalty", 100),
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


def test_none_stands_for_every_default():
    assert SamplingParams(**{field.name: None for field in fields(SamplingParams)}) == SamplingParams(max_tokens=None)


def test_what_the_apis_write_for_nothing_and_for_all():
    params = SamplingParams(seed=-1, top_k=-1, logprobs=True)
    assert (params.seed, params.top_k, params.logprobs) == (None, -1, 1)
    assert SamplingParams(logprobs=False).logprobs is None


def test_numbers_of_numpy_become_those_of_python():
    given = {
        "max_tokens": np.int64(4),
        "temperature": np.float32(0.5),
        "top_k": np.uint8(3),
        "seed": np.int32(-1),
        "ignore_eos": np.bool_(True),
        "stop_token_ids": np.array([1, 2], np.int32),
        "logprobs": np.array(2),
    }
    params = SamplingParams(**given)
    assert params == SamplingParams(4, 0.5, top_k=3, ignore_eos=True, stop_token_ids=(1, 2), logprobs=2)
    kinds = {name: type(getattr(params, name)) for name in ("max_tokens", "temperature", "ignore_eos")}
    assert kinds == {"max_tokens": int, "temperature": float, "ignore_eos": bool}
    assert SamplingParams(stop_token_ids=[np.int64(7)]).stop_token_ids == (7,)
