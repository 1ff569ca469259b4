"""An answer's text taken apart, as it comes: thoughts, content, calls of functions."""

from mindspore_paged.tools.call_parser import CallParser
from mindspore_paged.tools.pieces import Piece
from mindspore_paged.tools.reasoning import ReasoningParser


class AnswerParser:
    """Thoughts first, then calls among content; either parser may be None for answers that have none of it."""

    def __init__(self, reasoning: ReasoningParser | None, calls: CallParser | None):
        self._reasoning = reasoning
        self._calls = calls

    def feed(self, text: str) -> list[Piece]:
        """Take some text; returns the pieces that are now known."""
        thoughts, rest = self._reasoning.feed(text) if self._reasoning else ("", text)
        return [*_piece("reasoning", thoughts), *(self._calls.feed(rest) if self._calls else _piece("content", rest))]

    def finish(self) -> list[Piece]:
        """Returns what was held back, as no more comes."""
        thoughts, rest = self._reasoning.finish() if self._reasoning else ("", "")
        pieces = [*_piece("reasoning", thoughts)]
        if self._calls is None:
            return [*pieces, *_piece("content", rest)]
        return [*pieces, *self._calls.feed(rest), *self._calls.finish()]


def _piece(kind: str, text: str) -> list[Piece]:
    return [Piece(kind, text)] if text else []
