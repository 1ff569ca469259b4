"""Chat templates: the Jinja text that a model ships to turn messages into a prompt."""

import itertools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import nodes

from mindspore_paged.errors import CheckpointError, RequestError
from mindspore_paged.tokenizer.bounded_rendering import TooMuchError, render
from mindspore_paged.tokenizer.messages import checked_messages, checked_tools
from mindspore_paged.tokenizer.template_process import make_environment
from mindspore_paged.wording import one_line, shortened

log = logging.getLogger("mindspore_paged")

MAX_SOURCE = 2**16
"""Characters of a template; the longest that models ship have some 30,000."""

MAX_DEPTH = 200
"""Expressions and blocks within each other; Python compiles no more than some hundreds."""

_WITH_TOOLS = ("tool_use", "default")
"""Names of templates for chats with tools, the best first."""

_OURS = ("messages", "tools", "add_generation_prompt", "continue_final_message")

_END = "END-OF-THE-FINAL-MESSAGE "
_NEEDLE = "NEEDLE"


class ChatTemplate:
    """The chat template of a model, rendered in a sandbox with bounds on time and memory.

    source: the Jinja text, or several by name, of which `tool_use` is for chats with tools and `default` for others.
    special_tokens: what `bos_token`, `eos_token`, … stand for inside it.
    Raises CheckpointError where a text is no valid template.
    """

    def __init__(self, source: str | Mapping[str, str], special_tokens: dict[str, str]):
        by_name = {"default": source} if isinstance(source, str) else dict(source)
        self._templates = {name: _Template(text, special_tokens) for name, text in by_name.items()}
        self.source = source
        self.special_tokens = special_tokens
        self._has_warned = False  # once is enough: a server has many chats

    @property
    def text_with_tools(self) -> str:
        """The Jinja text for chats with tools."""
        return next((self._templates[name].source for name in _WITH_TOOLS if name in self._templates), "")

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        add_generation_prompt: bool | None = None,
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for `messages`; raises RequestError for messages that the template cannot take.

        messages: as OpenAI's API writes them, oldest first.
        add_generation_prompt: end with the words that open the assistant's answer; by default, unless
        continue_final_message: the answer goes on where the last message ends.
        tools: functions that the model may call, as OpenAI's API writes them.
        chat_template_kwargs: what else the template asks for, such as enable_thinking.
        """
        if add_generation_prompt is None:
            add_generation_prompt = not continue_final_message
        for name, value in (
            ("add_generation_prompt", add_generation_prompt),
            ("continue_final_message", continue_final_message),
        ):
            if not isinstance(value, bool):
                raise RequestError(f"{name} is {shortened(value)}; it must be true or false")
        if add_generation_prompt and continue_final_message:
            raise RequestError("add_generation_prompt is true; it must be false where continue_final_message is true")
        kwargs = _checked_kwargs(chat_template_kwargs)
        messages, tools = checked_messages(messages), checked_tools(tools)
        template = self._chosen(tools)
        if tools and "tools" not in template.names and not self._has_warned:
            self._has_warned = True
            log.warning("tools: the model's chat template has no place for them; the model does not see them")
        messages = template.in_its_forms(messages)
        variables = {"tools": tools, "documents": None} | kwargs | {"add_generation_prompt": add_generation_prompt}
        if continue_final_message:
            return _continued(messages, lambda ending: template.render(ending, variables))
        return template.render(messages, variables)

    def _chosen(self, tools: list | None) -> "_Template":
        for name in _WITH_TOOLS if tools else ("default",):
            if name in self._templates:
                return self._templates[name]
        raise RequestError(f"messages: of the model's chat templates {sorted(self._templates)} none is called default")


def _checked_kwargs(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    if kwargs is None:
        return {}
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise RequestError(f"chat_template_kwargs is {shortened(kwargs)}; it must be a mapping of names to values")
    for name in _OURS:
        if name in kwargs:
            raise RequestError(f"chat_template_kwargs holds {name}; give it beside them")
    return dict(kwargs)


def _continued(messages: list[dict[str, Any]], render_messages: Callable[[list], str]) -> str:
    """The prompt up to the end of the last message's text, as transformers cuts it."""
    *before, last = messages
    content = last.get("content")
    if isinstance(content, str):
        text, marked = content, content + _END
    elif content:
        text = content[-1]["text"]
        marked = [*content[:-1], content[-1] | {"text": text + _END}]
    else:
        raise RequestError("continue_final_message: the last message has no text that could be continued")
    prompt = render_messages([*before, last | {"content": marked}])
    end = prompt.rfind(_END.strip())
    if end < 0 or text.strip() not in prompt:
        raise RequestError("continue_final_message: the model's chat template changes the text of the last message")
    kept = prompt[:end]
    # A template that strips the text has stripped the marker's space too.
    return kept if prompt.startswith(_END, end) else kept.rstrip()


