"""The picture of a run: what its pixels and characters say, against the log that they were drawn from."""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from mindspore_paged import SamplingParams
from mindspore_paged.cache.event_log import (
    CACHED,
    FREE,
    NULL,
    PINNED,
    REQUEST,
    SHARED,
    WITHHELD,
    EventLog,
    PoolEventLog,
    block_owners,
    read_event_log,
)
from mindspore_paged.errors import ConfigError
from mindspore_paged.pool_picture import MOST_BLOCKS, MOST_STEPS, render_text, save_picture
from tests.engine.paged_oracle import VOCAB, make_engine

SCRIPT = Path(__file__).parent.parent / "scripts" / "show_cache.py"
GROUND = 0xFFFFFF


def log_of(matrix, first_step=0, **counts) -> EventLog:
    """A log whose owners are the rows of `matrix`, a step each."""
    matrix = np.asarray(matrix, np.int32)
    steps = np.arange(len(matrix)) + first_step
    before = np.vstack([np.zeros_like(matrix[:1]), matrix[:-1]])
    changes = [
        np.array([[block, 1, now[block]] for block in np.flatnonzero(now != last)], np.int32).reshape(-1, 3)
        for last, now in zip(before, matrix)
    ]
    return EventLog(matrix.shape[1], 4, steps, {name: np.array(values) for name, values in counts.items()}, changes)


