"""Groups of checks, each of which runs in a process of its own, and what a group's checks are."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mindspore_paged.ascend_check import grid
from mindspore_paged.ascend_check.report import Finding
from mindspore_paged.custom_ops.backends import BACKENDS

FAR_PAGES, TIMES, BUILT_IN_TIMES, TOKENS = "far_pages", "times", "built_in_times", "tokens"
GROUPS = (TOKENS, *grid.ATTENTION, *grid.MOVING, FAR_PAGES)
"""Those that compare, on any backend; `tokens` starts its processes itself."""
TIMED_GROUPS = (TIMES, BUILT_IN_TIMES)
"""Those that time, on an NPU."""


@dataclass(frozen=True)
class Target:
    """What is checked, and how: a backend, its operators' library where another is to be taken, and the repeats."""

    backend: str
    library: Path | None = None
    repeats: int = 1

    @property
    def operators(self) -> str | Path:
        """What the operators are asked for by."""
        return self.library or self.backend

    @property
    def is_on_npu(self) -> bool:
        """Whether the operators run on an NPU."""
        return BACKENDS[self.backend].device == "Ascend"


@dataclass(frozen=True)
class Check:
    """One check of a group: operators and shape, which are told where it stops, and what it finds."""

    operator: str
    shape: str
    run: Callable[[], Iterator[Finding]]


def checks_of(group: str, target: Target) -> list[Check]:
    """The checks of a group, in order, always the same ones; MindSpore is imported here."""
    from mindspore_paged.ascend_check import far_pages, operators, timing

    if group in grid.ATTENTION:
        check = operators.check_padding if group == "padding" else operators.check_attention
        return [
            Check("paged_attention", case.shape, partial(_alone, check, case, target)) for case in grid.ATTENTION[group]
        ]
    if group in grid.MOVING:
        return [
            Check(
                "reshape_and_cache, copy_blocks, read_blocks, write_blocks",
                case.shape,
                partial(operators.check_writer_case, case, target.operators, target.repeats),
            )
            for case in grid.MOVING[group]
        ]
    if group == FAR_PAGES:
        return [
            Check(
                "reshape_and_cache, copy_blocks, read_blocks, paged_attention",
                case.shape,
                partial(far_pages.check_far_pages, case, target.operators, target.repeats, target.is_on_npu),
            )
            for case in grid.FAR_PAGES
        ]
    times = timing.built_in_times() if group == BUILT_IN_TIMES else timing.times(target.operators)
    return [Check(*timed) for timed in times]


def _alone(check: Callable[..., Finding], case: grid.AttentionCase, target: Target) -> Iterator[Finding]:
    yield check(case, target.operators, target.repeats)
