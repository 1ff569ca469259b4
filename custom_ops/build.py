"""Compiles the custom operators: `python -m mindspore_paged.custom_ops.build`.

setup.py loads this file by its path, before the package exists: it needs the standard library and nothing else. Here
are the command line, the CPU operators, and what their build shares with `build_emulator`; `build_ascend` drives CANN.
The CPU operators are compiled once for each level of what CPUs can do, and the best that this one runs is taken.
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
from dataclasses import dataclass
from pathlib import Path

BACKENDS = ("cpu", "ascend_emulator", "ascend")
OPS_ROOT = Path(__file__).parent.resolve()
CPU_SOURCES = OPS_ROOT / "cpu"
OP_SOURCES = OPS_ROOT / "op"
DEFAULT_OUTPUT_DIR = OPS_ROOT / "lib"
BUILD_COMMAND = "python -m mindspore_paged.custom_ops.build"

# -fno-math-errno and the like stay off: NaN and infinity must keep their meaning.
# -ffp-contract=off: products and sums are joined where the source says so (simd.h), the same way in every loop.
CPU_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-pthread", "-fPIC", "-shared", "-fvisibility=hidden")
ISA_VARIABLE = "PAGED_OPS_ISA"
"""Names the level whose CPU operators are built and run, in place of the best."""
ALL_LEVELS = "all"
CPU_INFO = Path("/proc/cpuinfo")

EPILOG = f"""examples:
  {BUILD_COMMAND}                            the operators of this CPU
  {BUILD_COMMAND} --isa all                  those of every CPU of its architecture
  {BUILD_COMMAND} --backend ascend_emulator  the NPU's kernels, to be run on this CPU
  {BUILD_COMMAND} --backend ascend           the NPU's kernels, where CANN is installed

Installing the package builds those of this CPU and nothing else. CXX chooses the C++ compiler, e.g. CXX=g++-13.
{ISA_VARIABLE} names the level that is built and run in place of the best, e.g. {ISA_VARIABLE}=avx2."""


class BuildError(RuntimeError):
    """The operators could not be compiled, or are not compiled yet; the first line of the message says why."""


@dataclass(frozen=True)
class Level:
    """Instructions that the CPU operators may use, together, and the library that is compiled with them.

    name: as PAGED_OPS_ISA and --isa have it. machine: the architecture, as `uname -m` names it. features: what a CPU
    must have, as /proc/cpuinfo names it. flags: the compiler's.
    """

    name: str
    machine: str
    features: tuple[str, ...]
    flags: tuple[str, ...]

    @property
    def library_name(self) -> str:
        """The file of its library."""
        return f"libpaged_ops_cpu_{self.name}.so"

    def missing_here(self) -> list[str]:
        """What this machine's CPU lacks of it: an architecture, or features, in their order."""
        if self.machine != platform.machine():
            return [self.machine]
        here = cpu_features()
        return [feature for feature in self.features if feature not in here]


def _levels(machine: str, *additions: tuple[str, str, str]) -> tuple[Level, ...]:
    """The levels of an architecture from (name, features, flags) that each adds to the one before; best first."""
    levels: list[Level] = []
    for name, features, flags in additions:
        below = levels[-1] if levels else Level("", machine, (), ())
        levels.append(Level(name, machine, (*below.features, *features.split()), (*below.flags, *flags.split())))
    return tuple(reversed(levels))


# What cpu/runtime/simd.h asks the compiler for, and no more: a CPU that has these runs the library.
LEVELS = _levels(
    "x86_64",
    ("x86-64-v2", "cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2", "-march=x86-64-v2"),
    ("avx2", "avx2 fma f16c", "-mavx2 -mfma -mf16c"),
    (
        "avx512",
        "avx512f avx512bw avx512cd avx512dq avx512vl",
        "-mavx512f -mavx512bw -mavx512cd -mavx512dq -mavx512vl",
    ),
    ("avx512_vnni", "avx512_vnni", "-mavx512vnni"),
    ("avx512_bf16", "avx512_bf16", "-mavx512bf16"),
    ("amx", "amx_tile amx_int8 amx_bf16", "-mamx-tile -mamx-int8 -mamx-bf16"),
) + _levels(
    "aarch64",
    ("neon", "asimd", "-march=armv8-a"),
    ("dotprod", "asimddp", "-march=armv8-a+dotprod"),
    ("i8mm", "i8mm", "-march=armv8-a+dotprod+i8mm"),
)
"""All that the CPU operators can be compiled for, best first."""


