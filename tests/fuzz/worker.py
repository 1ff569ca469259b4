"""A process that judges mutants in forked children, so that none of them can end it, fill it or keep it busy.

It reads requests from its input, a JSON list [format, seed, first, count] a line, and writes a JSON object for each
mutant; an empty line follows the last.
"""

import json
import mmap
import os
import resource
import signal
import sys
import tempfile
import traceback
from dataclasses import asdict
from pathlib import Path

from tests.fuzz.formats import file_format
from tests.fuzz.judge import BYTES, CRASH, HANG, SECONDS, Judge, Verdict

WALL_SECONDS = 60
HARNESS_ERROR = "harness_error"
_ROOM = 2**29  # stacks and arenas of threads are reserved, and never used
_SIGNALS_OF_LIMITS = (signal.SIGPROF, signal.SIGALRM)


def main() -> None:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries write to it
    for line in sys.stdin:
        name, seed, first, count = json.loads(line)
        for number, verdict in judged(name, seed, first, count):
            answers.write(json.dumps({"number": number, **asdict(verdict)}) + "\n")
        answers.write("\n")
        answers.flush()


def judged(name: str, seed: int, first: int, count: int):
    """(number, Verdict) of each of the mutants, judged in children; a child's end is its last mutant's verdict."""
    file_format(name)  # imported once, before there are children
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        while count:
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(reader)
                _judge_and_exit(name, seed, range(first, first + count), writer, Path(folder) / name)
            os.close(writer)
            with os.fdopen(reader) as lines:
                results = [json.loads(line) for line in lines if line.endswith("\n")]
            _, status = os.waitpid(pid, 0)
            yield from ((result.pop("number"), Verdict(**result)) for result in results)
            done = first + len(results)
            if done < first + count:
                yield done, _of_a_dead_child(status, Path(folder) / HARNESS_ERROR)
                done += 1
            count -= done - first
            first = done


def _judge_and_exit(name, seed, numbers, writer, folder) -> None:
    code = 1
    try:
        os.dup2(1, 2)
        with os.fdopen(writer, "w") as lines:
            _limit_memory()
            judge = Judge(file_format(name), folder)
            for number in numbers:
                mutant = file_format(name).mutant(seed, number)
                judge.learn(mutant.sample)
                signal.setitimer(signal.ITIMER_PROF, SECONDS)
                signal.alarm(WALL_SECONDS)
                verdict = judge.judge(mutant)
                signal.setitimer(signal.ITIMER_PROF, 0)
                lines.write(json.dumps({"number": number, **asdict(verdict)}) + "\n")
                lines.flush()
        code = 0
    except Exception:  # noqa: BLE001, a child must not go on as its parent
        error_folder = Path(folder).parent
        error_folder.mkdir(parents=True, exist_ok=True)
        (error_folder / HARNESS_ERROR).write_text(traceback.format_exc())
    finally:
        os._exit(code)


def _limit_memory() -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    limit = size + BYTES + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _of_a_dead_child(status: int, error: Path) -> Verdict:
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        outcome = HANG if os.WTERMSIG(status) in _SIGNALS_OF_LIMITS else CRASH
        return Verdict(outcome, f"its process was ended by {name}", name, SECONDS)
    if error.exists():
        raise RuntimeError(f"the harness failed, not a mutant: {error.read_text()}")
    return Verdict(CRASH, f"its process ended with exit code {os.WEXITSTATUS(status)}", "exit")


if __name__ == "__main__":
    main()
