"""What a check found, as one Markdown table to be pasted into an issue."""

from collections.abc import Sequence
from dataclasses import dataclass

COLUMNS = ("operator", "shape", "types", "largest error", "allowed", "verdict")
TIME_COLUMNS = ("time", "built in")


@dataclass(frozen=True)
class Finding:
    """One line: an operator on a case, and how far it is from the reference, or how long it takes, or both.

    error, allowed: at the element where the error is largest by what is allowed there; both 0 for what must be equal to
    the last bit. milliseconds: of one call. built_in: those of MindSpore's own operator, or why there are none.
    """

    operator: str
    shape: str
    types: str
    error: float | None = None
    allowed: float | None = None
    right: bool = True
    milliseconds: float | None = None
    built_in: float | str | None = None

    def cells(self, with_times: bool) -> list[str]:
        """The line's cells."""
        verdict = "" if self.error is None else ("ok" if self.right else "WRONG")
        cells = [self.operator, self.shape, self.types, _number(self.error), _number(self.allowed), verdict]
        return [*cells, _time(self.milliseconds), _time(self.built_in)] if with_times else cells


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _time(value: float | str | None) -> str:
    return f"{value:.3f} ms" if isinstance(value, float) else (value or "")


def markdown(versions: str, findings: Sequence[Finding]) -> str:
    """The versions, the table (times only where there are any) and a verdict."""
    with_times = any(finding.milliseconds is not None for finding in findings)
    header = [*COLUMNS, *(TIME_COLUMNS if with_times else ())]
    lines = [header, ["---"] * len(header), *(finding.cells(with_times) for finding in findings)]
    compared = [finding.right for finding in findings if finding.error is not None]
    verdict = "all ok" if all(compared) else f"{compared.count(False)} of {len(compared)} WRONG"
    table = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
    return f"{versions}: {verdict}\n\n{table}"
