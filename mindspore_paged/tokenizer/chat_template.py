"""Chat templates: the Jinja text that a model ships to turn messages into a prompt."""

import json
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mindspore_paged.errors import CheckpointError, RequestError


class ChatTemplate:
    """One chat template, compiled in a sandbox with the helpers that Hugging Face's templates expect.

    source: the Jinja text. special_tokens: what `bos_token`, `eos_token`, … stand for inside it.
    Raises CheckpointError where the text is no valid template.
    """

    def __init__(self, source: str, special_tokens: dict[str, str]):
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise CheckpointError(f"the model's chat template is not valid: {error}") from error
        self.source = source
        self.special_tokens = special_tokens

    def render(self, messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        """The prompt for `messages`; raises RequestError for messages that the template cannot take.

        messages: dicts with `role` and `content`, both text, oldest first.
        add_generation_prompt: end with the words that open the assistant's answer.
        """
        _check_messages(messages)
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self.special_tokens,
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise RequestError(f"messages: the model's chat template refused them: {error}") from error


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}`, which marks the assistant's words for training: only its body counts."""

    tags = frozenset({"generation"})

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _check_messages(messages: list[dict[str, Any]]):
    if not isinstance(messages, list) or not messages:
        raise RequestError(f"messages is {messages!r}; it must be a list of at least one message")
    for index, message in enumerate(messages):
        for key in ("role", "content"):
            if not isinstance(message, dict) or not isinstance(message.get(key), str):
                raise RequestError(f"messages[{index}] is {message!r}; it must have a text called {key!r}")


def _to_json(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    # Jinja's own filter escapes <, > and & for HTML, which a prompt must not have.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str):
    raise jinja2.TemplateError(message)
