"""A model's forms follow from its template and tokens, and what holds and reads its answers from both."""

import json

import pytest
from llguidance import LLMatcher, LLTokenizer

from mindspore_paged.errors import RequestError
from mindspore_paged.tokenizer import Tokenizer
from mindspore_paged.tokenizer.chat_template import ChatTemplate
from mindspore_paged.tools.answer_forms import AnswerForms, CallRules, checked_rules
from mindspore_paged.tools.functions import KEYS, Function
from mindspore_paged.tools.pieces import Parts
from tests.tokenizer.families import byte_level
from tests.tokenizer.family_templates import TEMPLATES

FUNCTIONS = (Function("f", {"properties": {"a": {"type": "integer"}}, "required": ["a"]}), Function("g"))
TOOLS = [
    {"type": "function", "function": {"name": function.name, "parameters": function.parameters}}
    for function in FUNCTIONS
]
TOKENIZERS = {"qwen3": "qwen2", "mistral": "mistral nemo", "llama 3.1": "llama 3", "gemma": "smollm2"}
CALLS = {
    "qwen3": '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
    "mistral": '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}]',
    "llama 3.1": '{"name": "f", "parameters": {"a": 1}}',
    "gemma": '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
}


def tokenizer_of(family, template=None):
    backend = byte_level(TOKENIZERS[family])
    source = template or TEMPLATES[family]
    return Tokenizer(backend, None, (), ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}))


def accepts(tokenizer, grammar, text):
    matcher = LLMatcher(LLTokenizer(tokenizer.backend.to_str(), eos_token=401), grammar, log_level=0)
    assert not matcher.get_error()
    tokens = tokenizer.encode(text, add_special_tokens=False)
    return all(matcher.consume_token(token) for token in tokens) and matcher.is_accepting()


@pytest.mark.parametrize("family", TOKENIZERS)
class TestFamilies:
    def test_what_holds_an_answer_is_read_from_it(self, family):
        tokenizer = tokenizer_of(family)
        forms = AnswerForms(tokenizer)
        rules = CallRules(FUNCTIONS, forced=True)
        grammar = forms.grammar(rules, thoughts_opened=False)
        assert accepts(tokenizer, grammar, CALLS[family])
        assert not accepts(tokenizer, grammar, "Hello")
        assert not accepts(tokenizer, grammar, CALLS[family].replace("1", '"1"'))
        for held in (True, False):
            parser = forms.parser(rules, thoughts_opened=False, held=held)
            parts = Parts().add(parser.feed(CALLS[family])).add(parser.finish())
            assert [(name, json.loads(arguments)) for name, arguments in parts.calls] == [("f", {"a": 1})]

    def test_one_may_be_called_and_text_written(self, family):
        tokenizer = tokenizer_of(family)
        grammar = AnswerForms(tokenizer).grammar(CallRules(FUNCTIONS), thoughts_opened=False)
        if family == "llama 3.1":
            assert grammar is None
        else:
            assert accepts(tokenizer, grammar, "Hello")
            assert accepts(tokenizer, grammar, CALLS[family])
            assert not accepts(tokenizer, grammar, CALLS[family].replace("1", '"1"'))


def test_marks_that_are_special_tokens_must_be_seen():
    rules = CallRules(FUNCTIONS)
    assert AnswerForms(tokenizer_of("mistral")).shows_special_tokens(rules)
    assert not AnswerForms(tokenizer_of("mistral")).shows_special_tokens(None)
    assert not AnswerForms(tokenizer_of("qwen3")).shows_special_tokens(rules)
    assert not AnswerForms(None).shows_special_tokens(None)


@pytest.mark.parametrize("prompt", ["Hi<think>", "Hi<think>\n", "Hi<think>\n\n", "Hi", "Hi<think>\n\n</think>\n\n", ""])
def test_whether_a_prompt_begins_thoughts(prompt):
    tokenizer = tokenizer_of("qwen3")
    opens = AnswerForms(tokenizer).opens_thoughts(tokenizer.encode(prompt))
    assert opens == ("<think>" in prompt and "</think>" not in prompt)


def test_a_model_without_thoughts_or_tools_has_no_parser():
    assert AnswerForms(tokenizer_of("gemma")).parser(None, thoughts_opened=False) is None
    assert AnswerForms(None).parser(None, thoughts_opened=False) is None
    assert not AnswerForms(None).opens_thoughts([1])


def test_rules():
    assert checked_rules(None) is checked_rules([]) is checked_rules(TOOLS, "none") is None
    assert checked_rules(TOOLS, parallel=False) == CallRules(FUNCTIONS, forced=False, parallel=False)
    assert checked_rules(TOOLS, "required") == CallRules(FUNCTIONS, forced=True)
    named = {"type": "function", "function": {"name": "g"}}
    assert checked_rules(TOOLS, named) == CallRules(FUNCTIONS[1:], forced=True, parallel=False)
    allowed = {"mode": "required", "tools": [named, {"type": "function", "function": {"name": "f"}}]}
    assert checked_rules(TOOLS, {"type": "allowed_tools", "allowed_tools": allowed}).forced
    with pytest.raises(RequestError, match=r"^tools\[0\]\.name is missing"):
        checked_rules([{"type": "function", "function": {}}], places={key: key for key in KEYS})
