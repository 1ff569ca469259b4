"""The event log against plain matrices, and block_owners against a search row by row."""

import json
import os
from time import process_time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspore_paged.cache.block_pool import BlockPool
from mindspore_paged.cache.block_table import BlockTable
from mindspore_paged.cache.event_log import (
    CACHED,
    FREE,
    NULL,
    PINNED,
    REQUEST,
    SHARED,
    WITHHELD,
    PoolEventLog,
    block_owners,
    read_event_log,
)
from mindspore_paged.errors import ConfigError, IntegrityError

NUM_BLOCKS = 9
HEADER = b'{"format":"mindspore_paged pool events","version":1,"num_blocks":9,"block_size":4,"codes":{"0":"free"}}\n'

codes = st.sampled_from([FREE, CACHED, PINNED, WITHHELD, SHARED, 1, 2, 3, 2**31 - 1])
matrices = st.lists(st.lists(codes, min_size=NUM_BLOCKS, max_size=NUM_BLOCKS), max_size=12).map(
    lambda rows: np.array(rows, np.int32).reshape(-1, NUM_BLOCKS)
)


def owners_of(*codes) -> np.ndarray:
    return np.array(codes, np.int32)


def write_log(path, matrix, steps=None, counts=None):
    with PoolEventLog(path, NUM_BLOCKS, 4) as log:
        for place, owners in enumerate(matrix):
            log.record(place if steps is None else steps[place], owners, **(counts[place] if counts else {}))
    return path


def holding(num_blocks=16, rows=4) -> SimpleNamespace:
    """What block_owners looks at of a cache manager."""
    return SimpleNamespace(pool=BlockPool(num_blocks), table=BlockTable(rows, 6))


def give_row(cache, blocks) -> int:
    row = cache.table.acquire_row()
    cache.table.append(row, blocks)
    return row


def test_each_kind_of_owner():
    cache = holding(num_blocks=12)
    pool = cache.pool
    blocks = pool.allocate(11)
    own, shared, pinned, cached = blocks[:2], blocks[2:4], blocks[4:6], blocks[6:8]
    siblings = blocks[8:9]
    for block in pinned + cached:
        pool.register(block, bytes([block]))
    pool.pin(pinned)
    pool.release(pinned + cached + blocks[9:])
    pool.retain(shared + siblings + pinned[:1])
    rows = [give_row(cache, pinned[:1] + own + shared), give_row(cache, shared + siblings), give_row(cache, siblings)]
    pool.withhold(1)
    withheld = pool.withheld_blocks()
    free = [block for block in blocks[9:] if block not in withheld]

    owners = block_owners(cache, {rows[0]: 7, rows[1]: 9, rows[2]: 9})

    expected = np.full(12, 99)
    expected[0] = NULL
    for group, code in [(own, 7), (shared, SHARED), (siblings, 9), (pinned, PINNED), (cached, CACHED)]:
        expected[group] = code
    expected[withheld], expected[free] = WITHHELD, FREE
    assert owners.dtype == np.int32
    assert owners.tolist() == expected.tolist()


@given(data=st.data())
def test_owners_against_a_search_row_by_row(data):
    cache = holding()
    pool, held = cache.pool, {}
    for _ in range(data.draw(st.integers(0, 4))):
        fresh = pool.allocate(data.draw(st.integers(0, min(4, pool.num_available))))
        others = sorted({block for blocks in held.values() for block in blocks} - set(fresh))
        taken_over = data.draw(st.lists(st.sampled_from(others), unique=True, max_size=2)) if others else []
        pool.retain(taken_over)
        held[give_row(cache, taken_over + fresh)] = taken_over + fresh
    in_rows = sorted({block for blocks in held.values() for block in blocks})
    for block in data.draw(st.lists(st.sampled_from(in_rows), unique=True)) if in_rows else []:
        pool.register(block, bytes([block]))
    pool.pin(data.draw(st.lists(st.sampled_from(in_rows), unique=True, max_size=3)) if in_rows else [])
    for row in data.draw(st.lists(st.sampled_from(sorted(held)), unique=True)) if held else []:
        pool.release(cache.table.release_row(row))
        del held[row]
    pool.withhold(data.draw(st.integers(0, 3)))
    row_owner = {row: data.draw(st.integers(1, 3)) for row in held}

    owners = block_owners(cache, row_owner)

    for block in range(1, pool.num_blocks):
        holders = {row_owner[row] for row, blocks in held.items() if block in blocks}
        if block in pool.withheld_blocks():
            expected = WITHHELD
        elif block in pool.pinned_blocks():
            expected = PINNED
        elif holders:
            expected = holders.pop() if len(holders) == 1 else SHARED
        else:
            expected = CACHED if block in pool.cached_blocks() else FREE
        assert owners[block] == expected
    assert owners[0] == NULL


