"""Compiles the custom operators: `python -m mindspore_paged.custom_ops.build`.

setup.py loads this file by its path, before the package exists: it needs the standard library and nothing else.
"""

import argparse
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BACKENDS = ("cpu",)
CPU_SOURCES = Path(__file__).parent.resolve() / "cpu"
CPU_LIBRARY_NAME = "libpaged_ops_cpu.so"
DEFAULT_OUTPUT_DIR = Path(__file__).parent.resolve() / "lib"
BUILD_COMMAND = "python -m mindspore_paged.custom_ops.build"

# -fno-math-errno and the like stay off: NaN and infinity must keep their meaning.
CPU_FLAGS = ("-std=c++17", "-O3", "-fopenmp", "-fPIC", "-shared", "-fvisibility=hidden")
NATIVE_FLAGS = ("-march=native",)


class BuildError(RuntimeError):
    """The operators could not be compiled, or are not compiled yet; the first line of the message says why."""


def cpu_library(output_dir: Path = DEFAULT_OUTPUT_DIR) -> Path:
    """Give the path of the compiled CPU operators; raises BuildError, with the command to run, if there are none."""
    library = Path(output_dir) / CPU_LIBRARY_NAME
    if not library.is_file():
        raise BuildError(f"the CPU operators are not compiled: {library} is missing; run `{BUILD_COMMAND}`")
    return library


def build_cpu(output_dir: Path, *, portable: bool = False, force: bool = False) -> Path:
    """Compile custom_ops/cpu/*.cc into one shared library, unless the one in `output_dir` is up to date.

    The compiler is `$CXX`, else g++. The library is made for this machine's CPU, or with `portable` for any CPU of its
    architecture. It appears whole or not at all, also when two builds run at once.

    Returns the library's path. Raises BuildError where the compiler is missing or refuses the source.
    """
    output_dir = Path(output_dir)
    library = output_dir / CPU_LIBRARY_NAME
    stamp_file = library.with_suffix(".stamp")
    compiler = find_compiler()
    flags = CPU_FLAGS if portable else CPU_FLAGS + NATIVE_FLAGS
    stamp = build_stamp(compiler, flags)
    if not force and library.is_file() and stamp_file.is_file() and stamp_file.read_text() == stamp:
        return library
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".build-") as scratch:
        new_library, new_stamp = Path(scratch) / library.name, Path(scratch) / stamp_file.name
        compile_sources(compiler, flags, sorted(CPU_SOURCES.glob("*.cc")), new_library)
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
    """Run the compiler once over all sources; raises BuildError with its output if it fails."""
    command = [*compiler, *flags, *map(str, sources), "-o", str(library)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise BuildError(
            f"compiling the CPU operators failed with exit code {result.returncode}: {shlex.join(command)}\n"
            f"{result.stderr.rstrip()}"
        )


def build_stamp(compiler: list[str], flags: tuple[str, ...]) -> str:
    """Digest all that the library depends on, the CPU too: a tree copied to another machine is compiled again."""
    digest = hashlib.sha256()
    for source in sorted(CPU_SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout
    digest.update("\0".join((*compiler, *flags, version, cpu_model())).encode())
    return digest.hexdigest()


def cpu_model() -> str:
    """Name this machine's CPU and what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except FileNotFoundError:  # not Linux
        return f"{platform.machine()} {platform.processor()}"
    described = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join([platform.machine(), *(line for line in lines if line.startswith(described))])


def main(arguments: list[str] | None = None) -> int:
    """Build by hand; returns the exit code, 2 for an error that stderr explains."""
    parser = argparse.ArgumentParser(
        prog=BUILD_COMMAND,
        description="Compile the custom operators (reshape_and_cache, paged_attention, copy_blocks).",
        epilog="Installing the package does this too. CXX chooses the compiler, e.g. CXX=g++-13.",
    )
    parser.add_argument("--backend", choices=BACKENDS, default="cpu", help="what to compile for (default: %(default)s)")
    parser.add_argument(
        "--portable", action="store_true", help="run on any CPU of this architecture, slower (default: this CPU only)"
    )
    parser.add_argument("--force", action="store_true", help="compile even if the library is up to date")
    options = parser.parse_args(arguments)
    try:
        library = build_cpu(DEFAULT_OUTPUT_DIR, portable=options.portable, force=options.force)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(library)
    return 0


if __name__ == "__main__":
    sys.exit(main())
