"""Grammars take calls that are as the functions say, token by token, and no others; and parsers read what they take."""

import json

import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken

from mindspore_paged.errors import RequestError
from mindspore_paged.sampling.structured_outputs import StructuredOutputs
from mindspore_paged.tools.call_parser import CallParser
from mindspore_paged.tools.forms import FORMS, GENERIC, THOUGHT_FORMS
from mindspore_paged.tools.functions import Function
from mindspore_paged.tools.grammar import CallGrammar, answer_rule, followed
from mindspore_paged.tools.pieces import Parts
from tests.tokenizer.families import byte_level

BY_NAME = {form.name: form for form in (*FORMS, GENERIC)}
MARKED = [name for name, form in BY_NAME.items() if form.begin]
MARKS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|tool_call|>")
HOME_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "kind": {"enum": ["cat", "dog", 3]},
        "ages": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
        "home": {"$ref": "#/$defs/home"},
    },
    "required": ["name", "home"],
    "$defs": {"home": HOME_SCHEMA},
}
FUNCTIONS = [Function("add", PERSON), Function("now"), Function("add_all", {"type": "object"})]
HOME = {"name": "A b", "home": {"city": "Köln"}}
GOOD = [
    ("add", HOME),
    ("add", {"name": '"}]', "kind": 3, "ages": [1, -2], "home": {"city": ""}}),
    ("now", {}),
    ("add_all", {"anything": [{"goes": None}]}),
]
BAD = [
    ("add", {"name": "A"}),  # what is required
    ("add", {"name": 5, "home": {"city": "x"}}),  # types
    ("add", HOME | {"extra": 1}),  # closed
    ("add", {"name": "A", "kind": "cow", "home": {"city": ""}}),  # enum
    ("add", {"name": "A", "ages": [1, 2, 3], "home": {"city": ""}}),  # arrays
    ("add", {"name": "A", "home": {}}),  # within, by reference
    ("now", {"a": 1}),
    ("remove", {}),
    ("add_all", []),
]


class Vocabulary:
    """A tokenizer whose marks are tokens, or text."""

    def __init__(self, marks_are_tokens):
        self.backend = byte_level("qwen2")
        added = [AddedToken(text, normalized=False) for text in MARKS]
        if marks_are_tokens:
            self.backend.add_special_tokens(added)
        end = self.backend.token_to_id("<|im_end|>")
        self.matching = LLTokenizer(self.backend.to_str(), eos_token=end)
        names = [*(MARKS if marks_are_tokens else ()), "<think>", "</think>"]
        self.tokens = {text: self.backend.token_to_id(text) for text in names}

    def accepts(self, grammar, text):
        """Whether the whole text is taken, and may end there."""
        matcher = LLMatcher(self.matching, grammar, log_level=0)
        assert not matcher.get_error()
        tokens = self.backend.encode(text, add_special_tokens=False).ids
        return all(matcher.consume_token(token) for token in tokens) and matcher.is_accepting()


VOCABULARIES = {tokens: Vocabulary(tokens) for tokens in (True, False)}


def grammar_of(form, marks_are_tokens, **options):
    return CallGrammar(BY_NAME[form], VOCABULARIES[marks_are_tokens].tokens, **options)


def written(form, calls):
    form = BY_NAME[form]
    if form.style == "named":
        return "".join(f"{form.begin}{name}{form.key}{dumped(arguments)}" for name, arguments in calls)
    objects = [dumped({"name": name, form.key: arguments}) for name, arguments in calls]
    if form.style == "list":
        return f"{form.begin}[{', '.join(objects)}]"
    return "\n".join(f"{form.begin}{form.around}{one}{form.around}{form.end}" for one in objects)


def dumped(value):
    return json.dumps(value, ensure_ascii=False)


def read(form, text):
    parser = CallParser(BY_NAME[form], [function.name for function in FUNCTIONS], eager=True)
    parts = Parts().add(parser.feed(text)).add(parser.finish())
    return [(name, json.loads(arguments)) for name, arguments in parts.calls], parts.content


