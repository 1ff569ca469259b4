"""What an answer must be, as a request says it; names as in vLLM."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mindspore_paged.errors import RequestError
from mindspore_paged.wording import is_unicode, shortened

LONGEST_SPECIFICATION = 128 * 1024
"""Characters of a schema or grammar: compiling takes time and memory by its length."""

MAX_CHOICES = 1024

JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""llguidance's options for JSON as json.dumps writes it, which models are used to.

White space anywhere would let an answer go on for ever.
"""


@dataclass(frozen=True)
class StructuredOutputs:
    """The form that an answer is held to, by exactly one of these; raises RequestError for another number of them.

    Mappings and lists may be given as JSON text. What they say is compiled where the model's tokenizer is known.

    json: a JSON Schema, of which the answer is an instance.
    json_object: whether the answer is a JSON object of any kind.
    regex: a regular expression that matches the whole answer.
    choice: texts of which the answer is one.
    grammar: a context-free grammar in llguidance's Lark, whose `start` the whole answer is.
    structural_tag: `{"structures": [{"begin", "schema", "end"}], "triggers": […]}`: free text in which what a trigger
        begins goes on as one of the structures.
    """

    json: str | None = None
    json_object: bool = False
    regex: str | None = None
    choice: tuple[str, ...] | None = None
    grammar: str | None = None
    structural_tag: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "json_object", self._flag())
        for name in ("json", "structural_tag"):
            object.__setattr__(self, name, _json_text(f"structured_outputs.{name}", getattr(self, name)))
        for name in ("regex", "grammar"):
            _check_text(f"structured_outputs.{name}", getattr(self, name))
        if self.choice is not None:
            object.__setattr__(self, "choice", _choices(self.choice))
        given = [name for name in KEYS if getattr(self, name)]
        if len(given) != 1:
            which = " and ".join(given) or "none"
            raise RequestError(f"structured_outputs has {which}; it must have exactly one of {', '.join(KEYS)}")

    @property
    def kind(self) -> str:
        """Which of the keys it is given by."""
        return next(name for name in KEYS if getattr(self, name))

    def _flag(self) -> bool:
        if self.json_object is None or isinstance(self.json_object, bool):
            return bool(self.json_object)
        raise RequestError(f"structured_outputs.json_object is {shortened(self.json_object)}; it must be true or false")


KEYS = tuple(field.name for field in fields(StructuredOutputs))


def structured_outputs(given: Any) -> StructuredOutputs | None:
    """What a mapping of the keys of StructuredOutputs says, or one of these as it is; None for None.

    Raises RequestError for unknown keys, and as StructuredOutputs does.
    """
    if given is None or isinstance(given, StructuredOutputs):
        return given
    if not isinstance(given, Mapping):
        raise RequestError(f"structured_outputs is {shortened(given)}; it must be a mapping of {', '.join(KEYS)}")
    for key in given:
        if key not in KEYS:
            raise RequestError(f"structured_outputs has the key {shortened(key)}; allowed: {', '.join(KEYS)}")
    return StructuredOutputs(**given)


def _json_text(name: str, value: Any) -> str | None:
    """JSON text of a mapping; a text as it is, if that is what it is JSON of."""
    if value is None:
        return None
    if isinstance(value, str):
        _check_text(name, value)
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            raise RequestError(f"{name} is {shortened(value)}; it must be a mapping, or JSON text of one") from None
        if isinstance(parsed, dict):
            return value
    elif isinstance(value, Mapping):
        try:
            text = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise RequestError(f"{name} holds what JSON has not; it must be a mapping of JSON's values") from None
        _check_text(name, text)
        return text
    raise RequestError(f"{name} is {shortened(value)}; it must be a mapping, or JSON text of one")


def _check_text(name: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, str) or not value or not is_unicode(value):
        raise RequestError(f"{name} is {shortened(value)}; it must be text")
    if len(value) > LONGEST_SPECIFICATION:
        raise RequestError(f"{name} has {len(value)} characters; it must have {LONGEST_SPECIFICATION} at most")


def _choices(value: Any) -> tuple[str, ...]:
    name = "structured_outputs.choice"
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_CHOICES:
        raise RequestError(f"{name} is {shortened(value)}; it must be a list of 1 to {MAX_CHOICES} texts")
    for choice in value:
        _check_text(name, choice)
    if sum(map(len, value)) > LONGEST_SPECIFICATION:
        raise RequestError(f"{name} has texts of more than {LONGEST_SPECIFICATION} characters together")
    return tuple(value)
