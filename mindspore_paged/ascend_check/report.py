"""What a check found, as one Markdown table to be pasted into an issue."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

COLUMNS = ("operator", "shape", "types", "largest error", "allowed", "verdict")
TIME_COLUMNS = ("time", "built in")


@dataclass(frozen=True)
class Finding:
    """One line: an operator on a case, and how far it is from the reference, or how long it takes, or both.

    error, allowed: at the element where the error is largest by what is allowed there; both 0 for what must be equal to
    the last bit. right: whether every error is allowed. milliseconds: of one call. built_in: those of MindSpore's own
    operator, or why there are none. repeats: how often it ran on the same inputs; unequal: how many of these gave
    other bits than the first. failed: why there is no result. skipped: why it was not tried.
    """

    operator: str
    shape: str
    types: str
    error: float | None = None
    allowed: float | None = None
    right: bool = True
    milliseconds: float | None = None
    built_in: float | str | None = None
    repeats: int = 1
    unequal: int = 0
    failed: str = ""
    skipped: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it ran, gave what it should, and the same bits each time; what was skipped is no fault."""
        return self.right and not self.unequal and not self.failed

    @property
    def verdict(self) -> str:
        """What stands in the table: empty for what is timed alone."""
        if self.failed:
            return f"FAILED: {self.failed}"
        if self.skipped:
            return f"skipped: {self.skipped}"
        if self.error is None:
            return ""
        if self.unequal:
            wrong = "" if self.right else "WRONG, and "
            return f"{wrong}UNEQUAL: {self.unequal} of {self.repeats} runs differ from the first"
        times = f", {self.repeats} times the same" if self.repeats > 1 else ""
        return f"ok{times}" if self.right else f"WRONG{times}"

    def cells(self, with_times: bool) -> list[str]:
        """The line's cells."""
        cells = [self.operator, self.shape, self.types, _number(self.error), _number(self.allowed), self.verdict]
        return [*cells, _time(self.milliseconds), _time(self.built_in)] if with_times else cells


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _time(value: float | str | None) -> str:
    return f"{value:.3f} ms" if isinstance(value, float) else (value or "")


def beside_each_other(findings: Iterable[Finding]) -> list[Finding]:
    """Put the time of MindSpore's own operator on the line of ours that has the same shape."""
    lines: dict[tuple, Finding] = {}
    for number, finding in enumerate(findings):
        is_time = finding.milliseconds is not None or finding.built_in is not None
        key = (finding.operator, finding.shape, finding.types) if is_time else number
        if key in lines:
            ours, built_in = sorted((lines[key], finding), key=lambda line: line.milliseconds is None)
            lines[key] = replace(ours, built_in=built_in.built_in)
        else:
            lines[key] = finding
    return list(lines.values())


def markdown(versions: str, findings: Sequence[Finding]) -> str:
    """The versions, the table (times only where there are any) and a verdict."""
    with_times = any(finding.milliseconds is not None for finding in findings)
    header = [*COLUMNS, *(TIME_COLUMNS if with_times else ())]
    lines = [header, ["---"] * len(header), *(finding.cells(with_times) for finding in findings)]
    compared = [finding for finding in findings if finding.verdict]
    bad = [finding for finding in compared if not finding.is_good]
    skipped = sum(bool(finding.skipped) for finding in findings)
    verdict = f"{len(bad)} of {len(compared)} WRONG" if bad else "all ok"
    verdict += f", {skipped} skipped" if skipped else ""
    table = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
    return f"{versions}: {verdict}\n\n{table}"