@pytest.mark.parametrize("row_owner", [{}, {0: 0}, {0: -1}, {1: 5}])
def test_a_row_without_an_owner_is_named(row_owner):
    cache = holding()
    assert give_row(cache, cache.pool.allocate(1)) == 0
    with pytest.raises(IntegrityError, match="^row 0 holds blocks, but no request numbered from 1 owns it$"):
        block_owners(cache, row_owner)


@given(matrix=matrices, data=st.data())
def test_what_is_written_is_read(matrix, data, tmp_path_factory):
    count = len(matrix)
    gaps = data.draw(st.lists(st.integers(1, 5), min_size=count, max_size=count))
    steps = np.cumsum(gaps, dtype=np.int64)
    names = st.dictionaries(st.sampled_from(["running", "waiting"]), st.integers(0, 3))
    counts = data.draw(st.lists(names, min_size=count, max_size=count))
    path = write_log(tmp_path_factory.mktemp("log") / "log", matrix, steps.tolist(), counts)

    log = read_event_log(path)

    assert (log.num_blocks, log.block_size) == (NUM_BLOCKS, 4)
    assert log.steps.tolist() == steps.tolist()
    assert np.array_equal(log.owners_at(log.steps), matrix)
    assert log.owners_at(log.steps).dtype == np.int32
    known = dict.fromkeys({name for step in counts for name in step}, 0)
    for place, step in enumerate(counts):
        known |= step
        assert {name: values[place] for name, values in log.counts.items()} == known
    for code, totals in log.census().items():
        same = matrix >= REQUEST if code == REQUEST else matrix == code
        assert totals.tolist() == same.sum(axis=1).tolist()


