"""Renders chat templates in a process that is ended where they take too much; see `template_process`."""

import atexit
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import jinja2
import markupsafe

from mindspore_paged.errors import RequestError
from mindspore_paged.tokenizer import template_process
from mindspore_paged.wording import one_line

SECONDS = 1.0
BYTES = 2**28
CHARACTERS = 2**22
"""What a template may take for messages of no length: CPU time, memory, and text that it makes of them.

Each byte of the messages, as JSON, adds a microsecond, 64 bytes and 4 characters: ten times what templates take.
"""


class TooMuchError(RequestError):
    """A template went beyond a bound, and would do so again."""


_LIBRARIES = [str(Path(library.__file__).parents[1]) for library in (jinja2, markupsafe)]


class _Renderer:
    """One process for all templates of this one, started when the first is rendered."""

    def __init__(self):
        self._lock = Lock()
        self._process: subprocess.Popen | None = None
        self._owner = 0
        atexit.register(self.close)

    def render(self, source: str, variables: dict[str, Any]) -> str:
        """What the template `source` makes of `variables`; raises RequestError with its own words or its bound."""
        try:
            given = json.dumps(variables)
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"they hold what JSON cannot say: {one_line(error)}") from None
        bounds = {
            "seconds": SECONDS + 1e-6 * len(given),
            "bytes": BYTES + 64 * len(given),
            "characters": CHARACTERS + 4 * len(given),
        }
        line = f'{{"source": {json.dumps(source)}, "variables": {given}, {json.dumps(bounds)[1:]}\n'.encode("ascii")
        with self._lock:
            reused = self._process is not None and self._owner == os.getpid()
            answer = self._ask(line)
            if answer is None and reused and self._exit_code() != -signal.SIGPROF:
                answer = self._ask(line)  # it may have ended before it was asked
            if answer is None:
                raise TooMuchError(self._why(bounds["seconds"]))
        if "bound" in answer:
            raise TooMuchError(answer["bound"])
        if "refusal" in answer:
            raise RequestError(one_line(answer["refusal"]))
        return answer["text"]

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
            with suppress(OSError):  # what was not sent yet is not wanted any more
                self._process.stdin.close()
            self._process.stdout.close()
        self._process = None

    def _ask(self, line: bytes) -> dict[str, str] | None:
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self._start()
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        except BaseException:
            self.close()  # interrupted: its answer would be taken for that to the next
            raise
        return json.loads(answer) if answer.endswith(b"\n") else None

    def _start(self) -> None:
        self.close()
        # Without the user's environment and start-up files, which take longer to read than all the rest.
        command = [sys.executable, "-I", "-S", template_process.__file__, *_LIBRARIES]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise RequestError(f"no process can be started to render them: {error.strerror}") from None
        self._owner = os.getpid()

    def _exit_code(self) -> int:
        return self._process.wait()

    def _why(self, seconds: float) -> str:
        code = self._exit_code()
        if code == -signal.SIGPROF:
            return f"it takes more than {seconds:.1f} s"
        return f"it ended the process that rendered them (exit code {code})"


_RENDERER = _Renderer()


def render(source: str, variables: dict[str, Any]) -> str:
    """What the template `source` makes of `variables`; raises RequestError, which says in one line why it cannot."""
    return _RENDERER.render(source, variables)
