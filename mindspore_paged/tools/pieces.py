"""What an answer is made of, as it comes."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Piece:
    """A piece of an answer's reasoning or content, the name that begins a call, or a piece of that call's arguments."""

    kind: Literal["reasoning", "content", "name", "arguments"]
    text: str


@dataclass
class Block:
    """Pieces that belong together: thoughts, content between calls, or a call with its name and arguments."""

    kind: Literal["reasoning", "content", "call"]
    text: str
    name: str | None = None


def add_piece(blocks: list[Block], piece: Piece) -> bool:
    """Go on with an answer's blocks by a piece; returns whether it begins one."""
    if piece.kind == "name":
        blocks.append(Block("call", "", piece.text))
        return True
    if piece.kind == "arguments" or (blocks and blocks[-1].kind == piece.kind):
        blocks[-1].text += piece.text
        return False
    blocks.append(Block(piece.kind, piece.text))
    return True


@dataclass
class Parts:
    """Pieces put together; calls: names, and arguments as JSON text."""

    reasoning: str = ""
    content: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)

    def add(self, pieces: Iterable[Piece]) -> "Parts":
        """Go on by these; returns itself."""
        for piece in pieces:
            if piece.kind == "name":
                self.calls.append((piece.text, ""))
            elif piece.kind == "arguments":
                name, arguments = self.calls[-1]
                self.calls[-1] = (name, arguments + piece.text)
            elif piece.kind == "content":
                self.content += piece.text
            else:
                self.reasoning += piece.text
        return self
