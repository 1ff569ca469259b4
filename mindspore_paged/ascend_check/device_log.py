"""Where CANN writes what the device said: one folder of plog files, a file for each process."""

import os
from collections.abc import Mapping
from pathlib import Path


def log_files(pid: int, environment: Mapping[str, str] = os.environ) -> str:
    """The log files of a process, with a `*` for what CANN adds: of $ASCEND_PROCESS_LOG_PATH, else of ~/ascend/log."""
    folder = environment.get("ASCEND_PROCESS_LOG_PATH") or Path.home() / "ascend" / "log"
    return str(Path(folder) / "debug" / "plog" / f"plog-{pid}_*.log")
