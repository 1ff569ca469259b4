"""Calls of functions told apart from the text around them, as the text comes."""

import json
import re
from collections.abc import Collection
from typing import Any

from mindspore_paged.tools.forms import CallForm
from mindspore_paged.tools.functions import NAME
from mindspore_paged.tools.held_text import MAX_HELD, safe_length, trimmed
from mindspore_paged.tools.json_scanner import JsonScanner
from mindspore_paged.tools.pieces import Piece

_HEADER = re.compile(
    rf'\{{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"({NAME})"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{{)'
)
_NAME_HEADER = re.compile(rf"({NAME})\s*(?:\[CALL_ID\]\s*[a-zA-Z0-9_-]{{0,64}}\s*)?(?:\[ARGS\]\s*)?(?=\{{)")
_BEGINNINGS = ('{"name":"', '{"type":"function","name":"')
_PYTHON_TAG = "<|python_tag|>"
_SPACE = " \t\r\n"

LONGEST_HEADER = 256
"""Characters before a call's arguments; behind that many it is none, or one that is read when it is whole."""


class CallParser:
    """Reads the calls in one answer; what is none, broken JSON and unknown names included, is content.

    White space around calls, and what their form puts around them, is left out; all else comes out as it came in, and
    it makes no difference in which pieces.

    form: that of the calls. names: the functions that may be called; other names are no calls.
    eager: arguments come piece by piece, as the text is held to be a call by a grammar; otherwise a call comes when it
        is whole and its JSON is right.
    most_calls: further ones are left out.
    """

    def __init__(self, form: CallForm, names: Collection[str], eager: bool = False, most_calls: int | None = None):
        self._form = form
        self._names = frozenset(names)
        self._eager = eager
        self._most_calls = most_calls
        self._num_calls = 0
        self._held = ""  # where a call may have begun: from its beginning on
        self._at = 0  # in _held, what was looked at
        self._mark = 0  # in _held, the end of what made it a beginning
        self._start = 0  # in _held, the object that is read
        self._open_brackets = 0  # that stay open behind the arguments: the call's own object, or none
        self._scanner = JsonScanner()
        self._name: str | None = None
        self._in_list = False
        self._text_since_call = False
        self._pieces: list[Piece] = []
        self._phase = self._text if form.begin else self._bare

    def feed(self, text: str) -> list[Piece]:
        """Take some text; returns what is now known of it."""
        self._held += text
        return self._run(final=False)

    def finish(self) -> list[Piece]:
        """Returns what was held back, as no more comes."""
        return self._run(final=True)

    def _run(self, final: bool) -> list[Piece]:
        self._pieces = []
        while self._phase(final):
            pass
        return self._pieces

    # Phases: each goes on from _held[_at] and says whether it got further, or needs more text.

    def _text(self, final: bool) -> bool:
        """Outside of calls, where their beginning is marked."""
        found = self._held.find(self._form.begin)
        if found >= 0:
            before = trimmed(self._held[:found])
            self._content(len(before))
            self._mark = found - len(before) + len(self._form.begin)
            return self._go(self._opened, self._mark)
        if not final:
            self._content(safe_length(self._held, self._form.begin))
        elif self._text_since_call or not self._num_calls or trimmed(self._held):
            self._content(len(self._held))
        return False

    def _bare(self, final: bool) -> bool:
        """Where a call may begin that nothing marks."""
        text = self._held[self._at :]
        inside = text.lstrip(_SPACE + ";" if self._num_calls else _SPACE)
        if inside.startswith(_PYTHON_TAG):
            inside = inside[len(_PYTHON_TAG) :].lstrip(_SPACE)
        if len(text) - len(inside) > LONGEST_HEADER:
            return self._go(self._plain)
        compact = "".join(inside[:LONGEST_HEADER].split())
        if any(compact.startswith(beginning) for beginning in _BEGINNINGS):
            return self._go(self._object, self._at + len(text) - len(inside))
        open_end = any(beginning.startswith(compact) for beginning in (*_BEGINNINGS, _PYTHON_TAG))
        if not open_end or len(text) > LONGEST_HEADER:
            return self._go(self._plain)
        if final and (compact or not self._num_calls):
            self._content(len(self._held))
        return False

    def _plain(self, final: bool) -> bool:
        """Behind text in front of which a call would have had to stand."""
        self._content(len(self._held))
        return False

    def _opened(self, final: bool) -> bool:
        """Behind the mark of a beginning."""
        at = self._behind_space(self._at)
        if at - self._at > MAX_HELD:
            return self._broken()
        if at == len(self._held):
            return self._needs_more(final)
        if self._held[at] == "[" and not self._in_list:
            self._in_list = True
            return self._go(self._opened, at + 1)
        if self._held[at] == "{":
            return self._go(self._object, at)
        if self._form.style == "named" and not self._in_list:
            return self._go(self._named, at)
        return self._broken()

    def _named(self, final: bool) -> bool:
        """Before a name that stands alone."""
        header = _NAME_HEADER.match(self._held, self._at, self._at + LONGEST_HEADER)
        if header is None and len(self._held) - self._at < LONGEST_HEADER:
            return self._needs_more(final)
        if header is None or header[1] not in self._names:
            return self._broken()
        self._name = header[1]
        if self._eager:
            return self._begin_arguments(header.end(), open_brackets=0)
        return self._go(self._object, header.end())

    def _object(self, final: bool) -> bool:
        """In an object that is read when it is whole."""
        if self._at == self._start:
            self._scanner = JsonScanner()
        header = None if self._name else _HEADER.match(self._held, self._start, self._start + LONGEST_HEADER)
        if header is not None and header[1] not in self._names:
            return self._broken()
        if header is not None and self._eager:
            self._name = header[1]
            return self._begin_arguments(header.end(), open_brackets=1)
        self._at, whole = self._scanner.advance(self._held, self._at, 0)
        if not whole:
            return self._needs_more(final)
        arguments = self._arguments_in(self._held[self._start : self._at])
        if arguments is None:
            return self._broken(self._at)
        self._begin_call()
        self._argument(arguments)
        return self._go(self._behind)

    def _arguments(self, final: bool) -> bool:
        """In arguments that are passed on as they come."""
        at, whole = self._scanner.advance(self._held, 0, self._open_brackets)
        self._argument(self._held[:at])
        self._held, self._at = self._held[at:], 0
        if not whole:
            return False
        return self._go(self._closing if self._open_brackets else self._behind)

    def _closing(self, final: bool) -> bool:
        """Behind arguments that were passed on, before the end of their object."""
        self._at, whole = self._scanner.advance(self._held, self._at, 0)
        return whole and self._go(self._behind)

    def _behind(self, final: bool) -> bool:
        """Behind a call."""
        if self._in_list:
            self._held, self._at = self._held[self._behind_space(self._at) :], 0
            if not self._held:
                return False
            if self._held[0] == ",":
                self._mark = 1
                return self._go(self._opened, 1)
            self._in_list = False
            if self._held[0] == "]":
                self._at = 1
        if not self._form.begin:
            self._held = self._held[self._at :]
            return self._go(self._bare, 0)
        return self._go(self._ending)

    def _ending(self, final: bool) -> bool:
        """Before the mark of an end, which may be missing."""
        at, end = self._behind_space(self._at), self._form.end
        if end and at - self._at <= MAX_HELD:
            if self._held.startswith(end, at):
                self._at = at + len(end)
            elif end.startswith(self._held[at:]) and not final:
                return False
        self._held = self._held[self._at :]
        return self._go(self._text, 0)

    def _go(self, phase: Any, at: int | None = None) -> bool:
        """Go on with that phase at that place."""
        if at is not None:
            self._at = at
        if phase == self._object:
            self._start = self._at
        if phase in (self._text, self._bare, self._opened):
            self._name = None
        self._phase = phase
        return True

    def _needs_more(self, final: bool) -> bool:
        if final:  # a call that breaks off
            self._content(len(self._held))
        return False

    def _broken(self, end: int | None = None) -> bool:
        """It is no call: content up to there, or at least the mark that it begins with."""
        self._in_list = False
        if not self._form.begin:
            return self._go(self._plain)
        self._content(self._mark if end is None else end)
        return self._go(self._text, 0)

    def _begin_arguments(self, at: int, open_brackets: int) -> bool:
        self._begin_call()
        self._held, self._open_brackets = self._held[at:], open_brackets
        self._scanner = JsonScanner(open_brackets)
        return self._go(self._arguments, 0)

    def _begin_call(self) -> None:
        self._num_calls += 1
        self._text_since_call = False
        if self._is_wanted:
            self._pieces.append(Piece("name", self._name))

    def _argument(self, text: str) -> None:
        if text and self._is_wanted:
            self._pieces.append(Piece("arguments", text))

    @property
    def _is_wanted(self) -> bool:
        return self._most_calls is None or self._num_calls <= self._most_calls

    def _content(self, length: int) -> None:
        """Pass on so much of what is held."""
        if length:
            self._pieces.append(Piece("content", self._held[:length]))
            self._held, self._at, self._text_since_call = self._held[length:], 0, True

    def _behind_space(self, at: int) -> int:
        while at < len(self._held) and self._held[at] in _SPACE:
            at += 1
        return at

    def _arguments_in(self, text: str) -> str | None:
        """The arguments of a whole call, and its name in _name; None where it is none."""
        value = _json_object(text)
        if value is None or self._name:
            return text if value is not None else None
        name = value.get("name")
        if not isinstance(name, str) or name not in self._names:
            return None
        self._name = name
        header = _HEADER.match(text)
        if header is not None:
            _, end = json.JSONDecoder().raw_decode(text, header.end())
            return text[header.end() : end]
        arguments = value.get("arguments", value.get("parameters", {}))
        if isinstance(arguments, str):
            arguments = _json_object(arguments)
        return json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else None


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
