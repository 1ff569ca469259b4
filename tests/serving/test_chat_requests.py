"""What a chat with tools asks of the sampler, and what reads its answers."""

import asyncio
from types import SimpleNamespace

import pytest

from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.sampling.structured_outputs import StructuredOutputs
from mindspore_paged.serving.chat_requests import prepare_chat
from mindspore_paged.serving.errors import ApiError
from mindspore_paged.tools.answer_forms import AnswerForms, CallRules
from mindspore_paged.tools.functions import Function
from mindspore_paged.tools.pieces import Piece
from tests.tokenizer.family_templates import QWEN3
from tests.tools.test_answer_forms import FUNCTIONS, tokenizer_of

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
FORCED, FREE = CallRules(FUNCTIONS, forced=True), CallRules(FUNCTIONS)


class StubService:
    """Encodes and prepares without an engine."""

    def __init__(self, tokenizer):
        self.answer_forms = AnswerForms(tokenizer)
        self._tokenizer = tokenizer

    async def encoded_chat(self, chat, param):
        return self._tokenizer.encode_chat(chat["messages"])

    async def prepare(self, prompts, params, **options):
        (prompt,) = prompts
        token_ids = prompt.get("prompt_token_ids") or await self.encoded_chat(prompt, "messages")
        return [SimpleNamespace(prompt_token_ids=token_ids, params=params)]


def prepared(family, rules, template=None, **params):
    service = StubService(tokenizer_of(family, template))
    request, make_parser = asyncio.run(prepare_chat(service, CHAT, SamplingParams(**params), rules))
    return request.params, make_parser(), service.answer_forms


@pytest.mark.parametrize("rules", [FORCED, FREE])
@pytest.mark.parametrize("family", ["qwen3", "mistral", "gemma"])
def test_an_answer_is_held_to_the_functions_and_read_as_it_comes(family, rules):
    params, parser, forms = prepared(family, rules)
    assert params.structured_outputs == StructuredOutputs(grammar=forms.grammar(rules, thoughts_opened=False))
    assert params.skip_special_tokens == (family != "mistral")
    begun = '[TOOL_CALLS][{"name": "f", "arguments": {' if family == "mistral" else (
        '<tool_call>\n{"name": "f", "arguments": {'
    )  # fmt: skip
    assert parser.feed(begun) == [Piece("name", "f"), Piece("arguments", "{")]


def test_where_nothing_marks_a_call_it_is_read_when_it_is_whole():
    params, parser, _ = prepared("llama 3.1", FREE)
    assert params.structured_outputs is None
    assert parser.feed('{"name": "f", "parameters": {') == []
    assert [piece.kind for piece in parser.feed('"a": 1}}')] == ["name", "arguments"]


def test_thoughts_that_the_prompt_begins_are_part_of_what_is_allowed():
    opening = QWEN3 + "{{- '<think>\\n' }}"
    params, parser, forms = prepared("qwen3", FORCED, opening)
    assert params.structured_outputs == StructuredOutputs(grammar=forms.grammar(FORCED, thoughts_opened=True))
    assert parser.feed("Hm.") == [Piece("reasoning", "Hm.")]
    _, parser, _ = prepared("qwen3", None, opening)
    assert parser.feed("Hm.") == [Piece("reasoning", "Hm.")]


@pytest.mark.parametrize("rules", [None, FREE])
def test_thoughts_and_calls_stand_beside_a_form_of_the_clients_own(rules):
    own = StructuredOutputs(json={"type": "integer"})
    params, parser, forms = prepared("qwen3", rules, structured_outputs=own)
    assert params.structured_outputs == StructuredOutputs(
        grammar=forms.grammar(rules, thoughts_opened=False, own_form=own)
    )
    assert parser.feed("<think>Hm.</think>5") == [Piece("reasoning", "Hm."), Piece("content", "5")]
    params, _, forms = prepared("llama 3.1", FREE, structured_outputs=own)
    assert params.structured_outputs == StructuredOutputs(
        grammar=forms.grammar(None, thoughts_opened=False, own_form=own)
    )
    params, parser, _ = prepared("gemma", None, structured_outputs=own)
    assert (params.structured_outputs, parser) == (own, None)


def test_an_answer_that_the_client_holds_to_a_form_of_its_own_is_content():
    own = StructuredOutputs(regex="a+")
    opening = QWEN3 + "{{- '<think>\\n' }}"
    for rules in (None, FREE):
        params, parser, _ = prepared("qwen3", rules, opening, structured_outputs=own)
        assert params.structured_outputs == own
        assert parser is None
    params, _, forms = prepared("qwen3", FORCED, structured_outputs=own)
    assert params.structured_outputs == StructuredOutputs(grammar=forms.grammar(FORCED, thoughts_opened=False))


def test_a_chat_without_tools_and_thoughts_asks_for_nothing():
    params, parser, _ = prepared("gemma", None)
    assert params == SamplingParams()
    assert parser is None


def test_parameters_that_cannot_be_followed_are_the_clients_mistake():
    rules = CallRules((Function("f", {"properties": {"a": {"type": "x"}}}),), forced=True)
    with pytest.raises(ApiError) as caught:
        prepared("qwen3", rules)
    assert (caught.value.status_code, caught.value.param) == (400, "tools")
