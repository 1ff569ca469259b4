"""A server in a process of its own, for as long as something is asked of it."""

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from mindspore_paged.errors import ConfigError

_EXIT_SECONDS = 40.0
_POLL_SECONDS = 0.1


class ServerProcess:
    """Runs while it is used as a context, from when it is ready.

    command: its program and arguments. base_url: where it will listen. log: a file for all that it prints. ready: the
    path that answers 200 when it serves. seconds: how long it may take to. environment: variables besides this
    process's. Raises ConfigError, with its last line, if it ends before it serves or does not serve in time.
    """

    def __init__(
        self,
        command: Sequence[str],
        base_url: str,
        log: Path,
        ready: str = "/health",
        seconds: float = 180.0,
        environment: Mapping[str, str] | None = None,
    ):
        self.base_url = base_url
        self.log = log
        self.exit_code: int | None = None
        self._command = [str(word) for word in command]
        self._ready = f"{base_url}{ready}"
        self._seconds = seconds
        self._environment = os.environ | dict(environment or {})

    def __enter__(self) -> "ServerProcess":
        self.start()
        with ExitStack() as stack:
            stack.callback(self.stop)
            self.wait_until_ready()
            stack.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def start(self) -> None:
        """Start it without waiting for it, as several at once are; whoever does has to stop it."""
        with open(self.log, "w", encoding="utf-8") as file:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=self._environment
            )

    @property
    def pid(self) -> int:
        """Of the process that serves: a keeper's child, or the one that was started."""
        started = self.process.pid
        children = Path(f"/proc/{started}/task/{started}/children").read_text(encoding="ascii").split()
        return int(children[0]) if children else started

    def stop(self) -> int:
        """End it by SIGTERM, which lets a server drain; returns its exit code, that of a kill if it does not end."""
        if self.exit_code is None:
            self.process.terminate()
            try:
                self.exit_code = self.process.wait(_EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.exit_code = self.process.wait()
        return self.exit_code

    def wait_until_ready(self) -> None:
        """Return when it serves."""
        deadline = time.monotonic() + self._seconds
        while not self._is_ready():
            if self.process.poll() is not None:
                raise ConfigError(f"{self._command[0]} ended with {self.process.returncode}: {self._last_line()}")
            if time.monotonic() > deadline:
                raise ConfigError(f"{self._ready} does not answer within {self._seconds:g} s: {self._last_line()}")
            time.sleep(_POLL_SECONDS)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(self._ready, timeout=5) as response:
                return response.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def _last_line(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