@given(matrix=matrices.filter(len), data=st.data())
def test_any_steps_and_blocks_can_be_picked(matrix, data, tmp_path_factory):
    steps = np.arange(len(matrix)) * 3 + 2
    log = read_event_log(write_log(tmp_path_factory.mktemp("log") / "log", matrix, steps.tolist()))
    wanted = sorted(data.draw(st.lists(st.integers(2, int(steps[-1]) + 5))))
    blocks = data.draw(st.lists(st.integers(0, NUM_BLOCKS - 1)))
    expected = [[matrix[min((step - 2) // 3, len(matrix) - 1), block] for block in blocks] for step in wanted]
    assert log.owners_at(np.array(wanted), np.array(blocks, np.int64)).tolist() == expected


def test_a_log_cut_anywhere_keeps_all_steps_that_are_whole(tmp_path):
    matrix = np.array([[1] * NUM_BLOCKS, [1, 2] + [0] * 7, [3] * 4 + [-1] * 5], np.int32)
    whole = write_log(tmp_path / "whole", matrix).read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    cut = tmp_path / "cut"
    for length in range(ends[0] - 1, len(whole) + 1):
        cut.write_bytes(whole[:length])
        log = read_event_log(cut)
        num_whole = sum(end <= length for end in ends[1:])
        assert np.array_equal(log.owners_at(log.steps), matrix[:num_whole])
    for length in range(ends[0] - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match="cut is not an event log of the block pool$"):
            read_event_log(cut)


def test_a_step_can_be_read_as_soon_as_it_is_recorded(tmp_path):
    log = PoolEventLog(tmp_path / "log", NUM_BLOCKS, 4)
    log.record(5, owners_of(*[1] * NUM_BLOCKS), running=1)
    assert read_event_log(tmp_path / "log").steps.tolist() == [5]
    log.close()


def test_a_later_change_of_the_owners_given_in_is_not_missed(tmp_path):
    owners = owners_of(*[FREE] * NUM_BLOCKS)
    with PoolEventLog(tmp_path / "log", NUM_BLOCKS, 4) as log:
        log.record(0, owners)
        owners[3] = 8
        log.record(1, owners)
    assert read_event_log(tmp_path / "log").owners_at(np.array([0, 1]))[:, 3].tolist() == [FREE, 8]


def test_a_long_run_in_which_little_happens_stays_small(tmp_path):
    owners = np.zeros(100_000, np.int32)
    owners[0] = NULL
    with PoolEventLog(tmp_path / "log", len(owners), 16) as log:
        for step in range(1000):
            owners[1 + 50 * step : 51 + 50 * step] = step + 1
            log.record(step, owners, running=1 + step // 500, waiting=7)
    lines = (tmp_path / "log").read_text().splitlines()
    assert json.loads(lines[1])["changes"] == [[0, 1, NULL], [1, 50, 1]]
    assert json.loads(lines[7]) == {"step": 6, "changes": [[301, 50, 7]]}
    assert (tmp_path / "log").stat().st_size < 50_000


@pytest.mark.parametrize(
    ("step", "owners", "message"),
    [
        (3, np.zeros(NUM_BLOCKS, np.int32), "^step 3 is recorded after step 3$"),
        (2, np.zeros(NUM_BLOCKS, np.int32), "^step 2 is recorded after step 3$"),
        (4, np.zeros(NUM_BLOCKS - 1, np.int32), r"^owners are int32 \(8,\); .* each of 9 blocks, as int32$"),
        (4, np.zeros(NUM_BLOCKS, np.int64), r"^owners are int64 \(9,\)"),
        (4, np.full(NUM_BLOCKS, SHARED - 1, np.int32), "a code of at least -5"),
    ],
)
def test_a_step_that_cannot_be_is_refused_and_not_written(tmp_path, step, owners, message):
    with PoolEventLog(tmp_path / "log", NUM_BLOCKS, 4) as log:
        log.record(3, owners_of(*range(NUM_BLOCKS)))
        with pytest.raises(IntegrityError, match=message):
            log.record(step, owners)
        log.record(9, owners_of(*[FREE] * NUM_BLOCKS))
    read = read_event_log(tmp_path / "log")
    assert read.steps.tolist() == [3, 9]
    assert read.owners_at(read.steps).tolist() == [list(range(NUM_BLOCKS)), [FREE] * NUM_BLOCKS]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON"),
        (b"7", "Input should be an object"),
        (b"{}", "step: Field required"),
        (b'{"step":"1"}', "step: Input should be a valid integer"),
        (b'{"step":-1}', "step: Input should be greater than or equal to 0"),
        (b'{"step":0}', "its step is not after the one before"),
        (b'{"step":1,"changes":[[1,2]]}', "changes.0.2: Field required"),
        (b'{"step":1,"changes":[[1,2,-6]]}', "changes.0.2: Input should be greater than or equal to -5"),
        (b'{"step":1,"changes":[[-1,2,0]]}', "changes.0.0: Input should be greater than or equal to 0"),
        (b'{"step":1,"changes":[[8,2,0]]}', "it changes block 9 of 9"),
        (b'{"step":1,"changes":[[1,1,99999999999]]}', "changes.0.2: Input should be less than"),
        (b'{"step":1,"counts":{"running":1.5}}', "counts.running: Input should be a valid integer"),
        (b'{"step":1,"surprise":1}', "surprise: Extra inputs are not permitted"),
        (b'{"step":4611686018427387904}', "step: Input should be less than"),
        (b'{"step":1,"changes":[[1,0,1]]}', "changes.0.1: Input should be greater than or equal to 1"),
        (b'{"step":1,"changes":[' + b"[1,2,-6]," * 50_000 + b"[1,1,1]]}", "changes.0.2: Input should be greater than"),
        (b'{"step":1,"counts":{"\\u001b[2J":1}}', "counts.\\x1b[2J.[key]: String should match pattern"),
        (b'{"step":1,"counts":{' + b'"a\\n":1,' * 12 + b'"b":9e99}}', "counts.a .[key]: String should match"),
        (b'{"step":1,"counts":{' + b",".join(b'"c%d":1' % n for n in range(200_000)) + b"}}", "it holds more than 16"),
        (b'\xff{"step":1}', "Invalid JSON"),
    ],
)
def test_damage_is_located_in_one_line(tmp_path, line, problem):
    path = tmp_path / "log"
    path.write_bytes(HEADER + b'{"step":0}\n' + line + b'\n{"step":2}\n')
    with pytest.raises(ConfigError) as caught:
        read_event_log(path)
    message = str(caught.value)
    assert message.startswith(f"{path} line 3 is damaged: {problem}")
    assert "\n" not in message


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"hello", b"GGUF\x03\x00\xff", b"{}", b'{"format":"other"}\n', b"x" * 10_000]
)
def test_another_kind_of_file_is_called_that(tmp_path, content):
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="log is not an event log of the block pool$"):
        read_event_log(path)


