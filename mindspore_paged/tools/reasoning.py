"""Thoughts told apart from the answer, as the text comes."""

from mindspore_paged.tools.forms import ThoughtForm
from mindspore_paged.tools.held_text import MAX_HELD, safe_length, trimmed


class ReasoningParser:
    """Takes one block of thoughts off the beginning of a text; white space around its marks is left out.

    opened: the prompt ends with the mark that begins them. What pieces the text comes in makes no difference.
    """

    def __init__(self, form: ThoughtForm, opened: bool):
        self._form = form
        self._held = ""
        self._phase = self._first if opened else self._before
        self._reasoning = self._rest = ""

    def feed(self, text: str) -> tuple[str, str]:
        """Take some text; returns thoughts, and text behind them, that are now known to be such."""
        self._held += text
        return self._run(final=False)

    def finish(self) -> tuple[str, str]:
        """Returns what was held back, as no more comes."""
        return self._run(final=True)

    def _run(self, final: bool) -> tuple[str, str]:
        self._reasoning = self._rest = ""
        while self._phase(final):
            pass
        return self._reasoning, self._rest

    def _before(self, final: bool) -> bool:
        stripped = self._held.lstrip()
        if len(self._held) - len(stripped) > MAX_HELD:
            self._phase = self._after
        elif stripped.startswith(self._form.begin):
            self._held, self._phase = stripped[len(self._form.begin) :], self._first
        elif self._form.begin.startswith(stripped) and not final:
            return False
        else:
            self._phase = self._after
        return True

    def _first(self, final: bool) -> bool:
        self._held = self._held.lstrip()
        if self._held:
            self._phase = self._inside
        return bool(self._held)

    def _inside(self, final: bool) -> bool:
        found = self._held.find(self._form.end)
        if found >= 0:
            self._reasoning += trimmed(self._held[:found])
            self._held, self._phase = self._held[found + len(self._form.end) :], self._gap
            return True
        length = len(self._held) if final else safe_length(self._held, self._form.end)
        self._reasoning += self._held[:length]
        self._held = self._held[length:]
        return False

    def _gap(self, final: bool) -> bool:
        self._held = self._held.lstrip()
        if self._held:
            self._phase = self._after
        return bool(self._held)

    def _after(self, final: bool) -> bool:
        self._rest += self._held
        self._held = ""
        return False
