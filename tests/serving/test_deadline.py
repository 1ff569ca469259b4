"""The bound on a request's waits: what passes, what is cut off, and that nobody else's cancellation is swallowed."""

import asyncio

import pytest

from mindspore_paged.serving.deadline import Deadline


def run(scene):
    return asyncio.run(scene())


async def now():
    return asyncio.get_running_loop().time()


async def give(value, seconds=0.0):
    await asyncio.sleep(seconds)
    return value


def test_what_comes_in_time_passes_however_often():
    async def scene():
        with Deadline(await now() + 5) as deadline:
            return [await deadline.wait(give(number)) for number in range(3)]

    assert run(scene) == [0, 1, 2]


def test_no_bound_is_none():
    async def scene():
        with Deadline(None) as deadline:
            return await deadline.wait(give(1))

    assert run(scene) == 1


@pytest.mark.parametrize("late", [0.02, -1.0])
def test_what_comes_too_late_is_cancelled(late):
    """In mid-wait, or because all time was gone before it."""
    ended = []

    async def slow():
        try:
            await asyncio.sleep(10)
        finally:
            ended.append(True)

    async def scene():
        with Deadline(await now() + late) as deadline:
            await asyncio.sleep(0)
            with pytest.raises(asyncio.TimeoutError):
                await deadline.wait(asyncio.ensure_future(slow()) if late > 0 else slow())
        return await give("the task lives on", 0.01)

    assert run(scene) == "the task lives on"
    assert ended == ([True] if late > 0 else ended)


def test_a_cancellation_by_others_stays_one():
    async def wait():
        with Deadline(await now() + 0.05) as deadline:
            await deadline.wait(asyncio.sleep(10))

    async def scene():
        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scene)


def test_a_deadline_that_passes_between_two_waits_counts_for_the_next():
    async def scene():
        with Deadline(await now() + 0.02) as deadline:
            assert await deadline.wait(give(1)) == 1
            await asyncio.sleep(0.05)
            with pytest.raises(asyncio.TimeoutError):
                await deadline.wait(give(2, 5))

    run(scene)
