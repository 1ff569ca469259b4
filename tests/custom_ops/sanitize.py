"""The CPU's operators under the compiler's sanitizers: `make sanitize`, or `python -m tests.custom_ops.sanitize`.

    native, …  custom_ops/cpu with the address and undefined-behaviour sanitizers -> a library -> the tests of the
               operators, none of which needs MindSpore, in a Python that has the sanitizers' runtime loaded first
    threads    thread_team.cc with the thread sanitizer -> a program of its own: Python is not made for that one

Matrix tiles are loaded and stored by assembler, which no sanitizer sees.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mindspore_paged.custom_ops import build
from mindspore_paged.custom_ops.build import BuildError
from tests.custom_ops.kernel_builds import LIBRARY_VARIABLE, LOWER_LEVELS, NATIVE

ROOT = Path(__file__).parents[2]
TEAM_PROGRAM = Path(__file__).with_name("thread_team.cc")
NEED_MINDSPORE_OR_BUILD = (
    "ascendc", "test_ascend_build.py", "test_emulator_build.py", "test_kernel_build.py", "test_layers_in_graph.py",
    "test_ops_in_graph.py", "test_sanitizers.py",
)  # fmt: skip
"""What tests/custom_ops has beside the tests of the CPU's operators."""

DEBUG_FLAGS = ("-O1", "-g1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all")
ADDRESS_FLAGS = (*DEBUG_FLAGS, "-fsanitize=address,undefined,float-cast-overflow")
THREAD_FLAGS = (*DEBUG_FLAGS, "-fsanitize=thread")
LEVELS = {"native": NATIVE, **{level.name: level for level in build.levels_of_machine()}}
"""Of each build with the address sanitizer, what its CPU can do."""

THREADS = "threads"
DEFAULT_BUILDS = ("native", *(level.name for level in LOWER_LEVELS[-1:]), THREADS)
FINDING = re.compile("runtime error: |(?:ERROR|WARNING): (?:Address|Leak|Thread)Sanitizer: ")
SECONDS = 3000  # of a run: whoever waits for ever is ended


def runtime(name: str) -> str:
    """The path of a library that comes with the compiler; raises BuildError if it has none of that name."""
    compiler = build.find_compiler()
    command = [*compiler, f"-print-file-name={name}"]
    path = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if not Path(path).is_absolute():
        raise BuildError(f"{compiler[0]} has no {name}, which comes with g++: install that, or set CXX to it")
    return path


def files_of(sources: Path) -> list[Path]:
    """A folder's C++, and that of the folder `op` beside it, which the operators' includes."""
    files = [file for folder in (sources, sources.with_name("op")) for file in folder.rglob("*")]
    return [file for file in files if file.suffix in (".cc", ".h")]


USES = "using namespace paged_ops;"  # in an operator's function


def whole_source(sources: Path) -> str:
    """All of a folder's .cc files as one: what they share is compiled once, in a third of the time.

    What an operator's file has for itself alone, in a namespace without a name, gets one of the file's.
    """
    files = sorted(sources.resolve().rglob("*.cc"))
    if not files:
        raise BuildError(f"{sources} has no .cc files")
    texts = []
    for file in files:
        text, inner = file.read_text(), f"in_{file.stem}"
        if "\nnamespace {\n" in text and USES in text:
            text = text.replace("\nnamespace {\n", f"\nnamespace {inner} {{\n")
            text = text.replace(USES, f"{USES} using namespace {inner};")
        texts.append(f'#line 1 "{file}"\n{text}\n')
    return "".join(texts)


def compile_build(name: str, sources: Path, output_dir: Path) -> Path:
    """Compile one build unless it is up to date: a library, or the program of `threads`. Raises BuildError."""
    compiler = build.find_compiler()
    if name == THREADS:
        runtime("libtsan.so")
        flags = tuple(flag for flag in build.CPU_FLAGS if flag not in ("-shared", "-fPIC")) + NATIVE.flags
        flags += THREAD_FLAGS
        text, units = f'#include "{TEAM_PROGRAM}"\n', [sources.resolve() / "linear" / "panel_worker.cc"]
    else:
        missing = LEVELS[name].missing_here()
        if missing:
            raise BuildError(f"build {name}: this CPU cannot run it: it lacks {', '.join(missing)}")
        runtime("libasan.so"), runtime("libubsan.so")
        flags = build.CPU_FLAGS + LEVELS[name].flags + ADDRESS_FLAGS
        text, units = whole_source(sources), []

    flags += (f"-I{sources.resolve().parent}",)

    def compile_text(target: Path) -> None:
        source = target.with_suffix(".cc")
        source.write_text(text)
        build.compile_sources(compiler, flags, [source, *units], target)

    stamp = build.build_stamp(compiler, flags, [*files_of(sources), TEAM_PROGRAM])
    library = output_dir / name / (name if name == THREADS else LEVELS[name].library_name)
    return build.build_unless_current(library, stamp, compile_text, force=False)


