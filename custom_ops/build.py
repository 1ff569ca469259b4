"""Compiles the custom operators: `python -m mindspore_paged.custom_ops.build`.

setup.py loads this file by its path, before the package exists: it needs the standard library and nothing else. Here
are the command line, the CPU operators, and what their build shares with `build_emulator`; `build_ascend` drives CANN.
"""

import argparse
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BACKENDS = ("cpu", "ascend_emulator", "ascend")
OPS_ROOT = Path(__file__).parent.resolve()
CPU_SOURCES = OPS_ROOT / "cpu"
OP_SOURCES = OPS_ROOT / "op"
CPU_LIBRARY_NAME = "libpaged_ops_cpu.so"
DEFAULT_OUTPUT_DIR = OPS_ROOT / "lib"
BUILD_COMMAND = "python -m mindspore_paged.custom_ops.build"

# -fno-math-errno and the like stay off: NaN and infinity must keep their meaning.
# -ffp-contract=off: products and sums are joined where the source says so (simd.h), the same way in every loop.
CPU_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-pthread", "-fPIC", "-shared", "-fvisibility=hidden")
NATIVE_FLAGS = ("-march=native",)

EPILOG = f"""examples:
  {BUILD_COMMAND}                            the operators of this CPU
  {BUILD_COMMAND} --backend ascend_emulator  the NPU's kernels, to be run on this CPU
  {BUILD_COMMAND} --backend ascend           the NPU's kernels, where CANN is installed

Installing the package builds those of this CPU and nothing else. CXX chooses the C++ compiler, e.g. CXX=g++-13."""


class BuildError(RuntimeError):
    """The operators could not be compiled, or are not compiled yet; the first line of the message says why."""


def cpu_library(output_dir: Path = DEFAULT_OUTPUT_DIR) -> Path:
    """Give the path of the compiled CPU operators; raises BuildError, with the command to run, if there are none."""
    library = Path(output_dir) / CPU_LIBRARY_NAME
    if not library.is_file():
        raise BuildError(f"the CPU operators are not compiled: {library} is missing; run `{BUILD_COMMAND}`")
    return library


def library_function(library: Path, name: str):
    """The C function `name` of a library, for ctypes; raises BuildError if it is of an older version, without that."""
    try:
        return getattr(ctypes.CDLL(str(library)), name)
    except AttributeError:
        raise BuildError(f"{library} has no {name}: it is of an older version; run `{BUILD_COMMAND}`") from None


def build_cpu(output_dir: Path, *, portable: bool = False, force: bool = False) -> Path:
    """Compile the .cc files under custom_ops/cpu into one shared library, unless the one in `output_dir` is up to date.

    The compiler is `$CXX`, else g++. The library is made for this machine's CPU, or with `portable` for any CPU of its
    architecture. It appears whole or not at all, also when two builds run at once.

    Returns the library's path. Raises BuildError where the compiler is missing or refuses the source.
    """
    compiler = find_compiler()
    flags = CPU_FLAGS if portable else CPU_FLAGS + NATIVE_FLAGS

    def compile_library(library: Path) -> None:
        compile_sources(compiler, (*flags, f"-I{OPS_ROOT}"), cpu_units(), library)

    stamp = build_stamp(compiler, flags, cpu_files())
    return build_unless_current(Path(output_dir) / CPU_LIBRARY_NAME, stamp, compile_library, force=force)


def cpu_units() -> list[Path]:
    """What is compiled for the CPU, the largest first."""
    return sorted(CPU_SOURCES.rglob("*.cc"), key=lambda file: (file.name != "panel_worker.cc", file))


def cpu_files() -> list[Path]:
    """All source that the CPU operators depend on."""
    return [file for folder in (CPU_SOURCES, OP_SOURCES) for file in folder.rglob("*") if file.suffix in (".cc", ".h")]


def build_unless_current(library: Path, stamp: str, compile_library: Callable[[Path], None], *, force: bool) -> Path:
    """Let `compile_library` write the library, unless the one there bears this stamp; returns its path.

    The library appears whole or not at all, also when two builds run at once; an old one stays where a new one fails.
    """
    stamp_file = library.with_suffix(".stamp")
    if not force and library.is_file() and stamp_file.is_file() and stamp_file.read_text() == stamp:
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".build-") as scratch:
        new_library, new_stamp = Path(scratch) / library.name, Path(scratch) / stamp_file.name
        compile_library(new_library)
        new_stamp.write_text(stamp)
        # Between the two renames the stamp must not vouch for a library that it does not belong to.
        stamp_file.unlink(missing_ok=True)
        new_library.replace(library)
        new_stamp.replace(stamp_file)
    return library


def find_compiler() -> list[str]:
    """Split `$CXX` (default g++) into words and check that its program exists; raises BuildError if not."""
    words = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    if shutil.which(words[0]) is None:
        raise BuildError(f"no C++ compiler: {words[0]!r} is not found; install g++ or set CXX to your compiler")
    return words