def test_another_version_is_refused(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(HEADER.replace(b'"version":1', b'"version":2'))
    with pytest.raises(ConfigError, match="an event log of version 2; this program reads version 1$"):
        read_event_log(path)


@pytest.mark.parametrize("name", ["", "missing"])
def test_a_path_without_a_file_is_reported(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot read the pool's event log: (Is a directory|No such file)"):
        read_event_log(tmp_path / name)


def test_a_path_that_cannot_be_written_is_reported(tmp_path):
    with pytest.raises(ConfigError, match="cannot write the pool's event log: No such file or directory$"):
        PoolEventLog(tmp_path / "missing" / "log", NUM_BLOCKS, 4)


@pytest.mark.parametrize(
    ("num_blocks", "lines", "problem"),
    [
        (2**31 - 1, [b'{"step":1}'], f"{2**31 - 1} blocks; at most {2**24} can be"),
        (64, [b'{"step":%d,"counts":{"c%d":1}}' % (n, n) for n in range(20_000)], "17 counts; at most 16 can be"),
        (64, [b""] * 500_001, "500001 steps; at most 500000 can be"),
        (64, [b'{"step":1,"changes":[' + b"[0,1,1]," * 1_000_001 + b"[0,1,1]]}"], "1000002 changes; at most 1000000"),
        (
            2**24,
            [b'{"step":%d,"changes":[[0,16777216,1]]}' % n for n in range(17)],
            f"{17 * 2**24} changed blocks; at most",
        ),
        (
            2**24,
            [b'{"step":1,"changes":[' + b"[0,16777216,1]," * 16 + b"[0,1,1]]}"],
            f"{2**28 + 1} changed blocks; at most",
        ),
        (
            64,
            [b" " * 2**26],
            f"cannot read the pool's event log: {2**26 + len(HEADER) + 2} bytes; at most {2**26} can be",
        ),
    ],
    ids=["blocks", "counts", "steps", "changes", "changed by many steps", "changed by one step", "bytes"],
)
def test_what_is_too_large_to_be_shown_is_refused_at_once(tmp_path, num_blocks, lines, problem):
    path = tmp_path / "log"
    path.write_bytes(HEADER.replace(b'"num_blocks":9', b'"num_blocks":%d' % num_blocks) + b"\n".join(lines) + b"\n")
    started = process_time()
    with pytest.raises(ConfigError) as caught:
        read_event_log(path)
    assert process_time() - started < 2
    assert problem in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "log")
    with pytest.raises(ConfigError, match="cannot read the pool's event log: not a regular file$"):
        read_event_log(tmp_path / "log")
