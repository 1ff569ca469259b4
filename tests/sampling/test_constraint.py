"""Answers drawn from random logits are of the form that they are held to, whatever the logits say."""

import json
import re
from random import Random

import jsonschema
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mindspore_paged.errors import RequestError, StepError
from mindspore_paged.sampling.constraint import ConstraintCompiler, prepared, without_unicode_forms
from mindspore_paged.sampling.sampler import Sampler
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.sampling.sampling_state import SamplingState
from mindspore_paged.sampling.structured_outputs import StructuredOutputs
from tests.sampling.json_schemas import OPEN_ENDED, draw_schema
from tests.tokenizer.families import byte_level

BACKEND = byte_level("qwen2")
END = BACKEND.token_to_id("<|im_end|>")
VOCAB_SIZE = BACKEND.get_vocab_size() + 8  # a model may have logits of no token
COMPILER = ConstraintCompiler(BACKEND.to_str(), VOCAB_SIZE, [END])
MOST_TOKENS = 2000
VALIDATOR = jsonschema.Draft202012Validator


def constraint_of(**form):
    return COMPILER.constraint(StructuredOutputs(**form))


def answer(form, seed=0, forced=False, temperature=1.0):
    """Tokens drawn from random logits until the end. forced: those without a choice are taken together."""
    params = SamplingParams(temperature=temperature, seed=seed)
    state = SamplingState(params, [0], constraint=COMPILER.constraint(form))
    rng, tokens = np.random.default_rng(seed), []
    # Random walks in long forms are kept short by logits that mean the same for a token everywhere.
    logits = rng.normal(size=VOCAB_SIZE).astype(np.float32)
    while len(tokens) < MOST_TOKENS:
        (sampled,) = Sampler().sample(logits[None], [state])
        assert not isinstance(sampled, StepError), sampled
        tokens.append(sampled.token_id)
        state.observe(sampled.token_id)
        for token in state.constraint.forced() if forced else ():
            state.pass_over_draw()
            tokens.append(token)
            state.observe(token)
        if tokens[-1] == END or state.constraint.is_complete:
            break
    return tokens, BACKEND.decode([token for token in tokens if token != END])


@pytest.mark.parametrize("first_seed", range(0, 120, 10))
def test_instances_of_schemas_of_all_kinds(first_seed):
    for seed in range(first_seed, first_seed + 10):
        schema = draw_schema(Random(seed))
        tokens, text = answer(StructuredOutputs(json=schema), seed)
        assert len(tokens) < MOST_TOKENS, schema
        VALIDATOR(schema, format_checker=VALIDATOR.FORMAT_CHECKER).validate(json.loads(text))


@pytest.mark.parametrize("schema", OPEN_ENDED, ids=lambda schema: schema["type"])
def test_instances_of_schemas_without_a_longest_text(schema):
    for seed in range(20):
        _, text = answer(StructuredOutputs(json=schema), seed)
        VALIDATOR(schema, format_checker=VALIDATOR.FORMAT_CHECKER).validate(json.loads(text))


REGEXES = st.recursive(
    st.sampled_from(["a", "bc", "[x-z]", "[0-9]", "ü", r"\.", " "]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})"),
        inner.map(lambda one: f"({one}){{0,3}}"),
        inner.map(lambda one: f"({one})?"),
        inner.map(lambda one: f"({one})+"),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(regex=REGEXES, seed=st.integers(0, 1000))
def test_texts_that_a_regular_expression_matches(regex, seed):
    tokens, text = answer(StructuredOutputs(regex=regex), seed)
    assert re.fullmatch(regex, text) or (len(tokens) == MOST_TOKENS and "+" in regex)


@settings(max_examples=30, deadline=None)
@given(
    choices=st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8), min_size=1, max_size=5)
)
@example(["\x7f", "\U0001f600", '"\\', "\u2028\n"])
@example(["\u1f71", "\u212b", "e\u0301"])  # in no normal form of Unicode, into which some tokenizers put texts
def test_one_of_the_choices(choices):
    """Whatever is in them: quotes, backslashes, control characters."""
    ends = set()
    for seed in range(3):
        tokens, _ = answer(StructuredOutputs(choice=choices), seed)
        ends.add(bytes_of(tokens).decode())
    assert ends <= set(choices)


def test_a_tokenizer_keeps_all_but_its_normal_forms():
    """As with SentencePiece's, whose spaces are other characters."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    several = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, replace]}
    for normalizer, kept in (
        (None, None),
        (replace, replace),
        ({"type": "NFC"}, None),
        (several, {"type": "Sequence", "normalizers": [replace]}),
    ):
        content = json.loads(without_unicode_forms(json.dumps({"normalizer": normalizer, "model": {}})))
        assert content == {"normalizer": kept, "model": {}}


def bytes_of(tokens):
    """What tokens are bytes of, by the byte-level alphabet of GPT-2."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    table = {chr(byte): byte for byte in visible} | {chr(256 + n): byte for n, byte in enumerate(hidden)}
    return bytes(table[letter] for token in tokens if token != END for letter in BACKEND.id_to_token(token))


