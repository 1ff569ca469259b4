"""The team of threads: many callers at once, growing and shrinking, what a process is given, and forked children."""

import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from tests.custom_ops.kernel_builds import native_library
from tests.custom_ops.kernel_calls import assert_same_bits
from tests.custom_ops.layer_reference import make_weight
from tests.custom_ops.layer_scenes import EPSILON, make_layer_scene, make_norm_weight, make_tokens

SECONDS = 60  # a team that waits for ever must fail the test, not hang it


def run_together(bodies):
    """Each in a thread of its own, all begun at once; raises what one of them raises."""
    begin, errors = threading.Barrier(len(bodies)), []

    def run(body):
        try:
            begin.wait()
            body()
        except Exception as error:  # noqa: BLE001 - any is the test's to tell
            errors.append(error)

    threads = [threading.Thread(target=run, args=(body,), daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert not any(thread.is_alive() for thread in threads), "a call does not return"
    for error in errors:
        raise error


def linear_caller(kernels, seed, form, num_tokens):
    """A function that computes one product again and again, and checks that it is always the same."""
    rng = np.random.default_rng(seed)
    x, norm_weight = make_tokens(rng, num_tokens, 288), make_norm_weight(rng, 288)
    weight = make_weight(rng, form, 100 + seed, 288)
    expected = kernels.norm_linear(x, norm_weight, weight, EPSILON)

    def call():
        for _ in range(60):
            assert_same_bits(kernels.norm_linear(x, norm_weight, weight, EPSILON), expected)

    return call


def attention_caller(kernels, seed):
    """The same of attention over a long context, which is shared among threads too."""
    scene = make_layer_scene(
        np.random.default_rng(seed), [1500], [20], ("float32",) * 4, heads=8, head_dim=64, columns=64
    )
    expected = scene.run(kernels)

    def call():
        for _ in range(15):
            assert_same_bits(scene.run(kernels), expected)

    return call


def make_callers(kernels):
    linear = [linear_caller(kernels, seed, form, seed) for seed, form in ((9, "float32"), (20, "Q4_1"), (49, "int8"))]
    return [*linear, attention_caller(kernels, 5), attention_caller(kernels, 6)]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_callers_at_once_each_get_their_own_result(kernels, set_threads, threads):
    set_threads(1)
    callers = make_callers(kernels)
    set_threads(threads)
    run_together(callers * 2)


def test_the_team_may_grow_and_shrink_between_calls(kernels, set_threads):
    set_threads(1)
    callers = make_callers(kernels)
    for number in (4, 1, 2, 7, 3, 1):
        set_threads(number)
        assert kernels.num_threads() == number
        for call in callers:
            call()


def test_the_team_may_grow_and_shrink_while_others_call(kernels, set_threads):
    set_threads(1)
    callers = make_callers(kernels)[:3]  # products: attention counts the threads when it begins

    def resize():
        for number in (4, 1, 2, 6, 3) * 20:
            set_threads(number)

    run_together([*callers, *callers, resize])


@pytest.mark.parametrize("number", [0, -3])
def test_a_team_has_its_caller_at_least(kernels, set_threads, number):
    set_threads(number)
    assert kernels.num_threads() == 1


def run_python(code, **environment):
    """Run code that finds the library's path in sys.argv[1]; returns its output."""
    command = [sys.executable, "-c", textwrap.dedent(code), str(native_library())]
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    result = subprocess.run(
        command, env=inherited | environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


COUNT = """
    import ctypes, sys
    print(ctypes.CDLL(sys.argv[1]).PagedOpsNumThreads())
"""


@pytest.mark.parametrize("number", [1, 3])
def test_a_process_has_the_threads_that_it_is_given(number):
    assert run_python(COUNT, OMP_NUM_THREADS=str(number)) == [str(number)]


@pytest.mark.parametrize("given", [{}, {"OMP_NUM_THREADS": "0"}, {"OMP_NUM_THREADS": "many"}, {"OMP_NUM_THREADS": ""}])
def test_otherwise_as_many_as_it_may_use_cores(given):
    assert run_python(COUNT, **given) == [str(len(os.sched_getaffinity(0)))]


def test_a_process_that_is_bound_to_a_core_has_one_thread():
    core = min(os.sched_getaffinity(0))
    bound = f"""
    import os
    os.sched_setaffinity(0, [{core}])
    """
    assert run_python(bound + COUNT) == ["1"]


def test_what_the_process_sets_later_is_not_looked_at():
    """MindSpore sets OMP_NUM_THREADS to 1 for itself."""
    later = """
    import os
    os.environ["OMP_NUM_THREADS"] = "1"
    """
    assert run_python(later + COUNT, OMP_NUM_THREADS="3") == ["3"]


FORK = """
    import os, sys, time
    import numpy as np
    from pathlib import Path
    from tests.custom_ops.kernel_calls import Kernels
    from tests.custom_ops.layer_reference import make_weight

    kernels = Kernels(Path(sys.argv[1]), Path(os.environ["CATCHER"]))
    rng = np.random.default_rng(0)
    x, norm = rng.normal(size=(50, 256)).astype(np.float32), np.ones(256, np.float32)
    weight = make_weight(rng, "float32", 200, 256)
    expected = kernels.norm_linear(x, norm, weight, 1e-5)

    def computes_rightly(times):
        return all(np.array_equal(kernels.norm_linear(x, norm, weight, 1e-5), expected) for _ in range(times))

    assert kernels.num_threads() == 4
    for wait in (0, 0, 0, 0, 0.02):  # whose threads spin just now, or sleep
        assert computes_rightly(3)
        time.sleep(wait)
        child = os.fork()
        if child == 0:
            right = computes_rightly(20)
            for number in (1, 2, 8):
                kernels.set_num_threads(number)
                for pause in (0, 0, 0.002, 0.002):
                    time.sleep(pause)
                    right = right and computes_rightly(5)
            os._exit(0 if right else 1)
        assert os.waitpid(child, 0)[1] == 0, "the child computed wrongly"
        assert computes_rightly(3)
    print("ok")
"""


def test_a_forked_child_computes_without_its_parents_threads(catcher):
    """It has none of them; and may make some of its own."""
    assert run_python(FORK, OMP_NUM_THREADS="4", CATCHER=str(catcher), OPENBLAS_NUM_THREADS="1") == ["ok"]