def quarters(num_steps=8, num_blocks=16) -> np.ndarray:
    """First request 1 above request 2, then request 3 above free blocks."""
    matrix = np.zeros((num_steps, num_blocks), np.int32)
    matrix[: num_steps // 2, : num_blocks // 2], matrix[: num_steps // 2, num_blocks // 2 :] = 1, 2
    matrix[num_steps // 2 :, : num_blocks // 2] = 3
    return matrix


def draw(log, path) -> np.ndarray:
    """The pixels of the saved picture: [height, width], each 0xRRGGBB."""
    save_picture(log, path)
    return np.rint(imread(path)[..., :3] * 255).astype(np.int64) @ (1 << 16, 1 << 8, 1)


def main_colour(pixels) -> int:
    colours, sizes = np.unique(pixels[pixels != GROUND], return_counts=True)
    return int(colours[sizes.argmax()])


@pytest.fixture(scope="module")
def colour_of(tmp_path_factory):
    """The colours of requests 1 to 3 and of free blocks: what fills a picture in which every block is of one kind."""
    path = tmp_path_factory.mktemp("colours") / "a.png"
    return {code: main_colour(draw(log_of([[code] * 16] * 8), path)) for code in (1, 2, 3, FREE)}


@pytest.mark.parametrize("shape", [(8, 16), (5000, 3000)])
def test_time_runs_to_the_right_and_blocks_down_in_equal_areas(tmp_path, colour_of, shape):
    pixels = draw(log_of(quarters(*shape)), tmp_path / "a.png")
    areas = [np.nonzero(pixels == colour_of[code]) for code in (1, 2, 3, FREE)]
    above_left, below_left, above_right, below_right = ([np.median(axis) for axis in area] for area in areas)
    down, right = np.subtract(below_left, above_left), np.subtract(above_right, above_left)
    height, width = pixels.shape
    assert down == pytest.approx([0.26 * height, 0], abs=0.03 * height)
    assert right == pytest.approx([0, 0.4 * width], abs=0.03 * width)
    assert (np.array(below_right) > above_left).all()
    sizes = [len(rows) for rows, _ in areas[:3]]
    assert sizes == pytest.approx([0.115 * pixels.size] * 3, rel=0.1)


def test_every_kind_of_block_has_a_colour_of_its_own(tmp_path):
    kinds = [FREE, CACHED, PINNED, WITHHELD, SHARED, NULL, *range(1, 49)]
    pixels = draw(log_of([kinds, kinds]), tmp_path / "a.png")
    sizes = np.unique(pixels[pixels != GROUND], return_counts=True)[1]
    assert (sizes > 0.3 * pixels.size / len(kinds)).sum() >= len(kinds)


def test_the_share_of_requests_is_as_high_as_their_blocks_are_many(tmp_path):
    areas = []
    for count in (16, 8, 4):
        pixels = draw(log_of([[NULL] + [1] * count + [FREE] * (16 - count)] * 4), tmp_path / "a.png")
        areas.append((pixels == 0x3B82F6).sum())
    assert areas[0] / areas == pytest.approx([1, 2, 4], rel=0.05)
    assert areas[0] > 0.08 * pixels.size


def test_a_host_tier_and_preemptions_are_drawn_where_there_are_any(tmp_path):
    plain = draw(log_of(quarters(), running=[1] * 8, waiting=[0] * 8), tmp_path / "a.png")
    counts = {"running": [1] * 8, "waiting": [0] * 8, "preemptions": [0, 0, 1, 1, 1, 3, 3, 3]}
    marked = draw(log_of(quarters(), **counts), tmp_path / "b.png")
    tiered = draw(log_of(quarters(), **counts, host_pages=[4] * 8), tmp_path / "c.png")
    red = 0xDC2626
    columns = np.nonzero((marked == red).any(axis=0))[0]
    marks = columns[np.diff(columns, prepend=-9) > 1]
    assert not (plain == red).any()
    assert len(marks) == 3  # after steps 2 and 5, and in the legend
    assert marks[1] - marks[0] == pytest.approx(marked.shape[1] * 0.8 * 3 / 8, rel=0.05)
    assert tiered.shape[0] > marked.shape[0]


@pytest.mark.parametrize(
    "log", [log_of([[0, 1]]), log_of([[NULL, NULL]]), log_of([[NULL, 5]] * 2, first_step=10**9, running=[0, 0])]
)
def test_the_smallest_runs_can_be_drawn(tmp_path, log):
    assert draw(log, tmp_path / "a.png").size
    assert render_text(log, 80, 24, coloured=False)


def test_plain_text_is_exactly_this():
    log = log_of(quarters(4, 4), first_step=7, running=[2, 2, 1, 1])
    assert render_text(log, columns=10, lines=24, coloured=False).splitlines() == [
        "4 blocks of 4 tokens over 4 steps, by owner",
        "0 11113333",
        "1 11113333",
        "2 2222....",
        "3 2222....",
        "  7     10",
        "highest:",
        "running 2",
        "1 request 1",
        "3 to 3",
        ". free",
    ]


def test_each_code_has_its_character():
    codes = [NULL, PINNED, SHARED, CACHED, FREE, WITHHELD, 9, 10, 35, 36, 60, 61, 62]
    lines = render_text(log_of([codes]), columns=4, lines=50, coloured=False).splitlines()
    assert [line[-1] for line in lines[1 : 1 + len(codes)]] == list("_#+-.~9azAYZ1")


@pytest.mark.parametrize("columns", [20, 33, 80, 200])
@pytest.mark.parametrize("coloured", [False, True])
def test_the_text_fits_the_terminal_and_fills_its_width(columns, coloured):
    log = log_of(np.random.default_rng(0).integers(SHARED, 90, (50, 300)), waiting=[3] * 50)
    text = re.sub(r"\x1b\[[\d;]*m", "", render_text(log, columns, 24, coloured)).splitlines()
    assert max(map(len, text[1:])) <= columns
    assert columns - 50 < len(text[1]) <= columns
    assert columns < 80 or len(text) < 24


def test_colours_of_the_terminal_are_those_of_upper_and_lower_blocks():
    matrix = np.random.default_rng(1).integers(SHARED, 5, (6, 7))
    lines = render_text(log_of(matrix), columns=8, lines=24, coloured=True).splitlines()[1:5]
    colour_of, seen = {}, 0
    for place, line in enumerate(lines):
        step, colours = 0, ()
        for numbers, characters in re.findall(r"\x1b\[([\d;]+)m([^\x1b]*)", line):
            colours = numbers.split(";")
            for _ in characters:
                for half, block in enumerate(range(2 * place, min(2 * place + 2, 7))):
                    colour = tuple(colours[5 * half + 2 : 5 * half + 5])
                    assert colour_of.setdefault(matrix[step, block], colour) == colour
                    seen += 1
                step += 1
    assert seen == matrix.size
    assert len(set(colour_of.values())) == len(colour_of) == len(np.unique(matrix))


def test_a_log_without_a_step_has_no_picture(tmp_path):
    PoolEventLog(tmp_path / "log", 4, 4).close()
    log = read_event_log(tmp_path / "log")
    for show in (lambda: save_picture(log, tmp_path / "a.png"), lambda: render_text(log, 80, 24, coloured=False)):
        with pytest.raises(ConfigError, match="^the event log holds no step yet: there is nothing to show$"):
            show()


def test_the_largest_numbers_of_a_log_can_be_drawn(tmp_path):
    """Written by hand: no run lasts so long."""
    path, last = tmp_path / "log", 2**48 - 1
    PoolEventLog(path, 9, 4).close()
    with path.open("a") as file:
        file.write('{"step":0,"changes":[[0,9,2147483647]]}\n')
        file.write(f'{{"step":{last},"counts":{{"running":{last}}}}}\n')
    log = read_event_log(path)
    assert log.counts["running"].tolist() == [0, last]
    assert str(last) in render_text(log, 80, 24, coloured=False)
    assert draw(log, tmp_path / "a.png").size


def test_an_engine_can_record_itself_and_be_drawn(tmp_path):
    """Counted from the file, used and cached blocks are at every step what the pool itself says."""
    rng, engine = random.Random(3), make_engine(num_blocks=14, max_num_seqs=5)
    prefix = [rng.randrange(VOCAB) for _ in range(12)]
    for _ in range(12):
        prompt = prefix[: rng.randint(1, 12)] + [rng.randrange(VOCAB) for _ in range(rng.randint(1, 8))]
        engine.add_request(engine.make_request(prompt, SamplingParams(max_tokens=rng.randint(1, 12), n=2)))
    scheduler, pool = engine.scheduler, engine.scheduler.cache.pool
    expected = []
    with PoolEventLog(tmp_path / "run.jsonl", pool.num_blocks, 4) as log:
        while engine.has_unfinished:
            engine.step()
            owners = block_owners(scheduler.cache, {s.row: s.request.arrival + 1 for s in scheduler.running})
            log.record(len(expected), owners, running=len(scheduler.running), preemptions=scheduler.num_preemptions)
            expected.append((pool.num_used, pool.num_cached))
    read = read_event_log(tmp_path / "run.jsonl")
    census = read.census()
    assert list(zip(census[REQUEST] + census[SHARED], census[CACHED])) == expected
    assert census[SHARED].any()
    assert read.counts["preemptions"][-1] == scheduler.num_preemptions > 0
    assert draw(read, tmp_path / "run.png").size


@pytest.fixture
def run_log(tmp_path) -> Path:
    with PoolEventLog(tmp_path / "run.log", 16, 4) as log:
        for step, owners in enumerate(quarters()):
            log.record(step, owners, running=2)
    return tmp_path / "run.log"


def show_cache(*arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def test_the_script_writes_a_picture_beside_the_log(run_log):
    done = show_cache(run_log)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"wrote {run_log}.png\n", "")
    assert imread(f"{run_log}.png").size


def test_the_script_draws_plain_letters_into_a_pipe(run_log):
    done = show_cache(run_log, "--terminal", COLUMNS="40", LINES="30")
    log = read_event_log(run_log)
    assert (done.returncode, done.stdout) == (0, render_text(log, 40, 30, coloured=False) + "\n")
    assert not Path(f"{run_log}.png").exists()


def test_help_teaches():
    done = show_cache("--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("How to read it", "examples:", "--terminal", "--output PNG"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jsonl"], "missing.jsonl: cannot read the pool's event log: No such file or directory"),
        ([__file__], f"{__file__} is not an event log of the block pool"),
        (["LOG", "--output", "a.pdf"], "the picture's file is a.pdf; its name must end in .png"),
        (["LOG", "--output", "/nowhere/a.png"], "/nowhere/a.png: cannot write the picture: No such file or directory"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run_log, arguments, message):
    done = show_cache(*[run_log if argument == "LOG" else argument for argument in arguments])
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")


def test_drawing_in_a_terminal_needs_neither_mindspore_nor_matplotlib():
    program = (
        "import sys, mindspore_paged.pool_picture, mindspore_paged.cache.event_log\n"
        "print(sorted({'mindspore', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_long_run_is_drawn_from_as_many_blocks_and_steps_as_an_image_shows(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (figures.append(figure), path.touch()))
    save_picture(log_of(np.ones((MOST_STEPS * 2, MOST_BLOCKS * 2)), first_step=9), tmp_path / "a.png")
    blocks = figures[0].axes[0]
    assert blocks.get_images()[0].get_array().shape == (MOST_BLOCKS, MOST_STEPS, 3)
    assert blocks.get_xlim() == (9, 9 + MOST_STEPS * 2)
    assert blocks.get_ylim() == (MOST_BLOCKS * 2, 0)
