"""The block pool over a run as a picture: an image file, or characters for a terminal. Time runs to the right."""

import colorsys
import textwrap
from itertools import groupby
from pathlib import Path

import numpy as np

from mindspore_paged.cache.event_log import CACHED, FREE, NULL, PINNED, REQUEST, SHARED, WITHHELD, EventLog
from mindspore_paged.errors import ConfigError
from mindspore_paged.files import whole_file

LABELS = {
    PINNED: "pinned prefix",
    SHARED: "shared by requests",
    REQUEST: "of one request",
    CACHED: "cached prefix",
    FREE: "free",
    WITHHELD: "withheld",
    NULL: "null block",
}

# Only requests have vivid colours: whatever is grey or pale is no request's own.
COLOURS = {
    PINNED: "#1f2937",
    SHARED: "#6b7280",
    REQUEST: "#3b82f6",
    CACHED: "#c5cad3",
    FREE: "#f6f7f9",
    WITHHELD: "#ead8c3",
    NULL: "#000000",
}
NUM_REQUEST_COLOURS = 48
RUNNING, WAITING, PREEMPTION, HOST = "#2563eb", "#f59e0b", "#dc2626", "#a78bfa"

CHARACTERS = {PINNED: "#", SHARED: "+", CACHED: "-", FREE: ".", WITHHELD: "~", NULL: "_"}
REQUEST_CHARACTERS = "123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

MOST_STEPS, MOST_BLOCKS = 1400, 750
"""What an image shows at most; of more, evenly spread ones are taken."""

LONGEST_LEGEND = 16
LINES_AROUND_BLOCKS = 6
"""Title, axis, counts, two lines of legend, and the prompt that follows."""


def save_picture(log: EventLog, path: Path) -> None:
    """Draw the run as a PNG: blocks by owner, and below it the pool's shares, the queues and the host tier.

    Raises ConfigError if the log has no step yet, or if `path` is no PNG or cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError(f"the picture's file is {path}; its name must end in .png")
    steps = _shown_steps(log, MOST_STEPS)
    # A second to import, so only for those who want an image. Figure, unlike pyplot, keeps no global state.
    from matplotlib.figure import Figure

    panels = [(_draw_blocks, 6.0), (_draw_shares, 1.6), (_draw_queues, 1.3)]
    if "host_pages" in log.counts:
        panels.append((_draw_host, 0.9))
    heights = [height for _, height in panels]
    figure = Figure(figsize=(14, sum(heights) + 0.6), dpi=125, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
    axes = figure.subplots(len(panels), sharex=True, height_ratios=heights)
    for (draw, _), ax in zip(panels, axes, strict=True):
        draw(ax, log, steps)
        ax.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlim(log.steps[0], log.steps[-1] + 1)
    axes[-1].set_xlabel("step")
    try:
        with whole_file(path) as unfinished:
            figure.savefig(unfinished, format="png")
    except OSError as error:
        raise ConfigError(f"{path}: cannot write the picture: {error.strerror}") from None


def render_text(log: EventLog, columns: int, lines: int, coloured: bool) -> str:
    """Draw the blocks by owner within `columns` x `lines` characters.

    coloured: two blocks a character in 24-bit ANSI colours; otherwise one, as plain ASCII. Raises ConfigError if the
    log has no step yet.
    """
    margin = len(str(log.num_blocks)) + 1
    steps = _shown_steps(log, max(columns - margin, 1))
    steps = steps.repeat(max((columns - margin) // len(steps), 1))  # a short run is drawn wider
    blocks_a_line = 2 if coloured else 1
    blocks = _spread(0, log.num_blocks, blocks_a_line * max(lines - LINES_AROUND_BLOCKS, 1))
    codes = log.owners_at(steps, blocks)
    draw = _coloured_line if coloured else _plain_line
    starts = range(0, len(blocks), blocks_a_line)
    picture = [f"{blocks[i]:{margin - 1}} {draw(codes[:, i : i + blocks_a_line])}" for i in starts]
    last = str(log.steps[-1])
    axis = " " * margin + f"{log.steps[0]:<{max(len(steps) - len(last), 1)}}{last}"
    highest = "highest: " + ", ".join(f"{name} {values.max()}" for name, values in log.counts.items())
    captions = [textwrap.fill(highest, columns)] if log.counts else []
    return "\n".join([_title(log), *picture, axis, *captions, _text_legend(codes, columns, coloured)])


def _shown_steps(log: EventLog, most: int) -> np.ndarray:
    if not len(log.steps):
        raise ConfigError("the event log holds no step yet: there is nothing to show")
    return _spread(int(log.steps[0]), int(log.steps[-1]) + 1, most)


def _spread(start: int, end: int, most: int) -> np.ndarray:
    """At most `most` whole numbers from start .. end - 1, evenly spread."""
    count = min(end - start, most)
    return start + np.arange(count) * (end - start) // count


def _title(log: EventLog) -> str:
    return f"{log.num_blocks} blocks of {log.block_size} tokens over {len(log.steps)} steps, by owner"


def _request_colour(number: int) -> tuple[float, float, float]:
    """Red, green, blue from 0 to 1 of the n-th request; requests that arrive together look unlike each other."""
    place = (number - 1) % NUM_REQUEST_COLOURS
    hue = (0.58 + place * 0.381966) % 1  # by the golden angle, a few in a row are spread over the whole circle
    return colorsys.hls_to_rgb(hue, (0.52, 0.68, 0.40)[place % 3], 0.66)


def _colours(codes: np.ndarray) -> np.ndarray:
    """Red, green, blue of each code: uint8 [..., 3]."""
    fixed = [[int(COLOURS[code][i : i + 2], 16) for i in (1, 3, 5)] for code in range(SHARED, REQUEST)]
    requests = [[round(255 * part) for part in _request_colour(n)] for n in range(1, NUM_REQUEST_COLOURS + 1)]
    places = np.where(codes < REQUEST, codes, (codes - REQUEST) % NUM_REQUEST_COLOURS + REQUEST) - SHARED
    return np.array(fixed + requests, np.uint8)[places]


def _draw_blocks(ax, log: EventLog, steps: np.ndarray) -> None:
    codes = log.owners_at(steps, _spread(0, log.num_blocks, MOST_BLOCKS))
    extent = (steps[0], log.steps[-1] + 1, log.num_blocks, 0)
    ax.imshow(_colours(codes.T), extent=extent, aspect="auto", interpolation="nearest")
    ax.set_title(_title(log), loc="left", fontweight="bold", pad=10)
    ax.set_ylabel("block")
    requests = _requests_in(codes)
    named = requests if len(requests) <= LONGEST_LEGEND else requests[: LONGEST_LEGEND - 1]
    patches = [_patch(_request_colour(number), f"request {number}") for number in named]
    if len(named) < len(requests):
        patches.append(_patch("none", f"… to request {requests[-1]}", edge="none"))
    _legend(ax, patches + [_patch(COLOURS[code], LABELS[code]) for code in LABELS if code in codes and code != REQUEST])


def _draw_shares(ax, log: EventLog, steps: np.ndarray) -> None:
    census = log.census()
    shown = [code for code in LABELS if code == FREE or (code != NULL and census[code].any())]
    shares = [100 * _held_until(log, steps, census[code]) / (log.num_blocks - 1) for code in shown]
    ax.stackplot(_edges(log, steps), shares, colors=[COLOURS[code] for code in shown], step="post", linewidth=0)
    ax.set_ylim(0, 100)
    ax.set_ylabel("% of blocks")
    _legend(ax, [_patch(COLOURS[code], LABELS[code]) for code in reversed(shown)])


def _draw_queues(ax, log: EventLog, steps: np.ndarray) -> None:
    for name, colour in (("running", RUNNING), ("waiting", WAITING)):
        if name in log.counts:
            counts = _held_until(log, steps, log.counts[name])
            ax.step(_edges(log, steps), counts, where="post", color=colour, linewidth=1.6, label=name)
    _from_zero(ax, "sequences")
    if "preemptions" in log.counts:
        counts = log.counts["preemptions"]
        marked = log.steps[np.diff(counts, prepend=0) > 0]
        at_top = {"transform": ax.get_xaxis_transform(), "clip_on": False}
        ax.plot(
            marked, np.ones(len(marked)), "v", color=PREEMPTION, label=f"preemption ({counts[-1]} in all)", **at_top
        )
    _legend(ax, ax.get_legend_handles_labels()[0])


def _draw_host(ax, log: EventLog, steps: np.ndarray) -> None:
    pages = _held_until(log, steps, log.counts["host_pages"])
    ax.fill_between(_edges(log, steps), pages, step="post", color=HOST, linewidth=0)
    _from_zero(ax, "pages")
    _legend(ax, [_patch(HOST, "in the host tier")])


def _edges(log: EventLog, steps: np.ndarray) -> np.ndarray:
    """Where the drawn steps begin, and where the last one ends."""
    return np.append(steps, log.steps[-1] + 1)


def _held_until(log: EventLog, steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A value for each edge: what holds from there on, the last one repeated."""
    return values[np.searchsorted(log.steps, _edges(log, steps), side="right") - 1]