def test_a_grammar_and_structural_tags():
    _, text = answer(StructuredOutputs(grammar='start: "<" word ">"\nword: /[a-c]/ | "(" word ")"'), 3)
    assert text.count("(") == text.count(")")
    assert re.fullmatch(r"<\(*[a-c]\)*>", text)
    tag = {"structures": [{"begin": "<f>", "schema": {"type": "integer"}, "end": "</f>"}], "triggers": ["<f"]}
    held = constraint_of(structural_tag=tag)
    for text, is_allowed in (("Hi <f>12</f> you", True), ("Hi <f>x", False), ("Hi <g>x", True)):
        tokens = BACKEND.encode(text, add_special_tokens=False).ids
        assert (held.num_allowed(tokens) == len(tokens)) == is_allowed, text


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_without_a_choice_are_those_that_would_be_sampled(seed, temperature):
    """Taken together, and the draws behind them stay what they are."""
    schema = draw_schema(Random(seed + 40))
    form = StructuredOutputs(json={"type": "object", "properties": {"the_name": schema, "the_other": schema},
                                   "required": ["the_name", "the_other"], "additionalProperties": False})  # fmt: skip
    one_by_one, text = answer(form, seed, temperature=temperature)
    together, same = answer(form, seed, forced=True, temperature=temperature)
    assert (together, same) == (one_by_one, text)


def test_what_is_allowed_is_exactly_what_goes_on():
    """Each token by itself: the mask allows it if, and only if, the text with it can still become a match."""
    held = constraint_of(regex="(ab|ac|x{3})")
    for begun, going_on in (
        ("", {"a", "x", "ab", "ac", "xx", "xxx"}),
        ("a", {"b", "c"}),
        ("x", {"x", "xx"}),
        ("ab", set()),
    ):
        state = held.copy()
        for token in BACKEND.encode(begun, add_special_tokens=False).ids:
            state.observe(token)
        scores = np.zeros(VOCAB_SIZE, np.float32)
        state.forbid(scores)
        allowed = {BACKEND.id_to_token(token) for token in np.flatnonzero(scores == 0).tolist()}
        known = {token for token in going_on if BACKEND.token_to_id(token) is not None}
        assert allowed == (known or {"<|im_end|>"}), begun


def test_a_copy_goes_on_alone_and_a_mask_made_elsewhere_is_the_same():
    first = constraint_of(regex="ab*c")
    first.observe(BACKEND.token_to_id("a"))
    second = first.copy()
    second.observe(BACKEND.token_to_id("c"))
    assert second.is_complete
    assert not first.is_complete
    alone, elsewhere = np.zeros((2, VOCAB_SIZE), np.float32)
    first.copy().forbid(alone)
    with prepared([first]):
        pass
    first.forbid(elsewhere)
    np.testing.assert_array_equal(alone, elsewhere)


def test_a_row_whose_tokens_are_all_forbidden_fails_alone():
    held = constraint_of(regex="abc")
    held.observe(BACKEND.token_to_id("x"))  # nobody appends what is forbidden; a fault would
    state = SamplingState(SamplingParams(), [0], constraint=held)
    logits = np.zeros((2, VOCAB_SIZE), np.float32)
    broken, well = Sampler().sample(logits, [state, SamplingState(SamplingParams(), [0])])
    assert isinstance(broken, StepError)
    assert str(broken).startswith("structured_outputs cannot be followed: ")
    assert well.token_id == 0


def test_rows_without_a_form_are_what_they_were():
    logits = np.random.default_rng(0).normal(size=(3, VOCAB_SIZE)).astype(np.float32)
    params = SamplingParams(temperature=0.8, seed=5, logprobs=2)
    held = SamplingState(params, [0], constraint=constraint_of(choice=["abc"]))
    alone = Sampler().sample(logits[:1], [SamplingState(params, [0])])
    beside = Sampler().sample(logits[[0, 1]], [SamplingState(params, [0]), held])
    assert beside[0] == alone[0]
    assert beside[1].token_id in {BACKEND.token_to_id(text) for text in ("a", "ab", "abc")}


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"json": {"type": "strin"}}, "structured_outputs.json: it cannot be followed: Invalid type: strin"),
        ({"json": {"not": {}}}, 'Unimplemented keys: ["not"]'),
        ({"json": {"type": "array", "uniqueItems": True}}, 'Unimplemented keys: ["uniqueItems"]'),
        ({"json": {"$ref": "#/nowhere"}}, "structured_outputs.json: it cannot be followed"),
        ({"json": '{"items":' * 5000 + "{}" + "}" * 5000}, "structured_outputs.json"),
        ({"regex": "(a{1000}){1000}"}, "structured_outputs.regex: it cannot be followed: lexer error"),
        ({"regex": "(a"}, "structured_outputs.regex: it cannot be followed: "),
        ({"grammar": "start: nothing"}, 'unknown name: "nothing"'),
        ({"grammar": "start: " + "(" * 20_000 + '"a"' + ")" * 20_000}, "structured_outputs.grammar"),
        ({"structural_tag": {"structures": [{"begin": "<a>"}], "triggers": ["<b"]}}, "which no trigger begins"),
        ({"structural_tag": {}}, "structured_outputs.structural_tag must have structures"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_one_line(form, message):
    with pytest.raises(RequestError) as refused:
        constraint_of(**form)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