def run_build(name: str, compiled: Path, tests: list[str]) -> int:
    """Run a build's program or tests and print what they and the sanitizers say; returns 0 if that is nothing bad."""
    options = "halt_on_error=1:print_stacktrace=1"
    environment = os.environ | {"UBSAN_OPTIONS": options, "TSAN_OPTIONS": options}
    command = [str(compiled)]
    if name != THREADS:
        # -s: a process that a sanitizer ends would take what pytest holds back with it.
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-s", "-m", "not slow", "-p", "no:cacheprovider", *tests]
        # libstdc++ too, or the address sanitizer looks in vain for what throws an exception: Python itself has none.
        environment["LD_PRELOAD"] = f"{runtime('libasan.so')} {runtime('libstdc++.so')}"
        # Python leaks by design.
        environment["ASAN_OPTIONS"] = f"{options}:detect_leaks=0:detect_stack_use_after_return=1"
        environment["PYTHONMALLOC"] = "malloc"  # small objects, too, have nothing beside them that may be written
        environment[LIBRARY_VARIABLE] = str(compiled)
    done = subprocess.run(
        [*fixed_addresses(), *command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", timeout=SECONDS, check=False,
    )  # fmt: skip
    num_findings = len(FINDING.findall(done.stdout))
    print(done.stdout, f"{name}: {num_findings} findings, exit code {done.returncode}\n", sep="\n", flush=True)
    return done.returncode or num_findings


def fixed_addresses() -> list[str]:
    """A command's beginning that has its memory always at the same places, where the machine lets us.

    The sanitizers of older compilers do not start where a kernel spreads memory over more addresses than they expect.
    """
    command = ["setarch", "--addr-no-randomize"]
    if shutil.which(command[0]) is None:
        return []
    return command if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0 else []


def tests_of_operators() -> list[str]:
    """What pytest is told to run."""
    folder = Path(__file__).parent.relative_to(ROOT)
    return [str(folder), *(f"--ignore={folder / name}" for name in NEED_MINDSPORE_OR_BUILD)]


def run_builds(names: Iterable[str], sources: Path, tests: list[str], output_dir: Path) -> int:
    """Compile and run the builds, as many at once as there are CPUs; returns 1 if any finds something, else 0.

    Raises BuildError.
    """
    names = list(dict.fromkeys(names))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = list(pool.map(lambda name: compile_build(name, sources, output_dir), names))
        return int(any(list(pool.map(lambda name, of_name: run_build(name, of_name, tests), names, compiled))))


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.custom_ops.sanitize",
        description=__doc__,
        epilog="Exit code: 0 if nothing is found, 1 if something is, 2 if it cannot be compiled here.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    builds = [*LEVELS, THREADS]
    parser.add_argument(
        "builds", nargs="*", default=DEFAULT_BUILDS, metavar="BUILD",
        help=f"which of {', '.join(builds)} (default: {', '.join(DEFAULT_BUILDS)})",
    )  # fmt: skip
    parser.add_argument(
        "--sources", type=Path, default=build.CPU_SOURCES, help="a folder of C++ (default: the operators')"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "sanitize", help="where the builds are kept")
    parser.add_argument("--tests", nargs="+", metavar="PATH", help="for pytest (default: those of the operators)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run as a program; returns the exit code, 2 for an error that stderr explains in one line."""
    options = make_parser().parse_args(arguments)
    unknown = sorted(set(options.builds) - {*LEVELS, THREADS})
    try:
        if unknown:
            raise BuildError(f"unknown build {unknown[0]!r}; allowed: {', '.join([*LEVELS, THREADS])}")
        return run_builds(options.builds, options.sources, options.tests or tests_of_operators(), options.output)
    except (BuildError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
