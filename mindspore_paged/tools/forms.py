"""The forms in which families of models call functions, a row each; a model's is known by its chat template."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class CallForm:
    """How calls stand in an answer.

    begin, end: what stands before and behind a call, or "" for nothing. around: between these and the call.
    style: `object`, a call as `{"name": …, key: {…}}`; `list`, all of them in one list; `named`, the name, then `key`,
        then the arguments alone.
    several: whether an answer may hold more than one.
    shown_by: texts of which the chat template has all; none for a form that the template knows nothing of, so that
        tools and calls are put into the messages instead. not_by: texts of which it has none.
    short_ids: the template wants ids of 9 letters and digits (Mistral's).
    """

    name: str
    begin: str = ""
    end: str = ""
    around: str = ""
    key: str = "arguments"
    style: Literal["object", "list", "named"] = "object"
    several: bool = True
    shown_by: tuple[str, ...] = ()
    not_by: tuple[str, ...] = ()
    short_ids: bool = False

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts that may be special tokens, and then have to be seen."""
        named = (self.key,) if self.style == "named" else ()
        return tuple(text for text in (self.begin, self.end, *named) if text)


GENERIC = CallForm("generic", begin="<tool_call>", end="</tool_call>", around="\n")
"""For templates that show no form of their own."""

FORMS = (
    CallForm("mistral, by name", begin="[TOOL_CALLS]", key="[ARGS]", style="named", shown_by=("[TOOL_CALLS]", "[ARGS]"),
             short_ids=True),
    CallForm("mistral", begin="[TOOL_CALLS]", style="list", shown_by=("[TOOL_CALLS]",), short_ids=True),
    CallForm("hermes", begin="<tool_call>", end="</tool_call>", around="\n", shown_by=("<tool_call>",),
             not_by=("<function=", "<arg_key>")),
    CallForm("granite", begin="<|tool_call|>", style="list", shown_by=("<|tool_call|>",)),
    CallForm("llama 3", key="parameters", several=False, shown_by=('"parameters": ', "<|start_header_id|>", "tools")),
)  # fmt: skip
"""In the order in which a template is looked at."""


def form_of(template: str) -> CallForm:
    """The form that a chat template shows, GENERIC where it shows none of FORMS."""
    for form in FORMS:
        if all(text in template for text in form.shown_by) and not any(text in template for text in form.not_by):
            return form
    return GENERIC


@dataclass(frozen=True)
class ThoughtForm:
    """What a model writes before and behind its thoughts."""

    begin: str
    end: str


THOUGHT_FORMS = (ThoughtForm("<think>", "</think>"), ThoughtForm("[THINK]", "[/THINK]"))


def thought_form_of(template: str) -> ThoughtForm | None:
    """The form that a chat template shows; None where it shows none."""
    return next((form for form in THOUGHT_FORMS if form.end in template), None)
