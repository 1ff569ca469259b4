"""Builds the Ascend operators with the compiler tool that comes in MindSpore's wheel, and finds them again.

The tool (mindspore/lib/plugin/ascend/custom_compiler) makes a CMake project from a template of CANN, compiles it with
CANN's compilers and installs a "vendor package". It writes beside its own file, which is inside site-packages, and into
the working directory, and its shell scripts do not quote paths: it is run as a copy, in a scratch folder of plain name.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mindspore_paged.custom_ops.build import BUILD_COMMAND, DEFAULT_OUTPUT_DIR, BuildError
from mindspore_paged.custom_ops.process_folder import use_process_folder

ASCENDC_SOURCES = Path(__file__).parent.resolve() / "ascendc"
DEFAULT_PACKAGES = DEFAULT_OUTPUT_DIR / "ascend"
VENDOR = "mindspore_paged"
SOCS = ("ascend910b", "ascend910_93")  # one architecture: the kernels are written for no other
CANN_PLACES = (Path("/usr/local/Ascend/ascend-toolkit/latest"), Path("/usr/local/Ascend/cann"))
COMPILERS = ("bisheng", "ccec")
COMPILER_FOLDERS = ("compiler/ccec_compiler/bin", "ccec_compiler/bin", "*-linux/ccec_compiler/bin", "bin")
# The tool takes either: a template in two halves, or else a sample project.
TEMPLATES = (
    ("tools/op_project_templates/ascendc/customize", "tools/op_project_templates/ascendc/common"),
    ("tools/msopgen/template/operator_demo_projects/ascendc_operator_sample",),
)
PLAIN_PATH = re.compile(r"[_A-Za-z0-9/.-]+")
LOG_LINES = 30


def ascend_op_package() -> Path:
    """Give the folder of the built operators: one of $ASCEND_CUSTOM_OPP_PATH, or else where they are built by default.

    Raises BuildError, with the command to run, if there is none.
    """
    for entry in os.environ.get("ASCEND_CUSTOM_OPP_PATH", "").split(":"):
        if Path(entry).name == VENDOR and Path(entry).is_dir():
            return Path(entry)
    package = vendor_folder(DEFAULT_PACKAGES)
    if not package.is_dir():
        raise BuildError(
            f"the Ascend operators are not built: {package} is missing; run `{BUILD_COMMAND} --backend ascend`"
        )
    return package


def use_ascend_op_package() -> Path:
    """Let MindSpore find the built operators; to be called before it first touches the device. Returns their folder.

    MindSpore reads the environment: $ASCEND_CUSTOM_OPP_PATH, to which the folder is added, when the device and each
    operator is set up, and $ASCEND_OPP_PATH, which CANN's set_env.sh sets, to compile the glue around an operator, in
    a folder of this process (process_folder.py).
    Raises BuildError if there is no package, or $ASCEND_OPP_PATH is not set or not one that MindSpore understands.
    """
    package = ascend_op_package()
    check_opp_path(os.environ.get("ASCEND_OPP_PATH"))
    folders = _op_packages()
    if str(package) not in folders:
        os.environ["ASCEND_CUSTOM_OPP_PATH"] = ":".join([str(package), *folders])
    use_process_folder()
    return package


def is_package_named() -> bool:
    """Whether $ASCEND_CUSTOM_OPP_PATH has the built operators' folder already; raises BuildError if there is none."""
    return str(ascend_op_package()) in _op_packages()


def check_opp_path(path: str | None) -> None:
    """Raise BuildError unless $ASCEND_OPP_PATH is set, and CANN's folder is all of it that stands before `opp`."""
    if not path:
        raise BuildError("ASCEND_OPP_PATH is not set; source CANN's set_env.sh before Python starts")
    # MindSpore takes what stands before the first "opp" for CANN's folder, and looks for its headers there.
    if Path(path).name != "opp" or "opp" in str(Path(path).parent):
        raise BuildError(
            f"ASCEND_OPP_PATH is {path}; it must end with /opp and have no other 'opp' in it, as MindSpore cuts it "
            "there to find CANN: install CANN under a path without 'opp'"
        )


def _op_packages() -> list[str]:
    return [entry for entry in os.environ.get("ASCEND_CUSTOM_OPP_PATH", "").split(":") if entry]


def build_ascend(
    output_dir: Path = DEFAULT_PACKAGES,
    soc: str | None = None,
    cann: Path | None = None,
    *,
    sources: Path = ASCENDC_SOURCES,
    tool: Path | None = None,
) -> Path:
    """Compile `sources`/op_host and op_kernel for `soc` (None: ascend910b) with the CANN in `cann` (None: found).

    Returns the folder of the vendor package, `output_dir`/vendors/mindspore_paged. A package that was there stays until
    the new one is complete. Raises BuildError that names what is missing, or with the end of the build's log.
    """
    soc = soc or SOCS[0]
    if soc not in SOCS:
        raise BuildError(f"--soc is {soc!r}; it must be {' or '.join(SOCS)}")
    cann = find_cann(cann)
    check_tools(cann)
    tool = tool or find_tool()
    output_dir = Path(output_dir).resolve()
    for name, path in (("--cann", cann), ("--output", output_dir)):
        check_plain(name, path)
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="paged_ops_") as scratch, set_aside(vendor_folder(output_dir)) as package:
        scratch_dir = Path(scratch).resolve()  # the tool refuses a path that is a soft link
        check_plain("the folder for temporary files, TMPDIR,", scratch_dir)
        shutil.copytree(tool, scratch_dir / "tool").chmod(0o700)  # it writes there, and wheels can be read-only
        for folder in ("op_host", "op_kernel"):
            shutil.copytree(sources / folder, scratch_dir / folder)
        run_tool(scratch_dir, output_dir, soc, cann)
        if not package.is_dir():
            raise BuildError(f"MindSpore's compiler tool ended well, but did not install {package}")
    return package


