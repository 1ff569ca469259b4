"""What a response consists of: messages, calls of functions and thoughts, as items and as events while they come."""

import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mindspore_paged.serving.chat_requests import new_call_id
from mindspore_paged.serving.schemas.responses import (
    FunctionCallItem,
    OutputItem,
    OutputMessage,
    OutputText,
    ReasoningItem,
    ReasoningText,
)
from mindspore_paged.tools.pieces import Block, Piece, add_piece

_PREFIXES = {"content": "msg", "reasoning": "rs", "call": "fc"}


class ResponseItems:
    """The items of one response, in OpenAI's form; there is a message at least, if without text.

    make_event: gives the event of a kind with these keys.
    """

    def __init__(self, make_event: Callable[..., str]):
        self._event = make_event
        self._blocks: list[Block] = []
        self._ids: list[str] = []
        self._call_ids: list[str] = []

    def add(self, pieces: Iterable[Piece]) -> Iterator[str]:
        """Go on by these; gives the events that tell of them."""
        for piece in pieces:
            if add_piece(self._blocks, piece):
                yield from self._begun()
            if piece.text and piece.kind != "name":
                yield self._delta(piece)

    def finish(self, pieces: Iterable[Piece], status: str) -> Iterator[str]:
        """Go on by the last; the last item ends with that status."""
        yield from self.add(pieces)
        if not self._blocks:
            yield from self.add([Piece("content", "")])
        yield from self._ended(len(self._blocks) - 1, status)

    def items(self, status: str) -> list[OutputItem]:
        """All of them; status: of the last."""
        last = len(self._blocks) - 1
        return [self._item(index, status if index == last else "completed") for index in range(last + 1)]

    def _begun(self) -> Iterator[str]:
        index, kind = len(self._blocks) - 1, self._blocks[-1].kind
        if index:
            yield from self._ended(index - 1, "completed")
        self._ids.append(f"{_PREFIXES[kind]}_{uuid.uuid4().hex}")
        self._call_ids.append(new_call_id())
        item = self._item(index, "in_progress", begins=True)
        yield self._event("response.output_item.added", output_index=index, item=item.model_dump())
        if kind != "call":
            part = self._part(Block(kind, ""))
            yield self._event("response.content_part.added", self._place(index), part=part.model_dump())

    def _delta(self, piece: Piece) -> str:
        place = self._place(len(self._blocks) - 1)
        if piece.kind == "content":
            return self._event("response.output_text.delta", place, delta=piece.text, logprobs=[])
        if piece.kind == "reasoning":
            return self._event("response.reasoning_text.delta", place, delta=piece.text)
        return self._event("response.function_call_arguments.delta", place, delta=piece.text)

    def _ended(self, index: int, status: str) -> Iterator[str]:
        block, place = self._blocks[index], self._place(index)
        if block.kind == "content":
            yield self._event("response.output_text.done", place, text=block.text, logprobs=[])
        elif block.kind == "reasoning":
            yield self._event("response.reasoning_text.done", place, text=block.text)
        else:
            yield self._event(
                "response.function_call_arguments.done", place, name=block.name, arguments=block.text
            )  # fmt: skip
        if block.kind != "call":
            yield self._event("response.content_part.done", place, part=self._part(block).model_dump())
        item = self._item(index, status).model_dump()
        yield self._event("response.output_item.done", output_index=index, item=item)

    def _place(self, index: int) -> dict[str, Any]:
        place = {"item_id": self._ids[index], "output_index": index}
        return place if self._blocks[index].kind == "call" else place | {"content_index": 0}

    def _item(self, index: int, status: str, begins: bool = False) -> OutputItem:
        block, common = self._blocks[index], {"id": self._ids[index], "status": status}
        if block.kind == "call":
            arguments = "" if begins else block.text
            return FunctionCallItem(**common, call_id=self._call_ids[index], name=block.name, arguments=arguments)
        kind = OutputMessage if block.kind == "content" else ReasoningItem
        return kind(**common, content=[] if begins else [self._part(block)])

    @staticmethod
    def _part(block: Block) -> OutputText | ReasoningText:
        return OutputText(text=block.text) if block.kind == "content" else ReasoningText(text=block.text)
