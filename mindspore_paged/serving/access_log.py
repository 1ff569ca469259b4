"""The access log: a line of JSON for each HTTP request, without prompts, answers or keys."""

import json
import logging
import sys
from datetime import datetime, timezone

from mindspore_paged.serving.request_record import RequestRecord

LONGEST_PATH = 256

log = logging.getLogger("mindspore_paged.access")


def write_access_line(record: RequestRecord) -> None:
    """Log a request that has ended; tokens are those of all the prompts and texts that it asked for."""
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


def log_to_stdout() -> None:
    """Let the log's lines go to standard output as they are, and nowhere else."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(logging.INFO)
