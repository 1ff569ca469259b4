"""Grammars that hold an answer to calls of given functions, in llguidance's Lark.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mindspore_paged.errors import RequestError
from mindspore_paged.sampling.structured_outputs import JSON_STYLE, StructuredOutputs
from mindspore_paged.tools.forms import CallForm, ThoughtForm
from mindspore_paged.tools.functions import Function
from mindspore_paged.wording import one_line


@dataclass(frozen=True)
class CallGrammar:
    """What the grammar of an answer depends on.

    form: of calls. tokens: ids of the tokens that stand for no text in a grammar, by their texts; other marks are text.
    thoughts: in their form, may come first; thoughts_opened: must, as the prompt begins them.
    """

    form: CallForm
    tokens: Mapping[str, int]
    thoughts: ThoughtForm | None = None
    thoughts_opened: bool = False

    def forced(self, functions: Sequence[Function], parallel: bool) -> str:
        """The answer is calls of `functions` and nothing else: one, or with `parallel` one or more."""
        return self._lark("calls", self._calls(functions, parallel))

    def free(self, functions: Sequence[Function], parallel: bool) -> str | None:
        """Text in which what begins as a call goes on as one of `functions`; None where nothing marks a beginning.

        parallel: more than one call may come.
        """
        form = self.form
        if not form.begin:
            return None
        count = "*" if parallel and form.style != "list" else "?"
        rest = self._one_call(functions, parallel)
        if form.begin in self.tokens:
            lines = [f"free: TEXT (call TEXT){count}", f"call: {self._mark(form.begin)} {rest}"]
        else:
            begun = f"begun[lazy]: TEXT {self._mark(form.begin)}"
            lines = [f"free: (begun {rest}){count} TEXT", begun]
        return self._lark("free", [*lines, *self._functions(functions)])

    def formed(self, answer: str, functions: Sequence[Function] = (), parallel: bool = True) -> str:
        """The answer is of a form of its own, which `answer_rule` gives, or calls of `functions`, which need a mark."""
        if not functions:
            return self._lark("formed", [f"formed: {answer}"])
        return self._lark("(calls | formed)", [f"formed: {answer}", *self._calls(functions, parallel)])

    def _lark(self, answer: str, lines: list[str]) -> str:
        return "\n".join(["%llguidance {}", *self._start(answer), r"TEXT: /(.|\n)*/", *lines, ""])

    def _start(self, answer: str) -> list[str]:
        if self.thoughts is None:
            return [f"start: {answer}"]
        end = self._mark(self.thoughts.end)
        lines = [f"thought: TEXT {end}" if self.thoughts.end in self.tokens else f"thought[lazy]: TEXT {end}"]
        lines.append(r"SPACE: /[ \n]{0,4}/")
        if self.thoughts_opened:
            return [f"start: thought SPACE {answer}", *lines]
        return [f"start: ({self._mark(self.thoughts.begin)} thought SPACE)? {answer}", *lines]

    def _calls(self, functions: Sequence[Function], parallel: bool) -> list[str]:
        form = self.form
        begin = f"{self._mark(form.begin)} " if form.begin else ""
        lines = [f"call: {begin}{self._one_call(functions, parallel)}"]
        between = _text(form.around) if form.around else ""
        many = parallel and form.several and form.style != "list"
        lines.append(f"calls: call ({between} call)*" if many else "calls: call")
        return [*lines, *self._functions(functions)]

    def _one_call(self, functions: Sequence[Function], parallel: bool) -> str:
        """A call, or a list of them, behind the mark of its beginning."""
        form = self.form
        if form.style == "list":
            more = '(", " function)*' if parallel else ""
            return f'" "? "[" function {more} "]"'
        around = _text(form.around) if form.around else ""
        return f"{around} function {around} {self._mark(form.end) if form.end else ''}"

    def _functions(self, functions: Sequence[Function]) -> list[str]:
        lines = [f"function: {' | '.join(f'function_{index}' for index in range(len(functions)))}"]
        for index, function in enumerate(functions):
            if self.form.style == "named":
                body = f"{_text(function.name)} {self._mark(self.form.key)} arguments_{index}"
            else:
                before = f'{{"name": "{function.name}", "{self.form.key}": '
                body = f'{_text(before)} arguments_{index} "}}"'
            lines.append(f"function_{index}: {body}")
            lines.append(f"arguments_{index}: {_arguments(function)}")
        return lines

    def _mark(self, text: str) -> str:
        return f"<[{self.tokens[text]}]>" if text in self.tokens else _text(text)


def followed(functions: Sequence[Function], forced: bool) -> list[Function]:
    """The functions with parameters that a grammar can follow.

    What a grammar cannot follow of JSON Schema is passed over, but for strict functions. Where none can be made at all,
    and the function is neither strict nor must be called, its arguments are held to be an object and no more.
    Raises RequestError for the others.
    """
    from llguidance import LLMatcher  # only now: whoever calls no tools does not load it

    each = []
    for function in functions:
        problem = LLMatcher.validate_grammar(f"start: {_arguments(function)}")
        if problem and (forced or function.strict):
            why = one_line(problem.split("failed to compile JSON schema: ")[-1].split("\n   1 |")[0])
            raise RequestError(f"tools: no calls can be held to the parameters of {function.name!r}: {why}")
        each.append(replace(function, parameters={"type": "object"}) if problem else function)
    return each


def answer_rule(form: StructuredOutputs) -> str | None:
    """What a grammar says of an answer that is held to a JSON Schema, to JSON, or to choices; None for other forms."""
    if form.json is not None or form.json_object:
        schema = json.loads(form.json) if form.json is not None else {"type": "object"}
        options = JSON_STYLE | schema.pop("x-guidance", {})
        return f"%json {json.dumps(schema | {'x-guidance': options})}"
    return " | ".join(map(_text, form.choice)) if form.choice else None


def _text(text: str) -> str:
    return json.dumps(text)


def _arguments(function: Function) -> str:
    options = JSON_STYLE if function.strict else JSON_STYLE | {"lenient": True}
    return f"%json {json.dumps(function.arguments_schema() | {'x-guidance': options})}"