def compile_sources(compiler: list[str], flags: tuple[str, ...], sources: list[Path], library: Path) -> None:
    """Compile the sources, as many at once as there are CPUs, and link them; raises BuildError with what is wrong."""
    what = "the CPU operators"
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".objects-") as folder:
        objects = [Path(folder) / f"{index}-{source.stem}.o" for index, source in enumerate(sources)]
        commands = [
            [*compiler, *flags, "-c", str(source), "-o", str(target)]
            for source, target in zip(sources, objects, strict=True)
        ]
        run_in_parallel(commands, what)
        run_compiler([*compiler, *flags, *map(str, objects), "-o", str(library)], what)


def run_in_parallel(commands: list[list[str]], what: str) -> None:
    """Run the compiler's commands, as many at once as there are CPUs; raises BuildError for the first that fails."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = [pool.submit(run_compiler, command, what) for command in commands]
        try:
            for each in running:
                each.result()
        except BuildError:
            pool.shutdown(cancel_futures=True)
            raise


def run_compiler(command: list[str], what: str) -> None:
    """Run one compiler command; raises BuildError, with the command and the compiler's words, if it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise BuildError(
            f"compiling {what} failed with exit code {result.returncode}: {shlex.join(command)}\n"
            f"{result.stderr.rstrip()}"
        )


def build_stamp(compiler: list[str], flags: tuple[str, ...], sources: Iterable[Path]) -> str:
    """Digest all that the library depends on, the CPU too: a tree copied to another machine is compiled again."""
    digest = hashlib.sha256()
    for source in sorted(sources):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout
    digest.update("\0".join((*compiler, *flags, version, cpu_model())).encode())
    return digest.hexdigest()


def sources_digest() -> str:
    """Digest of what the CPU operators are compiled from: equal where they take the same calls and weights."""
    digest = hashlib.sha256()
    for source in sorted(cpu_files()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()


def cpu_model() -> str:
    """Name this machine's CPU and what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except FileNotFoundError:  # not Linux
        return f"{platform.machine()} {platform.processor()}"
    described = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join([platform.machine(), *(line for line in lines if line.startswith(described))])


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog=BUILD_COMMAND,
        description="Compile the custom operators: reshape_and_cache, paged_attention, copy_, read_ and write_blocks.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--backend", choices=BACKENDS, default="cpu", help="what to compile for (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="compile even if the library is up to date")
    cpu = parser.add_argument_group("--backend cpu")
    cpu.add_argument(
        "--portable", action="store_true", help="run on any CPU of this architecture, slower (default: this CPU only)"
    )
    ascend = parser.add_argument_group("--backend ascend")
    ascend.add_argument("--soc", metavar="NAME", help="ascend910b (Atlas A2, the default) or ascend910_93 (Atlas A3)")
    ascend.add_argument(
        "--cann", type=Path, metavar="DIR", help="the CANN toolkit (default: $ASCEND_HOME_PATH, else the usual places)"
    )
    ascend.add_argument(
        "--output", type=Path, metavar="DIR", help="install vendors/mindspore_paged there (default: beside this file)"
    )
    return parser


def build_backend(options: argparse.Namespace) -> str:
    """Build what the command line asks for; returns what to print. Raises BuildError."""
    of_ascend = {f"--{name}": getattr(options, name) for name in ("soc", "cann", "output")}
    given = [flag for flag, value in of_ascend.items() if value is not None]
    if options.backend != "ascend" and given:
        raise BuildError(f"{given[0]} is for --backend ascend only; --backend is {options.backend}")
    if options.backend != "cpu" and options.portable:
        raise BuildError(f"--portable is for --backend cpu only; --backend is {options.backend}")
    if options.backend == "cpu":
        return str(build_cpu(DEFAULT_OUTPUT_DIR, portable=options.portable, force=options.force))

    from mindspore_paged.custom_ops import build_ascend, build_emulator  # not at the top: see setup.py

    if options.backend == "ascend_emulator":
        return str(build_emulator.build_emulator(DEFAULT_OUTPUT_DIR, force=options.force))
    package = build_ascend.build_ascend(options.output or DEFAULT_OUTPUT_DIR / "ascend", options.soc, options.cann)
    return f"export ASCEND_CUSTOM_OPP_PATH={package}:$ASCEND_CUSTOM_OPP_PATH"


def main(arguments: list[str] | None = None) -> int:
    """Build by hand; returns the exit code, 2 for an error that stderr explains."""
    options = make_parser().parse_args(arguments)
    try:
        print(build_backend(options))
    except (BuildError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    # `-m` runs this file beside the module that the other builders import: their BuildError is that module's.
    from mindspore_paged.custom_ops import build

    sys.exit(build.main())
