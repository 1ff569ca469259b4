"""A folder of this process alone, for what MindSpore and the operators of an NPU write beside their work.

MindSpore compiles a wrapper around each operator, into the working directory unless $MS_COMPILER_CACHE_PATH names
another: there a second process would write over it while it is loaded, and a folder that is read only stops the start.
op_host leaves in it why an operator was refused (ascendc/op_host/refusal_line.h).
"""

import atexit
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

WRAPPERS = "MS_COMPILER_CACHE_PATH"
REFUSAL = "MINDSPORE_PAGED_REFUSAL"
PREFIX = "mindspore_paged_"


def use_process_folder() -> Path:
    """Make the folder and name it in this process's environment; returns it, also when that was done before.

    $MS_COMPILER_CACHE_PATH stays if the user set it. What a parent process named there is its own, not its children's.
    Raises OSError where no temporary folder can be made.
    """
    named = os.environ.get(REFUSAL)
    if named is not None and Path(named).parent.name.startswith(_prefix()) and Path(named).parent.is_dir():
        return Path(named).parent
    folder = Path(tempfile.mkdtemp(prefix=_prefix()))
    atexit.register(_remove, folder, os.getpid())
    of_parent = named is not None and os.environ.get(WRAPPERS) == str(_wrappers(Path(named).parent))
    if of_parent or not os.environ.get(WRAPPERS):
        os.environ[WRAPPERS] = str(_wrappers(folder))
    os.environ[REFUSAL] = str(folder / "refusal")
    return folder


def take_refusal() -> str | None:
    """The line in which op_host said last why it refused an operator, once; None where it has not."""
    named = os.environ.get(REFUSAL)
    if named is None:
        return None
    try:
        line = Path(named).read_text(errors="replace").strip()
    except OSError:  # none, or it cannot be read: MindSpore's own report is left
        return None
    with suppress(OSError):
        Path(named).unlink()
    return line or None


def _prefix() -> str:
    return f"{PREFIX}{os.getpid()}_"


def _wrappers(folder: Path) -> Path:
    return folder / "wrappers"


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a forked child's end is not its parent's
        shutil.rmtree(folder, ignore_errors=True)
