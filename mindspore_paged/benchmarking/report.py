"""How a benchmark shows and keeps its figures: percentiles, Markdown tables, JSON, and pictures of one style."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mindspore_paged.errors import ConfigError
from mindspore_paged.files import whole_file, write_text

PANEL_INCHES = (4.6, 3.6)
DPI = 130


def require_at_least(arguments: Any, smallest: float, *names: str) -> None:
    """Raise ConfigError for a flag of argparse's namespace, or an item of its list, below `smallest`; None passes."""
    for name in names:
        value = getattr(arguments, name)
        for item in value if isinstance(value, list) else [value]:
            if item is not None and not item >= smallest:  # not `<`: a NaN is refused too
                raise ConfigError(f"--{name.replace('_', '-')} is {item}; it must be at least {smallest}")


def output_stem(path: Path, name: str) -> Path:
    """Files to write, without their endings: `path`, or `name` in it where it is a folder.

    Raises ConfigError if the folder is not there: that is told before hours of measuring, not after.
    """
    if path.is_dir():
        return path / name
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--output {path}: its folder is not there")
    return path


def write_results(stem: Path, data: Any, table: str, draw: Callable[[Any], None], panels: int = 2) -> list[Path]:
    """Write STEM.json, STEM.md and STEM.png, and return their paths; `draw` gets the picture's panels."""
    paths = [stem.with_name(stem.name + ending) for ending in (".json", ".md", ".png")]
    write_text(paths[0], json.dumps(data, indent=1, allow_nan=False) + "\n")
    write_text(paths[1], table + "\n")
    _save_figure(paths[2], draw, panels)
    return paths


def _save_figure(path: Path, draw: Callable[[Any], None], panels: int) -> None:
    import matplotlib  # takes a second: --help and bad input do not wait for it

    matplotlib.use("Agg")
    from matplotlib import pyplot

    width, height = PANEL_INCHES
    figure, axes = pyplot.subplots(1, panels, figsize=(width * panels, height), layout="constrained", squeeze=False)
    try:
        draw(axes[0])
        with whole_file(path) as unfinished:
            figure.savefig(unfinished, dpi=DPI, format="png")
    finally:
        pyplot.close(figure)


def draw_bars(panel: Any, groups: Sequence[str], series: dict[str, Sequence[float]], label: str = "{:.0f}") -> None:
    """Bars side by side: a group for each of `groups`, in it a bar for each of `series`, with its value on top."""
    width = 0.8 / len(series)
    for place, (name, values) in enumerate(series.items()):
        at = [group + width * (place - (len(series) - 1) / 2) for group in range(len(groups))]
        panel.bar_label(panel.bar(at, values, 0.95 * width, label=name), fmt=label, fontsize=7)
    panel.set_xticks(range(len(groups)), groups)
    panel.margins(y=0.12)


def percentile(values: Iterable[float], percent: float) -> float:
    """The percentile, linear between neighbours as numpy's; NaN of nothing."""
    values = np.fromiter(values, float)
    return float(np.percentile(values, percent)) if values.size else float("nan")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; cells are written as they are."""
    lines = ["| " + " | ".join(map(str, line)) + " |" for line in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])