@pytest.mark.parametrize("marks_are_tokens", [True, False])
@pytest.mark.parametrize("form", BY_NAME)
class TestForced:
    def test_calls_as_the_functions_say_are_taken(self, form, marks_are_tokens):
        grammar = grammar_of(form, marks_are_tokens).forced(FUNCTIONS, parallel=True)
        for call in GOOD:
            assert VOCABULARIES[marks_are_tokens].accepts(grammar, written(form, [call]))
            assert read(form, written(form, [call])) == ([call], "")

    @pytest.mark.parametrize("call", BAD, ids=str)
    def test_other_calls_are_not(self, form, marks_are_tokens, call):
        grammar = grammar_of(form, marks_are_tokens).forced(FUNCTIONS, parallel=True)
        assert not VOCABULARIES[marks_are_tokens].accepts(grammar, written(form, [call]))

    def test_text_is_not(self, form, marks_are_tokens):
        grammar = grammar_of(form, marks_are_tokens).forced(FUNCTIONS, parallel=True)
        one = written(form, GOOD[:1])
        for text in ("", "Hello", f"Hello {one}", f"{one} Bye", one[:-1]):
            assert not VOCABULARIES[marks_are_tokens].accepts(grammar, text)

    def test_several_calls_where_they_may_be(self, form, marks_are_tokens):
        text = written(form, GOOD)
        for parallel in (True, False):
            grammar = grammar_of(form, marks_are_tokens).forced(FUNCTIONS, parallel)
            allowed = parallel and BY_NAME[form].several
            assert VOCABULARIES[marks_are_tokens].accepts(grammar, text) == allowed
            assert VOCABULARIES[marks_are_tokens].accepts(grammar, written(form, GOOD[:1]))

    def test_one_function_alone(self, form, marks_are_tokens):
        grammar = grammar_of(form, marks_are_tokens).forced(FUNCTIONS[1:2], parallel=False)
        assert VOCABULARIES[marks_are_tokens].accepts(grammar, written(form, [("now", {})]))
        assert not VOCABULARIES[marks_are_tokens].accepts(grammar, written(form, GOOD[:1]))

    @pytest.mark.parametrize("opened", [True, False])
    def test_thoughts_come_first(self, form, marks_are_tokens, opened):
        options = {"thoughts": THOUGHT_FORMS[0], "thoughts_opened": opened}
        grammar = grammar_of(form, marks_are_tokens, **options).forced(FUNCTIONS, parallel=False)
        accepts = VOCABULARIES[marks_are_tokens].accepts
        call, thought = written(form, GOOD[:1]), '\nCall {"name"?\n</think>\n\n'
        assert accepts(grammar, ("" if opened else "<think>") + thought + call)
        assert accepts(grammar, call) == (not opened)
        assert not accepts(grammar, thought)
        assert not accepts(grammar, ("" if opened else "<think>") + thought + "Hello")


@pytest.mark.parametrize("marks_are_tokens", [True, False])
@pytest.mark.parametrize("form", MARKED)
class TestFree:
    def test_text_with_and_without_calls(self, form, marks_are_tokens):
        grammar = grammar_of(form, marks_are_tokens).free(FUNCTIONS, parallel=True)
        accepts = VOCABULARIES[marks_are_tokens].accepts
        for text in ("", 'Hello {"name": 5}\nthere', f"Hello\n{written(form, GOOD)}", written(form, GOOD[1:])):
            assert accepts(grammar, text)
        if BY_NAME[form].end:
            assert accepts(grammar, f"Hello\n{written(form, GOOD[:1])}\nBye")

    def test_what_begins_as_a_call_is_one(self, form, marks_are_tokens):
        grammar = grammar_of(form, marks_are_tokens).free(FUNCTIONS, parallel=True)
        for call in BAD:
            assert not VOCABULARIES[marks_are_tokens].accepts(grammar, f"Hello\n{written(form, [call])}")

    def test_thoughts_come_first(self, form, marks_are_tokens):
        grammar = grammar_of(form, marks_are_tokens, thoughts=THOUGHT_FORMS[0]).free(FUNCTIONS, parallel=True)
        accepts = VOCABULARIES[marks_are_tokens].accepts
        for text in ("Hello", "<think>\nHm.\n</think>\n\nHello", f"<think>Hm</think>\n{written(form, GOOD[:1])}"):
            assert accepts(grammar, text)
        assert not accepts(grammar, f"<think>Hm</think>\n{written(form, BAD[:1])}")


