"""Event logs of the pool: a header and a line of JSON for each step."""

import json
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mindspore_paged.cache.event_log import CACHED, FREE, NULL, PINNED, SHARED, PoolEventLog, read_event_log
from mindspore_paged.pool_picture import render_text
from tests.fuzz.havoc import havoc_of, lie_about
from tests.fuzz.json_values import RAW, broken, mutated, same_content
from tests.fuzz.mutant import EVERYTHING, FileFormat, Files, Mutant

FILE = "run.jsonl"
_NUMBERS = (
    -6,
    -5,
    -1,
    12,
    13,
    2**31 - 2,
    2**31 - 1,
    2**31,
    2**62,
    2**63 - 1,
    [0, 12, 1],
    [11, 1, 3],
    [0, 13, 1],
    [0, 0, 1],
    [1, 2],
)


def _sample() -> Files:
    with TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        with PoolEventLog(path, num_blocks=12, block_size=16) as log:
            owners = np.full(12, FREE, np.int32)
            owners[0] = NULL
            for step, (start, stop, code) in enumerate(
                [(1, 4, 1), (4, 9, 2), (2, 3, SHARED), (1, 9, CACHED), (5, 6, PINNED)]
            ):
                owners[start:stop] = code
                log.record(step * 3, owners, running=step, waiting=5 - step, preemptions=step // 2, host_pages=step)
        return {FILE: path.read_bytes()}


_SAMPLES = [_sample()]


def a_line(files: Files, random: Random) -> Mutant:
    """Other values in a line, or a line that is hardly JSON."""
    lines = files[FILE].split(b"\n")
    at = random.randrange(len(lines) - 1)
    if random.random() < 0.8:
        lines[at], what = mutated(json.loads(lines[at]), random, _NUMBERS)
    else:
        lines[at], what = broken(lines[at], random)
    return Mutant({FILE: b"\n".join(lines)}, f"line {at + 1}: {what}")


def a_large_pool(files: Files, random: Random) -> Mutant:
    """A header that speaks of more blocks than there are, and steps that use them."""
    lines = files[FILE].split(b"\n")
    header = json.loads(lines[0])
    header["num_blocks"] = random.choice((12, 13, 1000, 10**6, 10**8, 2**31 - 1, 2**31, lie_about(12, random)))
    header["block_size"] = random.choice((16, 1, 2**62, lie_about(16, random)))
    lines[0] = json.dumps(header).encode()
    count = random.choice((0, 1, 100, 3000))
    runs = [[1, max(header["num_blocks"] - 1, 0), 5]] * random.choice((1, 20))
    steps = [
        json.dumps({"step": 100 + step, "changes": runs, "counts": {f"c{step}": step}}).encode()
        for step in range(count)
    ]
    return Mutant({FILE: b"\n".join([*lines[:-1], *steps, b""])}, f"{header}, {count} steps")


def steps(files: Files, random: Random) -> Mutant:
    """Lines gone, twice, in another order, or far apart."""
    header, *lines, end = files[FILE].split(b"\n")
    what = random.choice(("gone", "twice", "order", "far", "names"))
    if what == "gone":
        lines.pop(random.randrange(len(lines)))
    elif what == "twice":
        lines.append(random.choice(lines))
    elif what == "order":
        random.shuffle(lines)
    elif what == "far":
        lines.append(json.dumps({"step": random.choice((2**31, 2**53, 2**62, 2**63 - 1))}).encode())
    else:
        lines.append(json.dumps({"step": 10**6, "counts": {"n" * 50_000: 1, "\x1b[2J": 2, "a\nb": 3}}).encode())
    return Mutant({FILE: b"\n".join([header, *lines, end])}, what)


def harmless(files: Files, random: Random) -> Mutant:
    """Written otherwise, or with a last line that was cut off."""
    lines = [same_content(json.loads(line), random).replace(b"\n", b"") for line in files[FILE].split(b"\n")[:-1]]
    cut = random.choice((b"", b'{"step":', b"\xff", random.choice(RAW).encode()))
    return Mutant({FILE: b"\n".join([*lines, cut])}, "written otherwise", EVERYTHING)


def use(folder: Path) -> dict[str, Any]:
    """Read it, count, and draw it in a terminal."""
    log = read_event_log(folder / FILE)
    census = {code: counts.tolist() for code, counts in log.census().items()}
    picture = (
        render_text(log, 80, 24, coloured=True) + render_text(log, 80, 24, coloured=False) if len(log.steps) else ""
    )
    return {
        "census": census,
        "counts": {name: values.tolist() for name, values in log.counts.items()},
        "picture": picture,
    }


FORMATS = (FileFormat("event_log", _SAMPLES, (*[a_line] * 4, a_large_pool, steps, harmless, havoc_of()), use),)
