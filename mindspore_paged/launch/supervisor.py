"""The process that watches over a job: the one that msrun starts as MindSpore's scheduler, and waits for.

MindSpore's own scheduler runs in a child of it. Workers connect over TCP; a broken connection is a dead worker, and
what workers say goes to the Judge. At a verdict every worker is told, and all processes of the job end.
"""

import math
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from typing import NoReturn

from mindspore_paged.errors import PagedError
from mindspore_paged.launch import interruption, processes
from mindspore_paged.launch.judgement import Judge, Limits, Verdict
from mindspore_paged.launch.messages import Lines, ProtocolError, encode
from mindspore_paged.launch.ports import check_port
from mindspore_paged.launch.worker import (
    CONTROL_PORT_VARIABLE,
    JOB_VARIABLE,
    control_port,
    job_size,
    scheduler_host,
    start_limit,
)

TICK_SECONDS = 0.1
_LOOK_AROUND_SECONDS = 1.0
_FAREWELL_SECONDS = 2.0
_INTERRUPTION_SECONDS = 2.5
_TIME_TO_END = "a signal ends this job within {} s"

_DIE_WITH_PARENT = "import ctypes; ctypes.CDLL(None).prctl(1, 9)\n"  # PR_SET_PDEATHSIG, SIGKILL
_MINDSPORE_SCHEDULER = "from mindspore.communication import init; init()"


def run_scheduler(scheduler_code: str = _MINDSPORE_SCHEDULER, limits: Limits | None = None) -> NoReturn:
    """Be the job's supervisor, with MindSpore's scheduler as a child, until the job ends; then exit.

    Exit code 0 if every worker said goodbye, else that of the verdict, after its one line was printed.
    scheduler_code: the Python text that the child runs.
    """
    parent = os.getppid()
    scheduler_port = os.environ.get("MS_SCHED_PORT", "")
    try:
        if CONTROL_PORT_VARIABLE not in os.environ:  # else the launcher has seen to it
            check_port(scheduler_host(), control_port() - 1)
        supervisor = Supervisor(job_size(), scheduler_host(), control_port(), limits or Limits(start=start_limit()))
    except (PagedError, OSError) as error:
        verdict = Verdict(f"error: the job's supervisor cannot start: {error}", 1)
        print(verdict.error, flush=True)
    else:
        for number in interruption.SIGNALS:
            signal.signal(number, supervisor.interrupt)
        # A fresh process rather than a fork: the user's script may have started threads before it imported us.
        scheduler = subprocess.Popen([sys.executable, "-c", _DIE_WITH_PARENT + scheduler_code])
        try:
            verdict = supervisor.watch(scheduler, parent if processes.parent_waits() else None, scheduler_port)
            supervisor.announce(verdict)
        finally:
            scheduler.kill()
    if verdict.error:
        # Whoever could not be told: workers that are stopped, or that never found us.
        for worker in processes.workers_of(parent, scheduler_port) or ():
            processes.kill(worker)
    if verdict.exit_code > 128 and JOB_VARIABLE in os.environ:
        processes.kill(parent)  # msrun looks once a second, and ends slowly; the launcher knows why it has gone
    os._exit(verdict.exit_code)


class _Peer:
    """One connection; its rank is known from its first message on."""

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self.lines = Lines()
        self.rank: int | None = None
        self.lookups: set[str] = set()
        self.interrupted = False
        self.seconds: float | None = None  # that it has asked for, to end by itself after a signal

    def send(self, **fields) -> None:
        try:
            self.connection.sendall(encode(**fields))
        except OSError:  # it has gone, or reads nothing: reading from it will tell
            return


