"""The whole check of a backend, from build to report."""

from collections.abc import Callable
from pathlib import Path

from mindspore_paged.ascend_check.report import Finding, markdown
from mindspore_paged.ascend_check.tokens import check_tokens
from mindspore_paged.ascend_check.versions import npu_is_present, versions_line
from mindspore_paged.config import config_from_dict
from mindspore_paged.custom_ops.backends import BACKENDS
from mindspore_paged.custom_ops.build import DEFAULT_OUTPUT_DIR, BuildError, build_cpu
from mindspore_paged.custom_ops.build_ascend import build_ascend
from mindspore_paged.custom_ops.build_emulator import build_emulator
from mindspore_paged.errors import ConfigError

EXIT_WRONG = 1


def check_backend(
    backend: str, *, build: bool = True, soc: str | None = None, cann: Path | None = None, report: Callable[[str], None]
) -> int:
    """Build the operators, compare them and on an NPU time them; `report` gets progress lines.

    Prints the table and returns the exit code: 0, or 1 if a result is wrong. Raises ConfigError if there is no NPU, or
    the operators cannot be built, and StepError if a run fails.
    """
    if _is_on_npu(backend) and not npu_is_present():
        raise ConfigError(
            "no Ascend NPU here: /dev/davinci0 and its like are missing; --backend ascend_emulator runs the NPU's "
            "kernels on this CPU"
        )
    if build:
        report(f"building the operators for {backend}")
        build_operators(backend, soc, cann)
    report("a tiny model's tokens, in processes of their own")
    findings: list[Finding] = [check_tokens(backend)]  # before this process takes the device
    findings += check_in_this_process(backend, report)
    print(markdown(versions_line(backend), findings))
    return 0 if all(finding.right for finding in findings) else EXIT_WRONG


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


def check_in_this_process(backend: str, report: Callable[[str], None]) -> list[Finding]:
    """Put MindSpore on the backend's device, compare every operator, and time them on an NPU."""
    from mindspore_paged.ascend_check.operators import check_operators  # seconds to import: bad input does not wait
    from mindspore_paged.engine.building.context import set_context

    set_context(config_from_dict({"cache": {"kv_cache_dtype": "float16"}, "runtime": {"ops_backend": backend}}))
    report("each operator against NumPy")
    findings = list(check_operators(backend))
    if _is_on_npu(backend):
        from mindspore_paged.ascend_check.timing import time_operators

        report("times, and those of MindSpore's own operators")
        findings += time_operators(backend)
    return findings


def _is_on_npu(backend: str) -> bool:
    return BACKENDS[backend].device == "Ascend"
