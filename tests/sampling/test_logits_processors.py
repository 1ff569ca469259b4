"""Logits processors by themselves: what is taken for one, where it is found, what it may return."""

import re

import numpy as np
import pytest

from mindspore_paged.errors import RequestError, StepError
from mindspore_paged.sampling.logits_processors import check_allowed, check_can_travel, resolved_processors
from mindspore_paged.sampling.sampler import Sampler
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.sampling.sampling_state import SamplingState
from tests.sampling import processors

HERE = "tests.sampling.processors"


@pytest.mark.parametrize(
    ("path", "function"),
    [
        (f"{HERE}:only_even", processors.only_even),
        (f"{HERE}.only_even", processors.only_even),
        (f"{HERE}:Holder.plain", processors.Holder.plain),
        (f"{HERE}.Holder.plain", processors.Holder.plain),
    ],
)
def test_paths_of_functions(path, function):
    params = SamplingParams(logits_processors=path)
    assert params.logits_processors == (path,)
    (found,) = resolved_processors(params.logits_processors)
    assert found.function is function
    assert not found.takes_prompt


def test_three_arguments_begin_with_the_prompt():
    for given in (processors.another_than_before, f"{HERE}:another_than_before"):
        assert resolved_processors([given])[0].takes_prompt


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (5, "logits_processors is 5; it must be a list of functions"),
        ([5], "logits_processors: 5 is no function"),
        (["os system"], "logits_processors: 'os system' is no function"),
        (["alone"], "logits_processors: 'alone' is no function"),
        (["a..b"], "logits_processors: 'a..b' is no function"),
        (["a." * 200 + "b"], "is no function, and not where one is imported from"),
        ([processors.only_even] * 17, "logits_processors has 17 entries; it must have 16 at most"),
    ],
)
def test_what_is_none_is_refused_before_anything_is_imported(given, message):
    with pytest.raises(RequestError, match=message):
        SamplingParams(logits_processors=given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("not_there_at_all:f", "not_there_at_all:f cannot be imported: No module named 'not_there_at_all'"),
        ("tests.not_there.f", "cannot be imported: there is no not_there in it"),
        (f"{HERE}:nothing", f"{HERE}:nothing cannot be imported: there is no nothing in it"),
        (f"{HERE}:NO_FUNCTION", "is 5, which cannot be called"),
        (f"{HERE}:three_of_four", r"takes \(first, second, third, fourth\); it must take \(output_token_ids, logits\)"),
        (lambda one: one, r"takes \(one\); it must take"),
        (min, "builtins.min does not say what arguments it takes"),
    ],
)
def test_what_cannot_be_found_or_called_is_one_line(given, message):
    with pytest.raises(RequestError, match=message) as refused:
        resolved_processors(SamplingParams(logits_processors=[given]).logits_processors)
    assert "\n" not in str(refused.value)


def test_a_module_that_fails_while_it_is_imported(tmp_path, monkeypatch):
    (tmp_path / "broken_processor.py").write_text("raise RuntimeError('two\\nlines')")
    (tmp_path / "lacking_processor.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RequestError, match="broken_processor:f cannot be imported: RuntimeError: two lines"):
        resolved_processors(["broken_processor:f"])
    with pytest.raises(
        RequestError, match="lacking_processor.f cannot be imported: No module named 'not_there_at_all'"
    ):
        resolved_processors(["lacking_processor.f"])


@pytest.mark.parametrize(
    ("pattern", "is_allowed"),
    [
        (None, False),
        (r"tests\.sampling\.processors\.only_even", True),
        (r"tests\..*", True),
        (r"tests", False),  # the whole name, not its beginning
        (r"tests\.sampling\.processors\.only", False),
        (r"sampling\.processors\.only_even", False),
    ],
)
@pytest.mark.parametrize("path", [f"{HERE}:only_even", f"{HERE}.only_even"])
def test_a_pattern_is_of_whole_names(pattern, is_allowed, path):
    if is_allowed:
        check_allowed([path], pattern)
    else:
        with pytest.raises(RequestError, match=r"processors\.only_even'.*\(server\.logits_processor_pattern\)"):
            check_allowed([path], pattern)


def test_functions_do_not_travel():
    check_can_travel([f"{HERE}:only_even"])
    with pytest.raises(RequestError, match=r"'tests\.sampling\.processors\.only_even' is a function; with replicas"):
        check_can_travel([f"{HERE}:only_even", processors.only_even])


def sampled(logits, *functions, prompt=(0,), output=(), **params):
    state = SamplingState(SamplingParams(**params), list(prompt), processors=resolved_processors(functions))
    for token in output:
        state.observe(token)
    return Sampler().sample(np.array([logits], np.float32), [state])[0]


def test_they_see_prompt_output_and_raw_logits_in_order():
    seen = []

    def first(prompt, output, logits):
        seen.append((prompt, output, logits.tolist()))
        return logits * np.float32(2)

    def second(output, logits):
        seen.append((output, logits.tolist()))
        return logits

    token = sampled([1.0, 3.0, 2.0], first, second, prompt=[7, 8], output=[5, 6], logit_bias={2: 10})
    assert seen == [([7, 8], [5, 6], [1.0, 3.0, 2.0]), ([5, 6], [2.0, 6.0, 4.0])]
    assert token.token_id == 2  # the bias comes behind them


def test_what_they_do_to_their_arguments_stays_with_them():
    kept = np.array([0.0, 9.0, 0.0], np.float32)

    def selfish(prompt, output, logits):
        prompt.clear()
        output.append(5)
        return kept

    logits = np.array([[3.0, 2.0, 1.0]], np.float32)
    state = SamplingState(
        SamplingParams(logit_bias={1: -100}), [1, 2], processors=resolved_processors([selfish, processors.only_even])
    )
    for _ in range(2):
        assert Sampler().sample(logits, [state])[0].token_id == 0
    assert kept.tolist() == [0.0, 9.0, 0.0]
    assert logits.tolist() == [[3.0, 2.0, 1.0]]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda logits: None, r"returned None; it must be float32 \[3\] of NumPy"),
        (lambda logits: logits.tolist(), "returned .*; it must be float32"),
        (lambda logits: logits[:2], r"returned float32 \[2\]; it must be float32 \[3\]"),
        (lambda logits: logits.astype(np.float64), r"returned float64 \[3\]; it must be float32 \[3\]"),
        (lambda logits: logits * np.nan, "returned nan; logits must be finite, or -inf"),
        (lambda logits: logits + np.inf, "returned inf; logits must be finite, or -inf"),
        (lambda logits: 1 / 0, "failed: ZeroDivisionError: division by zero"),
        (lambda logits: logits - np.inf, "the largest logit is -inf; it must be finite"),
    ],
)
def test_what_cannot_be_used_ends_the_row_alone_and_is_named(returned, message):
    def faulty(output, logits):
        return returned(logits)

    states = [SamplingState(SamplingParams(), [0], processors=resolved_processors(each)) for each in ([faulty], [])]
    broken, well = Sampler().sample(np.array([[0.0, 1.0, 2.0]] * 2, np.float32), states)
    assert isinstance(broken, StepError)
    assert re.search(message, str(broken))
    assert "faulty" in str(broken) or "the largest logit" in str(broken)
    assert well.token_id == 2
