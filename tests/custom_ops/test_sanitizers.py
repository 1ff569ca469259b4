"""The operators under the sanitizers (sanitize.py), and that these find what is wrong."""

import shutil
import subprocess
import sys
import textwrap

import pytest

from mindspore_paged.custom_ops.build import CPU_SOURCES, OP_SOURCES, levels_of_machine
from tests.custom_ops.sanitize import DEFAULT_BUILDS, ROOT

pytestmark = pytest.mark.slow


def sanitize(*arguments, **environment):
    """Run as a user does; returns the exit code and everything that is printed."""
    command = [sys.executable, "-m", "tests.custom_ops.sanitize", *map(str, arguments)]
    done = subprocess.run(
        ["env", *(f"{name}={value}" for name, value in environment.items()), *command],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_nothing_is_found():
    code, output = sanitize()
    assert code == 0, output
    for build in DEFAULT_BUILDS:
        assert f"{build}: 0 findings, exit code 0" in output


FAULTY = r"""
#include <cstdint>
#include <cstring>
#include <functional>
#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int Right(const float* numbers, int64_t) { return static_cast<int>(numbers[0]); }
EXPORT int ReadsBehind(const float* numbers, int64_t count) { return numbers[count] > 0; }
EXPORT int ReadsBefore(const float* numbers, int64_t) { return numbers[-1] > 0; }
EXPORT int Overflows(const float*, int64_t count) { return static_cast<int>(count) * 2000000000; }
EXPORT int ReadsOddAddress(const float* numbers, int64_t) {
  return *reinterpret_cast<const float*>(reinterpret_cast<const char*>(numbers) + 1) > 0;
}
EXPORT int ConvertsNaN(const float* numbers, int64_t) { return static_cast<int>(numbers[1] / numbers[1]); }
EXPORT int ShiftsTooFar(const float*, int64_t count) { return 1 << (count * 20); }
EXPORT int UsesWhatIsGone(const float*, int64_t count) {
  std::function<int64_t()> later;
  {
    int64_t gone = count;
    later = [&gone] { return gone; };
  }
  return static_cast<int>(later());
}
"""

CALL = """
    import ctypes, os
    import numpy as np
    from tests.custom_ops.kernel_builds import native_library

    def test_call():
        numbers = np.array([1, 0], np.float32)
        function = getattr(ctypes.CDLL(str(native_library())), {function!r})
        assert function(ctypes.c_void_p(numbers.ctypes.data), ctypes.c_int64(2)) == 1
"""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Runs a test that calls a function of a small library; its outcome."""
    sources, tests, output = (tmp_path_factory.mktemp(name) for name in ("sources", "tests", "output"))
    (sources / "faulty.cc").write_text(FAULTY)

    def call(function):
        test = tests / f"test_{function}.py"
        test.write_text(textwrap.dedent(CALL.format(function=function)))
        return sanitize("native", "--sources", sources, "--output", output, "--tests", test)

    return call


def test_a_right_function_passes(faulty):
    code, output = faulty("Right")
    assert (code, "native: 0 findings, exit code 0" in output) == (0, True), output


@pytest.mark.parametrize(
    ("function", "finding"),
    [
        ("ReadsBehind", "heap-buffer-overflow"),
        ("ReadsBefore", "heap-buffer-overflow"),
        ("Overflows", "signed integer overflow"),
        ("ReadsOddAddress", "misaligned address"),
        ("ConvertsNaN", "nan is outside the range of representable values"),
        ("ShiftsTooFar", "shift exponent"),
        ("UsesWhatIsGone", "stack-use-after-scope"),
    ],
)
def test_a_fault_is_found(faulty, function, finding):
    code, output = faulty(function)
    assert code == 1, output
    assert "native: 1 findings" in output
    assert finding in output
    assert function in output  # where


OF_ALL = "std::unique_lock<std::mutex> loop(loop_, std::defer_lock);"
OF_NONE = "std::mutex own; std::unique_lock<std::mutex> loop(own, std::defer_lock);"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        # The caller may see a loop's end before what its chunks wrote.
        ("unfinished_.fetch_sub(1, std::memory_order_release)", "unfinished_.fetch_sub(1, std::memory_order_relaxed)"),
        (OF_ALL, OF_NONE),  # two callers begin a loop at once
    ],
    ids=["relaxed", "unlocked"],
)
def test_a_race_in_the_team_is_found(tmp_path, right, wrong):
    sources = tmp_path / "cpu"
    shutil.copytree(CPU_SOURCES, sources)
    shutil.copytree(OP_SOURCES, tmp_path / "op")
    threads = sources / "runtime" / "threads.h"
    header = threads.read_text()
    assert header.count(right) == 1
    threads.write_text(header.replace(right, wrong))
    code, output = sanitize("threads", "--sources", sources, "--output", tmp_path)
    assert code == 1, output
    assert "WARNING: ThreadSanitizer: data race" in output


def test_a_compiler_without_sanitizers_is_named(tmp_path):
    compiler = tmp_path / "g++"
    compiler.write_text('#!/bin/sh\ncase "$1" in -print-file-name=*) echo "${1#*=}";; *) exec g++ "$@";; esac\n')
    compiler.chmod(0o755)
    for build, library in (("native", "libasan.so"), ("threads", "libtsan.so")):
        code, output = sanitize(build, "--output", tmp_path, CXX=compiler)
        assert code == 2
        assert output.splitlines() == [
            f"error: {compiler} has no {library}, which comes with g++: install that, or set CXX to it"
        ]


def test_a_build_that_is_unknown_or_not_of_this_cpu_is_refused(tmp_path):
    code, output = sanitize("fast", "--output", tmp_path)
    names = ", ".join(["native", *(level.name for level in levels_of_machine()), "threads"])
    assert (code, output) == (2, f"error: unknown build 'fast'; allowed: {names}\n")
    for level in levels_of_machine():
        if level.missing_here():
            code, output = sanitize(level.name, "--output", tmp_path)
            lacks = ", ".join(level.missing_here())
            assert (code, output) == (2, f"error: build {level.name}: this CPU cannot run it: it lacks {lacks}\n")
    (tmp_path / "empty").mkdir()
    code, output = sanitize("native", "--sources", tmp_path / "empty", "--output", tmp_path)
    assert (code, output) == (2, f"error: {tmp_path / 'empty'} has no .cc files\n")