class _Template:
    """One Jinja text, and the forms of messages that it takes."""

    def __init__(self, source: str, special_tokens: dict[str, str]):
        self.names = _names_in(source)
        self.source = source
        self._special_tokens = special_tokens
        self._answers: dict[tuple, bool] = {}

    def render(self, messages: list[dict[str, Any]], variables: dict[str, Any]) -> str:
        try:
            return render(self.source, self._special_tokens | variables | {"messages": messages})
        except RequestError as error:
            raise type(error)(f"messages: the model's chat template refused them: {error}") from None

    def in_its_forms(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages in the forms that the template takes, where it takes one form of a text or of a call only.

        A template of text alone would print parts as Python writes them, one of parts alone would lose a text. Which
        it is, it shows itself: small chats of each form are rendered.
        """
        return [self._in_its_form(message) for message in messages]

    def _in_its_form(self, message: dict[str, Any]) -> dict[str, Any]:
        role, content = message["role"], message.get("content")
        if isinstance(content, str) and not self._takes(role, "text") and self._takes(role, "parts"):
            message = message | {"content": [{"type": "text", "text": content}]}
        elif isinstance(content, list) and not self._takes(role, "parts"):
            message = message | {"content": "\n".join(part["text"] for part in content)}
        if "tool_calls" in message:
            return self._with_calls_in_its_form(message)
        if content is None and not self._takes(role, "null") and self._takes(role, "empty"):
            message = message | {"content": ""}
        return message

    def _with_calls_in_its_form(self, message: dict[str, Any]) -> dict[str, Any]:
        # Some templates write calls only where there is no text beside them, some refuse what is no text.
        besides = ("null", "empty") if message.get("content") is None else ("hi",)
        for beside, arguments in itertools.product(besides, ("mapping", "text")):
            if self._takes(message["role"], f"{arguments} beside {beside}"):
                break
        else:  # it shows no calls
            beside = "null" if self._takes(message["role"], "null") else "empty"
            arguments = "mapping"
        if message.get("content") is None:
            message = message | {"content": _CONTENTS[beside]}
        if arguments == "text":
            message = message | {"tool_calls": [_with_arguments_as_text(call) for call in message["tool_calls"]]}
        return message

    def _takes(self, role: str, form: str) -> bool:
        if (role, form) not in self._answers:
            self._answers[role, form] = self._shows(role, form)
        return self._answers[role, form]

    def _shows(self, role: str, form: str) -> bool:
        """Whether a message of that form comes out of the template as it should."""
        hi = {"role": "user", "content": "Hi"}
        opens = role in ("system", "developer", "user")
        before = [] if opens else [hi, _a_call({"a": 1}, "")] if role == "tool" else [hi]
        after = [hi] if opens and role != "user" else []
        chat = [*before, _probe(role, form), *after]
        try:
            text = self.render(chat, {"tools": None, "documents": None, "add_generation_prompt": False})
        except TooMuchError:
            raise
        except RequestError:
            return False
        if form in ("null", "empty"):
            return "None" not in text
        if form == "parts":
            # In quotes they stand as Python or JSON writes them.
            return _NEEDLE in text and f"'{_NEEDLE}'" not in text and f'"{_NEEDLE}"' not in text
        # Behind backslashes JSON text stands in JSON.
        return _NEEDLE in text and f'\\"{_NEEDLE}\\"' not in text and ("null" not in form or "None" not in text)


_CONTENTS = {"null": None, "empty": "", "hi": "Hi"}
_CALL_ID = "call00001"  # Mistral's templates want 9 letters and digits


def _probe(role: str, form: str) -> dict[str, Any]:
    """A message of `role` whose text, or call, is the needle."""
    if form in ("text", "parts"):
        content = _NEEDLE if form == "text" else [{"type": "text", "text": _NEEDLE}]
        return {"role": role, "content": content} | ({"tool_call_id": _CALL_ID} if role == "tool" else {})
    if form in _CONTENTS:
        return {"role": role, "content": _CONTENTS[form]}
    kind, _, beside = form.partition(" beside ")
    arguments = {"a": _NEEDLE}
    return _a_call(json.dumps(arguments) if kind == "text" else arguments, _CONTENTS[beside])


def _names_in(source: str) -> set[str]:
    """The variables of a template; raises CheckpointError where it is none that Jinja could compile.

    It is parsed, no more: compiling it would compute whatever is constant in it.
    """
    invalid = "the model's chat template is not valid"
    if len(source) > MAX_SOURCE:
        raise CheckpointError(f"{invalid}: it has {len(source)} characters; at most {MAX_SOURCE} are allowed")
    environment = make_environment()
    try:
        level = [environment.parse(source)]
    except Exception as error:  # noqa: BLE001 - also RecursionError, and ValueError for numbers of many digits
        raise CheckpointError(f"{invalid}: {one_line(error)}") from None
    names = set()
    for _ in range(MAX_DEPTH):
        for node in level:
            known = {nodes.Filter: environment.filters, nodes.Test: environment.tests}.get(type(node))
            if known is not None and node.name not in known:
                kind = type(node).__name__.lower()
                raise CheckpointError(f"{invalid}: line {node.lineno}: there is no {kind} {shortened(node.name)}")
            if isinstance(node, nodes.Name):
                names.add(node.name)
        level = [child for node in level for child in node.iter_child_nodes()]
    if level:
        raise CheckpointError(f"{invalid}: it is nested more than {MAX_DEPTH} deep")
    return names


def _a_call(arguments: Any, content: str | None = "") -> dict[str, Any]:
    function = {"name": "look_up", "arguments": arguments}
    calls = [{"id": _CALL_ID, "type": "function", "function": function}]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def _with_arguments_as_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return call | {"function": function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
