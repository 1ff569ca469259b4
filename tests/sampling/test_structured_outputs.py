"""What a request may say of the form of its answer."""

import pickle

import pytest

from mindspore_paged.errors import RequestError
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.sampling.structured_outputs import LONGEST_SPECIFICATION, StructuredOutputs, structured_outputs


def test_mappings_are_kept_as_text_so_that_equal_ones_are_equal():
    params = SamplingParams(structured_outputs={"json": {"type": "object"}})
    assert params.structured_outputs == StructuredOutputs(json='{"type": "object"}')
    assert params == SamplingParams(structured_outputs=StructuredOutputs(json={"type": "object"}))
    assert hash(params) == hash(pickle.loads(pickle.dumps(params)))
    assert SamplingParams().structured_outputs is None


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"json": {}}, "json"),
        ({"json_object": True}, "json_object"),
        ({"regex": "a+", "json": None, "json_object": False}, "regex"),
        ({"choice": ["a", "b"]}, "choice"),
        ({"grammar": "start: /a/"}, "grammar"),
        ({"structural_tag": '{"structures": [], "triggers": []}'}, "structural_tag"),
    ],
)
def test_each_key_alone(given, kind):
    assert structured_outputs(given).kind == kind


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "structured_outputs has none; it must have exactly one of json, json_object"),
        ({"json": {}, "regex": "a"}, "structured_outputs has json and regex; it must have exactly one"),
        ({"schema": {}}, "structured_outputs has the key 'schema'; allowed: json, "),
        ({"json": []}, r"structured_outputs.json is \[\]; it must be a mapping, or JSON text of one"),
        ({"json": "[1]"}, "structured_outputs.json is"),
        ({"json": "{"}, "structured_outputs.json is"),
        ({"json": {"a": float("nan")}}, "structured_outputs.json holds what JSON has not"),
        ({"json": {"a": {1, 2}}}, "structured_outputs.json holds what JSON has not"),
        ({"json": "[" * 100_000}, "structured_outputs.json is"),
        ({"json_object": 1}, "structured_outputs.json_object is 1; it must be true or false"),
        ({"regex": ""}, "structured_outputs.regex is ''; it must be text"),
        ({"regex": 5}, "structured_outputs.regex is 5; it must be text"),
        ({"regex": "\ud800"}, "structured_outputs.regex is"),
        ({"grammar": "x" * (LONGEST_SPECIFICATION + 1)}, "structured_outputs.grammar has 131073 characters"),
        ({"choice": []}, r"structured_outputs.choice is \[\]; it must be a list of 1 to 1024 texts"),
        ({"choice": "yes"}, "structured_outputs.choice is 'yes'"),
        ({"choice": ["a", ""]}, "structured_outputs.choice is ''; it must be text"),
        ({"choice": ["x" * 1000] * 1000}, "structured_outputs.choice has texts of more than"),
        ("json", "structured_outputs is 'json'; it must be a mapping"),
    ],
)
def test_what_is_no_form_is_one_line(given, message):
    with pytest.raises(RequestError, match=message) as refused:
        SamplingParams(structured_outputs=given)
    assert "\n" not in str(refused.value)
