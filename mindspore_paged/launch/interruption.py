"""The end by a signal, in the process that does a script's work: ordered by the overseer, who prints the line.

The overseer is the process that stands over this one: a keeper (`keeper.py`), or the job's supervisor under msrun. It
hears of the signal whatever this process does: MindSpore compiles for seconds without letting another thread of Python
run, and has by then put a handler of its own in SIGINT's place, which sends its process SIGTERM.

    signal -> overseer -> `interrupt` in a thread here -> last words -> overseer
                       -> this process killed, if it has not ended within GRACE_SECONDS

A script that has to bring something to its end first, as a server has its clients' requests, says so with
`ends_by_itself`: it is asked to end instead, and has as long as it said that it needs.

No exception is raised in the main thread: MindSpore would make another of it, or lose it, and write files about it.
Nothing here does anything in a process where no script has called `begin`.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from mindspore_paged.files import remove_unfinished

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 3.5

_pass_on: Callable[[int], None] | None = None
_tell: Callable[[str], None] | None = None
_ask_for_time: Callable[[float], None] | None = None
_last_words: Callable[[], str] | None = None
_ask_to_end: Callable[[], None] | None = None
_interrupted = False
_speaking = threading.Lock()


def begin(pass_on: Callable[[int], None], tell: Callable[[str], None], ask_for_time: Callable[[float], None]) -> None:
    """Let this process end by its overseer's word; for the main thread of a script.

    pass_on: tells the overseer the number of a signal that came to this process. tell: gives it the last words.
    ask_for_time: tells it how many seconds the end may take from now on.
    """
    global _pass_on, _tell, _ask_for_time
    _pass_on, _tell, _ask_for_time = pass_on, tell, ask_for_time
    for number in SIGNALS:
        signal.signal(number, lambda number, _frame: pass_on(number))


def exit_code(number: int) -> int:
    """What a process that a signal ended ends with, as shells have it."""
    return 128 + number


def line(number: int, words: str = "") -> str:
    """What a user is told about such an end."""
    name = f"interrupted by {signal.Signals(number).name}"
    return f"{name}: {words}" if words else name


@contextmanager
def last_words(say: Callable[[], str]) -> Iterator[None]:
    """Call `say` if the process is interrupted in this block: it saves what is finished, and returns what to tell.

    `say` runs in another thread, while the block goes on; the block does not end before it.
    """
    global _last_words
    _last_words = say
    try:
        yield
    finally:
        with _speaking:
            _last_words = None


@contextmanager
def ends_by_itself(ask_to_end: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call `ask_to_end` if the process is interrupted in this block, which then ends within so many seconds.

    `ask_to_end` runs in another thread and returns at once; the script ends as it does by itself, with an exit code of
    its own. The second signal ends it at once.
    """
    global _ask_to_end
    _ask_to_end = ask_to_end
    if _ask_for_time is not None:
        _ask_for_time(seconds)
    try:
        yield
    finally:
        _ask_to_end = None


def interrupt(number: int) -> None:
    """End this process: with its last words at the first call, at once at the second; for any thread but the main."""
    global _interrupted
    if _pass_on is None:
        return
    if _interrupted:
        _end(number)
    _interrupted = True
    threading.Thread(target=_speak_and_end, args=(number,), name="interruption", daemon=True).start()


def _speak_and_end(number: int) -> None:
    with _speaking:
        if _ask_to_end is not None:
            _ask_to_end()
            return
        if _last_words is not None:
            try:
                words = _last_words()
            except OSError as error:  # a full disk
                words = str(error)
            _tell(words)
        _end(number)


def _end(number: int) -> None:
    remove_unfinished()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(exit_code(number))
