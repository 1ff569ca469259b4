"""The keeper: the process that a script is started as, which lets a child do the work and ends it at a signal.

    keeper    waits for signals and for the child, and nothing else; ends as the child ends
    child     runs the script; ends with its keeper, whatever ends that

So an end by SIGINT, SIGTERM or SIGHUP takes at most some seconds, also where the child could not hear of a signal, and
is told in one line. Under msrun the job's supervisor is all that, and there is no keeper.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from mindspore_paged.launch import interruption, processes, supervision
from mindspore_paged.launch.messages import Lines, ProtocolError, encode
from mindspore_paged.launch.worker import current_worker

_SECOND_SIGNAL_SECONDS = 0.3
_LONGEST_NEWS = 4096
_FOR_EVER = 1e9


def kept(main: Callable[[], int | None]) -> int | None:
    """Run a script's `main` so that signals end it within seconds; returns in the process that did the work.

    To be called by a script as its last act: `sys.exit(kept(main))`.
    """
    _open_standard_files()
    if current_worker().supervised:
        supervision.allow_interruptions()
        return main()
    signals = {*interruption.SIGNALS, signal.SIGCHLD}
    ignored = {number for number in interruption.SIGNALS if signal.getsignal(number) == signal.SIG_IGN}
    here, there = socket.socketpair()
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    keeper = os.getpid()
    child = os.fork()
    if child:
        there.close()
        Keeper(child, here, signals, ignored).keep()
    here.close()
    processes.die_with_parent()
    if os.getppid() != keeper:
        os._exit(1)
    interruption.begin(
        lambda number: os.kill(keeper, number),
        lambda words: there.sendall(encode(words=words)),
        lambda seconds: there.sendall(encode(seconds=seconds)),
    )
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    threading.Thread(target=_listen, args=(there,), name="keeper", daemon=True).start()
    return main()


def _listen(keeper: socket.socket) -> None:
    while number := keeper.recv(1):
        interruption.interrupt(number[0])


def _open_standard_files() -> None:
    """Give closed standard files to /dev/null: the next file that is opened would be taken for one of them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, open until the end


class Keeper:
    """Waits for a child, passes the first signal on to it, and ends it at the second or when it takes too long."""

    def __init__(self, child: int, line: socket.socket, signals: set[int], ignored: set[int]):
        self._child = child
        self._line = line
        self._signals = signals
        self._ignored = ignored  # by whoever started us: then Ctrl-C is not meant for us, a signal sent to us is
        self._number: int | None = None
        self._deadline = _FOR_EVER
        self._lines = Lines()
        self._said = {"seconds": interruption.GRACE_SECONDS, "words": ""}

    def keep(self) -> None:
        """End this process as the child ends."""
        processes.adopt_orphans()
        while (status := self._status()) is None:
            self._hear(signal.sigtimedwait(self._signals, max(self._deadline - time.monotonic(), 0.0)))
        code = os.waitstatus_to_exitcode(status)
        if self._number is not None and code != 0:
            processes.kill_children()
            with suppress(OSError):
                os.write(2, f"{interruption.line(self._number, self._last_said('words'))}\n".encode())
            os._exit(interruption.exit_code(self._number))
        if code < 0:
            _die_of(-code)
        os._exit(code)

    def _status(self) -> int | None:
        process, status = os.waitpid(self._child, os.WNOHANG)
        return status if process else None

    def _hear(self, news: signal.struct_siginfo | None) -> None:
        if news is None:
            processes.kill(self._child)
            self._deadline = _FOR_EVER
        elif news.si_signo == signal.SIGCHLD or (news.si_signo in self._ignored and news.si_pid in (0, self._child)):
            return
        elif self._number is None:
            self._number = news.si_signo
            self._tell(self._last_said("seconds"))
        elif news.si_pid != self._child:  # which only hears by itself what we have heard
            self._tell(_SECOND_SIGNAL_SECONDS)

    def _tell(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        with suppress(OSError):
            self._line.send(bytes([self._number]))

    def _last_said(self, what: str) -> str | float:
        """The last that the child said of its words or of the seconds that it needs."""
        with suppress(OSError, ProtocolError):
            while data := self._line.recv(_LONGEST_NEWS, socket.MSG_DONTWAIT):
                for message in self._lines.feed(data):
                    self._said |= message
        return self._said[what]


def _die_of(number: int) -> None:
    """End by the signal that ended the child, so that whoever waits for us sees the same."""
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    os._exit(interruption.exit_code(number))
