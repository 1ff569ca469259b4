"""How one model calls functions and thinks, and what follows from it for its answers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mindspore_paged.tokenizer import Tokenizer
from mindspore_paged.tools.answer_parser import AnswerParser
from mindspore_paged.tools.call_parser import CallParser
from mindspore_paged.tools.forms import form_of, thought_form_of
from mindspore_paged.tools.functions import PLACES, Function, ToolChoice, checked_choice, checked_functions
from mindspore_paged.tools.grammar import CallGrammar, answer_rule, followed
from mindspore_paged.tools.reasoning import ReasoningParser

_END_OF_PROMPT = 8
"""Tokens among which a mark stands that the prompt ends with; white space may follow it."""


@dataclass(frozen=True)
class CallRules:
    """The functions that an answer may call; forced: it must, and be nothing else. parallel: more than one call."""

    functions: tuple[Function, ...]
    forced: bool = False
    parallel: bool = True

    @property
    def names(self) -> list[str]:
        """What they are called."""
        return [function.name for function in self.functions]


def checked_rules(
    tools: Sequence[object] | None,
    choice: object = None,
    parallel: bool | None = None,
    places: Mapping[str, str] = PLACES,
) -> CallRules | None:
    """The rules that OpenAI's `tools`, `tool_choice` and `parallel_tool_calls` make; None where nothing may be called.

    places: see `checked_functions`. Raises RequestError for what cannot be used.
    """
    functions = checked_functions(tools, places)
    chosen: ToolChoice = checked_choice(choice, functions)
    if chosen.mode == "none" or not functions:
        return None
    one_named = chosen.mode == "required" and chosen.names is not None and len(chosen.names) == 1
    return CallRules(
        tuple(chosen.allowed(functions)), chosen.mode == "required", parallel is not False and not one_named
    )


class AnswerForms:
    """The forms of one model's answers, by its chat template and its tokens.

    tokenizer: None for a model that takes no chats.
    """

    def __init__(self, tokenizer: Tokenizer | None):
        template = "" if tokenizer is None else tokenizer.template_with_tools
        self.calls = form_of(template)
        self.thoughts = thought_form_of(template)
        self._tokenizer = tokenizer
        self._tokens = {} if tokenizer is None else _marks(tokenizer)

    def opens_thoughts(self, prompt_token_ids: Sequence[int]) -> bool:
        """Whether the prompt ends with the mark that begins thoughts."""
        if self.thoughts is None or self._tokenizer is None:
            return False
        end = self._tokenizer.decode(list(prompt_token_ids[-_END_OF_PROMPT:]), skip_special_tokens=False)
        return end.rstrip().endswith(self.thoughts.begin)

    def shows_special_tokens(self, rules: CallRules | None) -> bool:
        """Whether marks are special tokens, which a text must not leave out then."""
        marks = self.calls.markers if rules else ()
        marks += (self.thoughts.begin, self.thoughts.end) if self.thoughts else ()
        return self._tokenizer is not None and any(mark in self._tokenizer.special_tokens for mark in marks)

    def grammar(self, rules: CallRules | None, thoughts_opened: bool, own_form: Any = None) -> str | None:
        """What holds an answer to the rules, in llguidance's Lark; None where nothing can.

        own_form: `structured_outputs` that the client holds the answer to, where it calls nothing; see `answer_rule`.
        Raises RequestError for parameters that no grammar can be made of.
        """
        grammar = CallGrammar(self.calls, self._tokens, self.thoughts, thoughts_opened)
        if rules is not None:
            functions = followed(rules.functions, rules.forced)
            if rules.forced:
                return grammar.forced(functions, rules.parallel)
            if own_form is None:
                return grammar.free(functions, rules.parallel)
        answer = answer_rule(own_form)
        if answer is None:
            return None
        if rules is None or not self.calls.begin:  # nothing would tell a call from the client's form
            return grammar.formed(answer)
        return grammar.formed(answer, functions, rules.parallel)

    def parser(self, rules: CallRules | None, thoughts_opened: bool, held: bool = False) -> AnswerParser | None:
        """What takes one answer apart; None where it is content and nothing else. held: a grammar holds it."""
        if rules is None and self.thoughts is None:
            return None
        calls = None
        if rules is not None:
            most = None if rules.parallel else 1
            calls = CallParser(self.calls, rules.names, eager=held, most_calls=most)
        return AnswerParser(ReasoningParser(self.thoughts, thoughts_opened) if self.thoughts else None, calls)


def _marks(tokenizer: Tokenizer) -> dict[str, int]:
    """Tokens that llguidance takes for no text: special ones, and added ones in angle brackets."""
    added = tokenizer.backend.get_added_tokens_decoder()
    return {
        token.content: token_id
        for token_id, token in added.items()
        if token.special or re.fullmatch(r"<.*>", token.content, re.DOTALL)
    }