def run_tool(scratch: Path, output_dir: Path, soc: str, cann: Path) -> None:
    """Run the copy of the tool in its folder; raises BuildError with the end of its log if it fails."""
    command = [
        *(sys.executable, "setup.py", "-o", str(scratch / "op_host"), "-k", str(scratch / "op_kernel")),
        *(f"--vendor_name={VENDOR}", f"--soc_version={soc}", f"--ascend_cann_package_path={cann}"),
        f"--install_path={output_dir}",
    ]
    folder = scratch / "tool"
    # The installer asks whether to replace a package of the same name: no terminal, no question.
    result = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if result.returncode != 0:
        step, log = failed_step(folder, result.stdout.decode(errors="replace"))
        tail = "\n".join(log.rstrip().splitlines()[-LOG_LINES:])
        raise BuildError(
            f"{step} the Ascend operators failed with exit code {result.returncode}; the log ends:\n{tail}"
        )


def failed_step(folder: Path, printed: str) -> tuple[str, str]:
    """Which step of the tool failed, by the last log that it wrote, and the text of that log."""
    for step, name in (("installing", "install.log"), ("compiling", "build.log")):
        if (folder / name).is_file():
            return step, (folder / name).read_text(errors="replace")
    return "preparing", printed


def find_cann(given: Path | None) -> Path:
    """Give the CANN toolkit: `given`, or $ASCEND_HOME_PATH, or where it is installed by default; else BuildError."""
    if given is not None:
        if not given.is_dir():
            raise BuildError(f"no CANN: --cann {given} is not a folder")
        return given.absolute()
    home = os.environ.get("ASCEND_HOME_PATH")
    places = [Path(home)] if home else CANN_PLACES
    for place in places:
        if place.is_dir():
            return place
    if home:
        raise BuildError(f"no CANN: ASCEND_HOME_PATH is {home}, which is not a folder")
    raise BuildError(
        f"no CANN: ASCEND_HOME_PATH is not set and neither {' nor '.join(map(str, CANN_PLACES))} exists; install the "
        "CANN toolkit and source its set_env.sh, or give its folder by --cann"
    )


def check_tools(cann: Path) -> None:
    """Raise BuildError that names every tool that the build needs and that is not there."""
    lacking = []
    search = os.pathsep.join(
        [*(str(folder) for pattern in COMPILER_FOLDERS for folder in cann.glob(pattern)), os.environ.get("PATH", "")]
    )
    if not any(shutil.which(compiler, path=search) for compiler in COMPILERS):
        lacking.append(f"the compiler {' or '.join(COMPILERS)}")
    lacking += [program for program in ("cmake", "bash") if shutil.which(program) is None]
    if not any(all((cann / folder).is_dir() for folder in template) for template in TEMPLATES):
        lacking.append(f"the project template {TEMPLATES[0][0]}")
    if lacking:
        raise BuildError(f"CANN in {cann} cannot compile operators: {', '.join(lacking)} not found")


def find_tool() -> Path:
    """Give the folder of MindSpore's compiler tool, without importing MindSpore; raises BuildError if there is none."""
    found = importlib.util.find_spec("mindspore")
    if found is None or found.origin is None:
        raise BuildError("MindSpore is not installed: its wheel brings the tool that compiles Ascend operators")
    tool = Path(found.origin).parent / "lib" / "plugin" / "ascend" / "custom_compiler"
    if not (tool / "setup.py").is_file():
        raise BuildError(f"this MindSpore has no compiler tool for Ascend operators: {tool}/setup.py is missing")
    return tool


def check_plain(name: str, path: Path) -> None:
    """Raise BuildError for a path that the tool refuses or its shell scripts would split."""
    if not PLAIN_PATH.fullmatch(str(path)):
        raise BuildError(f"{name} is {str(path)!r}; the compiler tool takes only letters, digits and _ / . - in a path")


def vendor_folder(output_dir: Path) -> Path:
    """Where the installer puts the package below `output_dir`."""
    return Path(output_dir) / "vendors" / VENDOR


@contextmanager
def set_aside(package: Path) -> Iterator[Path]:
    """Move a package out of the way while a new one is made in its place; it comes back if that fails."""
    old = package.with_name(f".{package.name}.old")
    if package.is_dir():
        shutil.rmtree(old, ignore_errors=True)
        package.rename(old)
    try:
        yield package
    except BaseException:
        if old.is_dir():
            shutil.rmtree(package, ignore_errors=True)
            old.rename(package)
        raise
    shutil.rmtree(old, ignore_errors=True)
