"""The whole check of a backend, from build to report."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mindspore_paged.ascend_check.apart import run_group
from mindspore_paged.ascend_check.groups import GROUPS, TIMED_GROUPS, TOKENS, Target
from mindspore_paged.ascend_check.report import Finding, beside_each_other, markdown
from mindspore_paged.ascend_check.tokens import check_tokens
from mindspore_paged.ascend_check.versions import npu_is_present, versions_line
from mindspore_paged.custom_ops.backends import BACKENDS
from mindspore_paged.custom_ops.build import DEFAULT_OUTPUT_DIR, BuildError, build_cpu
from mindspore_paged.custom_ops.build_ascend import build_ascend
from mindspore_paged.custom_ops.build_emulator import build_emulator
from mindspore_paged.errors import ConfigError, StepError

EXIT_WRONG = 1
REPEATS_ON_NPU, REPEATS_ELSEWHERE = 20, 2
"""On a CPU a kernel runs in one order each time; there the repeats are tried themselves."""


def check_backend(
    backend: str,
    *,
    build: bool = True,
    soc: str | None = None,
    cann: Path | None = None,
    only: Sequence[str] = (),
    repeats: int | None = None,
    library: Path | None = None,
    report: Callable[[str], None],
) -> int:
    """Build the operators, compare them and on an NPU time them; `report` gets progress lines.

    only: the groups to run, all if empty. repeats: runs of each check on the same inputs, 20 on an NPU, else 2.
    library: where the operators of a CPU's backend are taken from, in place of its own; the tiny model has those only.

    Prints the table and returns the exit code: 0, or 1 if a result is wrong or unequal, or a check fails. Raises
    ConfigError if there is no NPU, or the operators cannot be built, or an argument makes no sense.
    """
    if _is_on_npu(backend) and not npu_is_present():
        raise ConfigError(
            "no Ascend NPU here: /dev/davinci0 and its like are missing; --backend ascend_emulator runs the NPU's "
            "kernels on this CPU"
        )
    groups = _groups(backend, only, library)
    if repeats is not None and repeats < 1:
        raise ConfigError(f"repeats is {repeats}: it must be 1 or more")
    repeats = repeats or (REPEATS_ON_NPU if _is_on_npu(backend) else REPEATS_ELSEWHERE)
    if build and library is None:
        report(f"building the operators for {backend}")
        build_operators(backend, soc, cann)
    target = Target(backend, library and library.resolve(), repeats)
    findings = beside_each_other(finding for group in groups for finding in check_group(group, target, report))
    print(markdown(versions_line(backend), findings))
    return 0 if all(finding.is_good for finding in findings) else EXIT_WRONG


def _groups(backend: str, only: Sequence[str], library: Path | None) -> list[str]:
    """The groups to run, in their order; raises ConfigError for what there is not."""
    groups = [*GROUPS, *(TIMED_GROUPS if _is_on_npu(backend) else ())]
    if unknown := [group for group in only if group not in groups]:
        raise ConfigError(f"unknown group {unknown[0]!r} for backend {backend}; allowed: {', '.join(groups)}")
    if library is not None:
        if BACKENDS[backend].library is None:
            raise ConfigError(f"backend {backend} has no library: its operators are found in CANN's op package")
        if not library.is_file():
            raise ConfigError(f"library {library} is missing")
        groups.remove(TOKENS)
    return [group for group in groups if not only or group in only]


def build_operators(backend: str, soc: str | None, cann: Path | None) -> None:
    """Build what the backend needs, and the CPU operators to compare with; raises ConfigError where it fails."""
    try:
        build_cpu(DEFAULT_OUTPUT_DIR)
        if backend == "ascend_emulator":
            build_emulator(DEFAULT_OUTPUT_DIR)
        elif backend == "ascend":
            build_ascend(soc=soc, cann=cann)
    except BuildError as error:
        raise ConfigError(str(error)) from error


def check_group(group: str, target: Target, report: Callable[[str], None]) -> Iterator[Finding]:
    """Give a group's findings; what fails is one, too."""
    report(f"group {group}")
    if group != TOKENS:
        yield from run_group(group, target, report)
        return
    try:
        yield check_tokens(target.backend)
    except StepError as error:
        report(f"stopped in group {group}: {error}")
        yield Finding("tiny model against cpu", "", "float32, float16", failed=str(error))


def _is_on_npu(backend: str) -> bool:
    return BACKENDS[backend].device == "Ascend"