def _from_zero(ax, label: str) -> None:
    ax.set_ylim(bottom=0, top=max(1.1 * ax.get_ylim()[1], 1))
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.set_ylabel(label)


def _patch(colour, label: str, edge: str = "#9ca3af"):
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, edgecolor=edge, linewidth=0.6, label=label)


def _legend(ax, handles: list) -> None:
    if handles:
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, borderaxespad=0)


def _requests_in(codes: np.ndarray) -> list[int]:
    return np.unique(codes[codes >= REQUEST]).tolist()


def _plain_line(codes: np.ndarray) -> str:
    """A character for each of codes [steps, 1]."""
    return "".join(map(_character, codes[:, 0].tolist()))


def _character(code: int) -> str:
    return CHARACTERS[code] if code < REQUEST else REQUEST_CHARACTERS[(code - 1) % len(REQUEST_CHARACTERS)]


def _coloured_line(codes: np.ndarray) -> str:
    """Upper half-blocks: codes [steps, 1 or 2], the upper block in the foreground, the lower one in the background."""
    parts = []
    for colours, same in groupby(_colours(codes).reshape(len(codes), -1).tolist()):
        lower = f";48;2;{colours[3]};{colours[4]};{colours[5]}" if len(colours) == 6 else ""
        upper = f"\x1b[38;2;{colours[0]};{colours[1]};{colours[2]}{lower}m"
        parts.append(upper + "▀" * len(list(same)))
    return "".join(parts) + "\x1b[0m"


def _text_legend(codes: np.ndarray, columns: int, coloured: bool) -> str:
    requests = _requests_in(codes)
    entries = [(number, f"request {number}") for number in requests[:1]]
    entries += [(number, f"to {number}") for number in requests[1:][-1:]]
    entries += [(code, LABELS[code]) for code in CHARACTERS if code in codes]
    lines, width = [[]], 0
    for code, label in entries:
        sign = _coloured_line(np.array([[code, code]])) if coloured else _character(code)
        width += len(label) + 4  # the sign, the space behind it, and two before the next entry
        if lines[-1] and width - 2 > columns:
            lines.append([])
            width = len(label) + 4
        lines[-1].append(f"{sign} {label}")
    return "\n".join(map("  ".join, lines))
