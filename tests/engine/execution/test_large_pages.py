"""The heap is in large pages afterwards, with what it held, and nothing happens where the system has none."""

import subprocess
import sys
from pathlib import Path

import pytest

from mindspore_paged.engine.execution import large_pages
from mindspore_paged.engine.execution.large_pages import heaps, move_heap_to_large_pages

IN_A_PROCESS_OF_ITS_OWN = """
from mindspore_paged.engine.execution.large_pages import move_heap_to_large_pages

def heap_kilobytes():
    name, kilobytes = "", 0
    for line in open("/proc/self/smaps"):
        first = line.split()[0]
        if not first.endswith(":"):
            name = line.split()[-1]
        elif first == "AnonHugePages:" and name == "[heap]":
            kilobytes += int(line.split()[1])
    return kilobytes

held = [bytes([number % 256]) * 100_000 for number in range(200)]  # malloc maps larger pieces apart from the heap
before = heap_kilobytes()
move_heap_to_large_pages()
print(heap_kilobytes() - before)
assert all(piece == bytes([number % 256]) * 100_000 for number, piece in enumerate(held))
"""


@pytest.mark.skipif(not large_pages.LARGE_PAGE_BYTES.exists(), reason="a system without large pages")
def test_the_heap_is_in_large_pages_and_holds_what_it_did():
    done = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    if done.stdout == "0\n":
        pytest.skip("the system moved nothing: Linux before 6.1, or no memory in one piece")
    assert int(done.stdout) > 15_000


def test_only_heaps_are_taken():
    maps = [
        "55d0c0e00000-55d0c0e21000 r-xp 00000000 fe:00 17                         /usr/bin/python3.11",
        "55d0c1a5f000-55d0c8000000 rw-p 00000000 00:00 0                          [heap]",
        "7f64203e3000-7f6428c4a000 rw-p 00000000 00:00 0 ",
        "7ffd1c5e0000-7ffd1c601000 rw-p 00000000 00:00 0                          [stack]",
    ]
    assert heaps(maps) == [(0x55D0C1A5F000, 0x55D0C8000000)]


@pytest.mark.parametrize("missing", ["MAPS", "LARGE_PAGE_BYTES"])
def test_elsewhere_nothing_happens(monkeypatch, missing):
    monkeypatch.setattr(large_pages, missing, Path("/nowhere"))
    move_heap_to_large_pages()