def cpu_features() -> frozenset[str]:
    """What this machine's CPU can do, as Linux names it in /proc/cpuinfo; BuildError where that cannot be read."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BuildError(f"{CPU_INFO}, which says what this CPU can do, cannot be read: {error.strerror}") from None
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def levels_of_machine(machine: str | None = None) -> tuple[Level, ...]:
    """The levels of an architecture, best first, by default of this machine's; BuildError for one that has none."""
    machine = machine or platform.machine()
    found = tuple(level for level in LEVELS if level.machine == machine)
    if not found:
        raise BuildError(f"no CPU operators for {machine}; there are for {', '.join(_distinct_machines())}")
    return found


def runnable_levels() -> tuple[Level, ...]:
    """Those that this CPU can run, best first: of these, the one that PAGED_OPS_ISA names, where it is set.

    Raises BuildError for a value of it that is unknown or that this CPU cannot run, and where it can run none.
    """
    levels = levels_of_machine()
    can_run = tuple(level for level in levels if not level.missing_here())
    if not can_run:
        missing = ", ".join(levels[-1].missing_here())
        raise BuildError(f"this CPU cannot run the operators of level {levels[-1].name}, the least: it lacks {missing}")
    forced = forced_level()
    return can_run if forced is None else (forced,)


def forced_level() -> Level | None:
    """The level that PAGED_OPS_ISA names, if it is set; BuildError if it is unknown or this CPU cannot run it."""
    name = os.environ.get(ISA_VARIABLE)
    if not name:
        return None
    by_name = {level.name: level for level in levels_of_machine()}
    allowed = ", ".join(level.name for level in by_name.values() if not level.missing_here())
    if name not in by_name:
        raise BuildError(f"{ISA_VARIABLE} is {name!r}, which is no level of {platform.machine()}; allowed: {allowed}")
    missing = by_name[name].missing_here()
    if missing:
        raise BuildError(
            f"{ISA_VARIABLE} is {name}, which this CPU cannot run: it lacks {', '.join(missing)}; allowed: {allowed}"
        )
    return by_name[name]


def _distinct_machines() -> list[str]:
    return list(dict.fromkeys(level.machine for level in LEVELS))


def cpu_library(output_dir: Path = DEFAULT_OUTPUT_DIR) -> Path:
    """Give the path of the CPU operators of the best level that is compiled and that this CPU can run.

    PAGED_OPS_ISA names another level. Raises BuildError, with the command to run, if there are none, and as
    `runnable_levels` does.
    """
    output_dir, levels = Path(output_dir), runnable_levels()
    for level in levels:
        if (output_dir / level.library_name).is_file():
            return output_dir / level.library_name
    wanted = output_dir / levels[0].library_name
    if forced_level() is not None:
        raise BuildError(
            f"{ISA_VARIABLE} is {levels[0].name}, which is not compiled: {wanted} is missing; "
            f"run `{BUILD_COMMAND} --isa {levels[0].name}`"
        )
    raise BuildError(f"the CPU operators are not compiled: {wanted} is missing; run `{BUILD_COMMAND}`")


def built_levels(output_dir: Path = DEFAULT_OUTPUT_DIR) -> tuple[Level, ...]:
    """The levels of this machine's architecture that a folder has libraries of, from today's sources, best first."""
    sources = sources_digest()

    def is_current(library: Path) -> bool:
        stamp_file = library.with_suffix(".stamp")
        return library.is_file() and stamp_file.is_file() and stamp_file.read_text().startswith(sources)

    return tuple(level for level in levels_of_machine() if is_current(Path(output_dir) / level.library_name))


