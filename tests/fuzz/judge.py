"""Uses a mutant as the product would, and says what came of it."""

import hashlib
import resource
import shutil
import time
import traceback
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindspore_paged.errors import (
    CheckpointError,
    ConfigError,
    DamagedPageError,
    ForeignPageError,
    PagedError,
    RequestError,
)
from tests.fuzz.mutant import EVERYTHING, FileFormat, Mutant, written

RIGHT, REFUSED = "right", "refused"
WRONG, UNCLEAR, OTHER, HANG, MEMORY, CRASH = "wrong", "unclear", "other", "hang", "memory", "crash"
FAULTS = (WRONG, UNCLEAR, OTHER, HANG, MEMORY, CRASH)
"""wrong: an answer that is not the good file's where it must be. unclear: refused, but not in one short line that names
the file. other: another exception. The rest is what the limits are for."""

SECONDS, BYTES = 2.0, 2 * 2**30
"""What a mutant may take at most, of the processor's time and beyond the memory of a process that has read nothing."""

LONGEST_LINE = 600
_REFUSALS = (CheckpointError, ConfigError, RequestError, DamagedPageError, ForeignPageError)


@dataclass(frozen=True)
class Verdict:
    """What came of a mutant; where: a text that is the same for faults of one origin."""

    outcome: str
    detail: str = ""
    where: str = ""
    seconds: float = 0.0
    bytes: int = 0


class Judge:
    """Judges mutants of one format, in a folder that it empties; mutates that folder only."""

    def __init__(self, file_format: FileFormat, folder: Path):
        self._format = file_format
        self._folder = folder
        self._good: dict[int, dict[str, Any]] = {}

    def judge(self, mutant: Mutant) -> Verdict:
        """What came of `mutant`."""
        self.learn(mutant.sample)
        before, start = _peak_bytes(), time.process_time()
        outcome, detail, where = self._outcome(mutant)
        seconds, growth = time.process_time() - start, _peak_bytes() - before
        if outcome in (RIGHT, REFUSED) and growth > BYTES:
            outcome, where = MEMORY, mutant.what
        return Verdict(outcome, detail, where, seconds, growth)

    def learn(self, sample: int) -> None:
        """Find out what a good sample's answer is; raises what it raises."""
        if sample not in self._good:
            self._good[sample] = self._in_folder(self._format.samples[sample], self._format.use)

    def _outcome(self, mutant: Mutant) -> tuple[str, str, str]:
        try:
            answer = self._in_folder(mutant.files, self._format.use)
        except _REFUSALS as error:
            fault = self._unclear(str(error))
            return (UNCLEAR, f"{fault}: {error!r}", fault + _origin(error)) if fault else (REFUSED, str(error), "")
        except MemoryError as error:
            return MEMORY, _traceback(error), _origin(error)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            kind = PagedError.__name__ if isinstance(error, PagedError) else type(error).__name__
            return OTHER, _traceback(error), f"{kind} {_origin(error)}"
        return self._compared(mutant, answer)

    def _compared(self, mutant: Mutant, answer: dict[str, Any]) -> tuple[str, str, str]:
        good = self._good[mutant.sample]
        parts = good.keys() if mutant.keeps == EVERYTHING else mutant.keeps
        for part in sorted(parts):
            if answer.get(part) != good.get(part):
                return WRONG, f"{part}: {answer.get(part)!r:.300} instead of {good.get(part)!r:.300}", part
        return RIGHT, "", ""

    def _unclear(self, message: str) -> str:
        if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in message):
            return "more than a line, or letters that no terminal shows"
        if len(message) > LONGEST_LINE + len(str(self._folder)) * message.count(str(self._folder)):
            return "too long"
        if self._format.names_file and str(self._folder) not in message:
            return "does not name the file"
        return ""

    def _in_folder(self, files: dict[str, bytes], use: Callable[[Path], Any]) -> Any:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        return use(written(files, self._folder))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error, limit=-12))[-4000:]


def _origin(error: BaseException) -> str:
    """Where in the product it came from: the innermost of its own frames."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "mindspore_paged" in frame.filename] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].name}" if own else ""


def fingerprint(where: str) -> str:
    """A short name for faults of one origin."""
    return hashlib.sha256(where.encode()).hexdigest()[:8]