class Supervisor:
    """Talks with the workers of a job: hears what they do for the Judge, and keeps their board of names.

    Raises OSError if the port cannot be listened on.
    """

    def __init__(self, size: int, host: str, port: int, limits: Limits):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, port), family=family, backlog=size)
        except OSError as error:
            reason = f"{os.strerror(error.errno)}; give another port, or end the program that has it"
            raise OSError(f"it cannot listen on {host}:{port}: {reason}") from None
        self._size = size
        self._judge = Judge(size, time.monotonic(), limits)
        self._board: dict[str, str] = {}
        self._interrupted_by: int | None = None
        self._interruption_ends = 0.0
        self._words = ""
        self._enders: list[_Peer] = []  # those that end by themselves, in a time that they have asked for
        self._peers: set[_Peer] = set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._listener.getsockname()[1]

    def watch(self, scheduler: subprocess.Popen, parent: int | None, scheduler_port: str) -> Verdict:
        """Serve the workers until there is a verdict; `parent`: the msrun that this process must not outlive."""
        looked_around = 0.0
        while True:
            self._serve(TICK_SECONDS)
            now = time.monotonic()
            verdict = self._judge.verdict(now) if self._interrupted_by is None else self._interruption(now)
            if verdict is not None:
                return verdict
            if parent is not None and os.getppid() != parent:
                return Verdict("error: msrun has ended before its workers", 1)
            if scheduler.poll() and self._interrupted_by is None:
                return Verdict(f"error: MindSpore's scheduler ended with exit code {scheduler.returncode}", 1)
            if now - looked_around > _LOOK_AROUND_SECONDS:
                looked_around = now
                workers = processes.workers_of(os.getppid(), scheduler_port)
                self._judge.local_workers(workers is None or bool(workers), now)

    def interrupt(self, number: int, _frame: object = None) -> None:
        """End the job by a signal: workers may save what is finished, and say so, before they are ended.

        Where some have asked for time they alone are told: the others work for them, and end with them.
        """
        if self._interrupted_by is None:
            self._enders = [peer for peer in self._peers if peer.seconds is not None]
            seconds = max((peer.seconds for peer in self._enders), default=_INTERRUPTION_SECONDS)
            self._interrupted_by, self._interruption_ends = number, time.monotonic() + seconds

    def _interruption(self, now: float) -> Verdict | None:
        number, workers = self._interrupted_by, [peer for peer in self._peers if peer.rank is not None]
        if self._enders and (verdict := self._judge.verdict(now)) is not None:
            return verdict
        if workers and now < self._interruption_ends:
            for peer in [peer for peer in self._enders if peer in self._peers] if self._enders else workers:
                if not peer.interrupted:
                    peer.interrupted = True
                    peer.send(interrupt=number)
            return None
        return Verdict(interruption.line(number, self._words), interruption.exit_code(number))

    def announce(self, verdict: Verdict) -> None:
        """Print an error, tell every worker, and wait until they have gone, or for three seconds."""
        if verdict.error is None:
            return
        print(verdict.error, flush=True)
        for peer in self._peers:
            peer.send(end=verdict.error, exit_code=verdict.exit_code)
        deadline = time.monotonic() + _FAREWELL_SECONDS
        while self._peers and time.monotonic() < deadline:
            self._serve(TICK_SECONDS)

    def _serve(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                self._accept()
            else:
                self._read(key.data)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # whoever it was has gone again
            return
        connection.settimeout(1.0)
        peer = _Peer(connection)
        self._peers.add(peer)
        self._selector.register(connection, selectors.EVENT_READ, peer)

    def _read(self, peer: _Peer) -> None:
        try:
            data = peer.connection.recv(1 << 16)
        except TimeoutError:
            return
        except OSError:
            data = b""
        try:
            for message in peer.lines.feed(data):
                self._hear(peer, message)
        except (ProtocolError, KeyError, TypeError, ValueError):  # a stranger; a worker that we drop will be missed
            data = b""
        if not data:
            self._drop(peer)

    def _drop(self, peer: _Peer) -> None:
        self._selector.unregister(peer.connection)
        self._peers.remove(peer)
        peer.connection.close()
        if peer.rank is not None:
            self._judge.closed(peer.rank, time.monotonic())

    def _hear(self, peer: _Peer, message: dict) -> None:
        now = time.monotonic()
        if peer.rank is None:
            self._welcome(peer, int(message["rank"]), int(message["size"]), now)
        elif "error" in message:
            self._judge.failed(peer.rank, str(message["error"]), int(message["exit_code"]), now)
            peer.send(heard=True)
        elif "interrupt" in message:
            self.interrupt(signal.Signals(message["interrupt"]))
        elif "words" in message:
            self._words = self._words or str(message["words"])
        elif "seconds" in message:
            peer.seconds = float(message["seconds"])
            print(_TIME_TO_END.format(math.ceil(peer.seconds)), flush=True)  # for the launcher, which would not wait
        elif "goodbye" in message:
            self._judge.said_goodbye(peer.rank, bool(message["exiting"]), now)
        elif "group" in message:
            self._judge.joined(peer.rank, [int(rank) for rank in message["group"]])
        elif "publish" in message:
            self._publish(str(message["publish"]), str(message["value"]))
        elif "lookup" in message:
            peer.lookups.add(str(message["lookup"]))
            self._answer(peer)
        else:
            self._judge.heard(peer.rank, int(message["step"]), str(message["state"]), now)

    def _welcome(self, peer: _Peer, rank: int, size: int, now: float) -> None:
        if size != self._size or not 0 <= rank < size or self._judge.has_connected(rank):
            reason = f"it is rank {rank} of {size}, and the job of {self._size} has no such rank, or has it already"
            peer.send(refused=reason)
            raise ProtocolError(reason)
        peer.rank = rank
        self._judge.connected(rank, now)
        peer.send(welcome=True)

    def _publish(self, name: str, value: str) -> None:
        self._board[name] = value
        for peer in self._peers:
            self._answer(peer)

    def _answer(self, peer: _Peer) -> None:
        for name in peer.lookups & self._board.keys():
            peer.lookups.remove(name)
            peer.send(found=name, value=self._board[name])
