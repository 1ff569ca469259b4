"""A moment by which what is awaited must have come: one timer for all the waits of a request."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

Awaited = TypeVar("Awaited")


class Deadline:
    """Bounds the waits in its context, whichever task waits; one at a time.

    at: by the event loop's clock; None is never. A scope for each wait, as asyncio.timeout and anyio.fail_after are,
    takes longer than all else that is done for a token.
    """

    def __init__(self, at: float | None):
        self._at = at
        self._timer: asyncio.TimerHandle | None = None
        self._passed = False
        self._task: asyncio.Task | None = None  # the one that waits now

    def __enter__(self) -> "Deadline":
        if self._at is not None:
            self._timer = asyncio.get_running_loop().call_at(self._at, self._pass)
        return self

    def __exit__(self, *_) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def wait(self, awaited: Awaitable[Awaited]) -> Awaited:
        """What `awaited` gives; raises asyncio.TimeoutError, and cancels it, where that has not come in time."""
        self._task = asyncio.current_task()
        if self._passed:
            self._task.cancel()  # at the next await, which is the one below
        try:
            return await awaited
        except asyncio.CancelledError:
            if self._passed and _was_the_only_one(self._task):
                raise asyncio.TimeoutError from None
            raise
        finally:
            self._task = None

    def _pass(self) -> None:
        self._passed = True
        if self._task is not None:
            self._task.cancel()


def _was_the_only_one(task: asyncio.Task) -> bool:
    """Take our cancellation back; whether nobody else has cancelled the task meanwhile (Python 3.10 cannot tell)."""
    return not hasattr(task, "uncancel") or task.uncancel() == 0
