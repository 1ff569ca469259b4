"""Limits of latency: how they are spelled, and who keeps them."""

import pytest

from mindspore_paged.benchmarking.goodput import num_good, parse_limits
from mindspore_paged.benchmarking.serving import Record
from mindspore_paged.errors import ConfigError


def record(*token_times):
    return Record(1.0, 3, token_times=list(token_times))


def test_a_request_is_good_if_it_keeps_all_limits():
    records = [record(1.4, 1.5, 1.6), record(1.6, 1.7, 1.8), record(1.4, 1.5, 2.6), record(1.5)]

    def good(*texts):
        return num_good(records, parse_limits(texts, "--goodput"))

    assert good() == 4
    assert good("ttft:500.001") == 3
    assert good("tpot:100.001") == 3, "an answer of one token has no TPOT to keep"
    assert good("ttft:500.001", "tpot:100.001") == 2
    assert good("e2el:700") == 2


@pytest.mark.parametrize("text", ["ttft", "ttft:", "ttft:fast", "ttft:0", "ttft:-1", "ttft:nan", "ttft:inf", "itl:3"])
def test_what_is_no_limit_is_refused(text):
    with pytest.raises(ConfigError, match=f"--goodput has '{text}'; it must be NAME:MILLISECONDS above 0"):
        parse_limits([text], "--goodput")


def test_a_limit_is_given_once():
    with pytest.raises(ConfigError, match="--goodput has ttft twice"):
        parse_limits(["ttft:1", "ttft:2"], "--goodput")