@pytest.mark.parametrize("marks_are_tokens", [True, False])
@pytest.mark.parametrize("form", MARKED)
@pytest.mark.parametrize(
    ("own", "good", "bad"),
    [
        ({"json": HOME_SCHEMA}, '{"city": "Köln"}', '{"town": "Köln"}'),
        ({"json": json.dumps(HOME_SCHEMA)}, '{"city": ""}', "Hello"),
        ({"json_object": True}, '{"town": [1]}', "[1]"),
        ({"choice": ["yes", 'n"o']}, 'n"o', "maybe"),
    ],
)
def test_a_form_of_the_clients_own_or_calls(form, marks_are_tokens, own, good, bad):
    accepts = VOCABULARIES[marks_are_tokens].accepts
    answer = answer_rule(StructuredOutputs(**own))
    grammar = grammar_of(form, marks_are_tokens, thoughts=THOUGHT_FORMS[0]).formed(answer, FUNCTIONS)
    call = written(form, GOOD[:1])
    for text in (good, f"<think>Hm</think>\n{good}", call, f"<think>Hm</think>\n{call}"):
        assert accepts(grammar, text)
    for text in (bad, f"<think>Hm</think>\n{bad}", "", f"{good}{call}"):
        assert not accepts(grammar, text)
    assert not accepts(grammar, written(form, BAD[:1]))
    alone = grammar_of(form, marks_are_tokens, thoughts=THOUGHT_FORMS[0], thoughts_opened=True).formed(answer)
    assert accepts(alone, f"Hm</think>\n{good}")
    assert not accepts(alone, good)
    assert not accepts(alone, f"Hm</think>\n{bad}")


@pytest.mark.parametrize("own", [{"regex": "a+"}, {"grammar": "start: /a/"}])
def test_forms_that_calls_do_not_stand_beside(own):
    assert answer_rule(StructuredOutputs(**own)) is None


def test_no_grammar_is_made_where_nothing_marks_a_call():
    assert grammar_of("llama 3", True).free(FUNCTIONS, parallel=True) is None


@pytest.mark.parametrize(
    ("parameters", "strict", "message"),
    [
        ({"type": "object", "properties": {"a": {"type": "foo"}}}, False, "Invalid type: foo"),
        ({"type": "object", "properties": {"a": {"$ref": "#/nope"}}}, False, "Pointer '/nope' does not exist"),
        ({"type": "object", "properties": {"a": {"pattern": "(?=a)b"}}}, False, "regex parse error"),
        ({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}, True, "Unimplemented keys"),
        ({"type": "object", "properties": {"\ud800": {}}}, False, "hex escape"),
    ],
)
def test_parameters_that_no_grammar_can_be_made_of(parameters, strict, message):
    with pytest.raises(RequestError, match="^tools: no calls can be held to the parameters of 'f'") as caught:
        followed([Function("g"), Function("f", parameters, strict)], forced=True)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    if strict:
        with pytest.raises(RequestError, match="'f'"):
            followed([Function("f", parameters, strict)], forced=False)
    else:
        anything = Function("f", {"type": "object"})
        assert followed([Function("g"), Function("f", parameters)], forced=False) == [Function("g"), anything]


def test_what_a_grammar_cannot_follow_is_passed_over_where_it_need_not():
    function = Function("f", {"type": "object", "properties": {"a": {"not": {"type": "string"}}}})
    assert followed([function], forced=True) == [function]
