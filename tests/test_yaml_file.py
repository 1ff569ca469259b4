"""YAML files and values: the core schema of YAML 1.2, whatever json.dump writes, and bounds on what is built."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspore_paged.config import load_config
from mindspore_paged.config.yaml_file import MAX_BYTES, MAX_DEPTH, MAX_NODES, parse_value, read_mapping
from mindspore_paged.errors import ConfigError

EMOJI = "模型 😀"


def refusal(text: str) -> str:
    started = time.perf_counter()
    with pytest.raises(ConfigError) as caught:
        parse_value(text, "here")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    assert time.perf_counter() - started < 5
    return message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # https://yaml.org/spec/1.2.2/#1032-tag-resolution
        *[(word, None) for word in ("null", "Null", "NULL", "~", "")],
        *[(word, True) for word in ("true", "True", "TRUE")],
        *[(word, False) for word in ("false", "False", "FALSE")],
        ("010", 10),
        ("-007", -7),
        ("+12", 12),
        ("0o10", 8),
        ("0x1F", 31),
        ("1e5", 1e5),
        ("1E-5", 1e-5),
        ("1.e-8", 1e-8),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        # What YAML 1.1 takes for something else.
        *[
            (word, word)
            for word in ("yes", "No", "on", "OFF", "y", "1:20", "1_000", "0b11", "2024-01-01", "=", "1_0.5")
        ],
    ],
)
def test_plain_words_are_what_yaml_1_2_says(text, value):
    for found in (parse_value(text, "here"), parse_value(f"- {text}", "here")[0]):
        assert (found, type(found)) == (value, type(value))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
    max_leaves=10,
)


@settings(max_examples=40)
@given(json_values, st.booleans(), st.sampled_from([None, 2, "\t"]))
def test_whatever_json_writes_is_read_as_json(value, escaped, indent):
    assert parse_value(json.dumps(value, ensure_ascii=escaped, indent=indent), "here") == value


@given(st.text())
def test_text_that_json_wrote_may_stand_in_a_yaml_file(text):
    assert parse_value(f"# a note\nkey: {json.dumps(text)}", "here") == {"key": text}


def test_characters_beyond_the_first_plane_reach_paths_and_stop_strings(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"model": {"weights": f"{EMOJI}.gguf"}, "sampling": {"stop": ["😀"]}}))
    config = load_config(path)
    assert (config.model.weights, config.sampling.stop) == (tmp_path / f"{EMOJI}.gguf", ("😀",))
    assert load_config(None, [f"model.weights={json.dumps(EMOJI)}"]).model.weights.name == EMOJI


@pytest.mark.parametrize("text", ['"\\ud83d"', 'a: "x\\ude00"', '{"\\ud83d": 1}', '- "\\ude00\\ud83d"', "\ud800"])
def test_half_a_character_is_refused(text):
    assert refusal(text).startswith("here: ")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ("!!int x", "'x' is no whole number"),
        ("!!bool 1", "'1' is no true or false"),
        ("!!float on", "'on' is no number"),
        ("!!timestamp x", "could not determine a constructor"),
        ("!!set {a}", "could not determine a constructor"),
        ("!" * 10_000 + " x", "could not determine a constructor"),
        ('"\\UFFFFFFFF"', "not valid YAML"),
        ('"\\U00110000"', "not valid YAML"),
        ("9" * 5000, "is no whole number"),
        ("0x" + "f" * 5000, "is no whole number"),
    ],
)
def test_values_that_cannot_be(text, problem):
    assert problem in refusal(text)


NINES = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (NINES, f"more than {MAX_NODES} values"),
        (MERGED, f"more than {MAX_NODES} values"),
        ("[" + "1," * 100_000 + "1]", f"more than {MAX_NODES} values"),
        ("{" + "a," * 100_000, f"more than {MAX_NODES} values"),
        ("[" * 100_000, f"nested more than {MAX_DEPTH} deep"),
        ("- " * 100_000, f"nested more than {MAX_DEPTH} deep"),
        ('{"a": ' * 100_000 + "1" + "}" * 100_000, f"nested more than {MAX_DEPTH} deep"),
        ("- &a [1]\n" + "".join(f"- &{'a' * i} [*{'a' * (i - 1)}]\n" for i in range(2, 60)), "nested more than"),
        ("&a [*a]", "an alias stands inside of what it repeats"),
        ("&a {<<: *a}", "an alias stands inside of what it repeats"),
        ("&a {? *a : 1}", "an alias stands inside of what it repeats"),
    ],
)
def test_what_is_too_much_is_refused_before_it_is_built(text, problem):
    assert problem in refusal(text)


def test_an_anchor_may_be_repeated():
    assert parse_value("a: &x [1, 2]\nb: [*x, *x]", "here") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}


def test_no_more_than_a_configuration_takes_is_read(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_text("#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match=f"large.yaml: not a configuration: it has more than {MAX_BYTES} bytes"):
        read_mapping(path)


def test_a_key_below_any_section_may_be_misspelt(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("parallel: {tensor_paralel_size: 1}")
    with pytest.raises(ConfigError, match="unknown key parallel.tensor_paralel_size; did you mean"):
        load_config(path)


@pytest.mark.parametrize("override", [".".join("a" * 2000) + "=1", "cache.block_size=" + "[" * 5000, "x" * 5000])
def test_overrides_out_of_bounds_get_a_short_line(override):
    with pytest.raises(ConfigError, match="^override '") as caught:
        load_config(None, [override, override])
    assert len(str(caught.value)) < 400
