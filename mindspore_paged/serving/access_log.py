"""The access log: a line of JSON for each HTTP request, without prompts, answers or keys."""

import json
import logging
from contextlib import suppress
from datetime import datetime, timezone
from queue import Full, Queue
from threading import Thread
from typing import TextIO

from mindspore_paged.serving.request_record import RequestRecord

LONGEST_PATH = 256
MOST_WAITING_LINES = 10_000
FAREWELL_SECONDS = 1.0

log = logging.getLogger("mindspore_paged.access")


def write_access_line(record: RequestRecord) -> None:
    """Log a request that has ended; tokens are those of all the prompts and texts that it asked for."""
    if not log.isEnabledFor(logging.INFO):
        return
    line = {
        "time": datetime.fromtimestamp(record.started_at, timezone.utc).isoformat(timespec="milliseconds"),
        "request_id": record.request_id,
        "method": record.method,
        "path": record.path[:LONGEST_PATH],
        "status": record.status,
        "duration_seconds": round(record.seconds, 6),
    }
    if record.answers:
        line |= {
            "prompt_tokens": sum(answer.num_prompt_tokens for answer in record.answers),
            "cached_tokens": sum(answer.num_cached_tokens for answer in record.answers),
            "output_tokens": sum(answer.num_output_tokens for answer in record.answers),
            "finish_reason": ",".join(dict.fromkeys(r for answer in record.answers for r in answer.finish_reasons)),
        }
    log.info(json.dumps(line))


class AccessLog(logging.Handler):
    """Writes the log's lines to `stream` as they are, from a thread of its own, and nowhere else, until `close`.

    Whoever does not read the stream holds nobody up: lines beyond MOST_WAITING_LINES are dropped.
    """

    def __init__(self, stream: TextIO):
        super().__init__()
        self._stream = stream
        self._lines: Queue[str | None] = Queue(MOST_WAITING_LINES)
        self._thread = Thread(target=self._write, name="access log", daemon=True)
        self._thread.start()
        log.addHandler(self)
        log.propagate = False
        log.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Have a line written."""
        with suppress(Full):
            self._lines.put_nowait(record.getMessage())

    def close(self) -> None:
        """Write what is left, for FAREWELL_SECONDS at most, and leave the log."""
        log.removeHandler(self)
        log.propagate = True
        log.setLevel(logging.NOTSET)
        with suppress(Full):
            self._lines.put_nowait(None)
            self._thread.join(FAREWELL_SECONDS)
        super().close()

    def _write(self) -> None:
        with suppress(OSError, ValueError):  # nobody reads any more
            while (line := self._lines.get()) is not None:
                self._stream.write(line + "\n")
                if self._lines.empty():
                    self._stream.flush()