def library_function(library: Path, name: str):
    """The C function `name` of a library, for ctypes; raises BuildError if it is of an older version, without that."""
    try:
        return getattr(ctypes.CDLL(str(library)), name)
    except AttributeError:
        raise BuildError(f"{library} has no {name}: it is of an older version; run `{BUILD_COMMAND}`") from None


def build_cpu(output_dir: Path, level: Level | None = None, *, force: bool = False) -> Path:
    """Compile the .cc files under custom_ops/cpu into one shared library, unless the one in `output_dir` is up to date.

    level: which CPUs it is for; default: the best of this one, or the one that PAGED_OPS_ISA names. The compiler is
    `$CXX`, else g++. The library appears whole or not at all, also when two builds run at once.

    Returns the library's path. Raises BuildError where the compiler is missing or refuses the source, and as
    `runnable_levels` does.
    """
    level = level or runnable_levels()[0]
    compiler = find_compiler()
    flags = CPU_FLAGS + level.flags

    def compile_library(library: Path) -> None:
        compile_sources(compiler, (*flags, f"-I{OPS_ROOT}"), cpu_units(), library)

    stamp = f"{sources_digest()} {build_stamp(compiler, flags, cpu_files())}"
    return build_unless_current(Path(output_dir) / level.library_name, stamp, compile_library, force=force)


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
    """Digest all that the library depends on: of the machine no more than the compiler."""
    digest = hashlib.sha256()
    for source in sorted(sources):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout
    digest.update("\0".join((*compiler, *flags, version)).encode())
    return digest.hexdigest()


def sources_digest() -> str:
    """Digest of what the CPU operators are compiled from: equal where they take the same calls and weights."""
    digest = hashlib.sha256()
    for source in sorted(cpu_files()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()


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
    names = [level.name for level in LEVELS if level.machine == platform.machine()]
    cpu.add_argument(
        "--isa", nargs="+", choices=[*names, ALL_LEVELS], metavar="ISA",
        help=f"which levels of instructions: {', '.join(names)}, or {ALL_LEVELS} (default: the best of this CPU)",
    )  # fmt: skip
    ascend = parser.add_argument_group("--backend ascend")
    ascend.add_argument("--soc", metavar="NAME", help="ascend910b (Atlas A2, the default) or ascend910_93 (Atlas A3)")
    ascend.add_argument(
        "--cann", type=Path, metavar="DIR", help="the CANN toolkit (default: $ASCEND_HOME_PATH, else the usual places)"
    )
    ascend.add_argument(
        "--output", type=Path, metavar="DIR", help="install vendors/mindspore_paged there (default: beside this file)"
    )
    return parser


def chosen_levels(names: list[str] | None) -> tuple[Level, ...]:
    """The levels that --isa names, best first and each once; None: the best of this CPU. Raises BuildError."""
    if names is None:
        return runnable_levels()[:1]
    return tuple(level for level in levels_of_machine() if level.name in names or ALL_LEVELS in names)


def build_backend(options: argparse.Namespace) -> str:
    """Build what the command line asks for; returns what to print. Raises BuildError."""
    of_ascend = {f"--{name}": getattr(options, name) for name in ("soc", "cann", "output")}
    given = [flag for flag, value in of_ascend.items() if value is not None]
    if options.backend != "ascend" and given:
        raise BuildError(f"{given[0]} is for --backend ascend only; --backend is {options.backend}")
    if options.backend != "cpu" and options.isa:
        raise BuildError(f"--isa is for --backend cpu only; --backend is {options.backend}")
    if options.backend == "cpu":
        levels = chosen_levels(options.isa)
        return "\n".join(str(build_cpu(DEFAULT_OUTPUT_DIR, level, force=options.force)) for level in levels)

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
