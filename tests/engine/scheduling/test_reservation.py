"""max_model_len set aside for each sequence, as contiguous caches do: what paging is compared with."""

import pytest

from tests.engine.simulation import make_job, make_scheduler, simulate

MAX_MODEL_LEN = 256


@pytest.mark.parametrize("sequences_that_fit", [1, 2, 3])
def test_as_many_run_as_whole_sequences_fit(sequences_that_fit):
    num_blocks = 1 + sequences_that_fit * MAX_MODEL_LEN // 16
    scheduler = make_scheduler(num_blocks=num_blocks, max_model_len=MAX_MODEL_LEN, reserve_max_model_len=True)
    largest = 0
    schedule = scheduler.schedule

    def watching():
        nonlocal largest
        plan = schedule()
        largest = max(largest, len(scheduler.running))
        return plan

    scheduler.schedule = watching
    jobs = [make_job(i, prompt_length=20, output_length=30) for i in range(9)]
    assert simulate(scheduler, jobs) == -(-9 // sequences_that_fit) * 30
    assert largest == sequences_that_fit
    assert scheduler.preemptions == []


def test_on_demand_they_all_run_in_the_room_of_one():
    scheduler = make_scheduler(num_blocks=1 + MAX_MODEL_LEN // 16, max_model_len=MAX_MODEL_LEN)
    jobs = [make_job(i, prompt_length=8, output_length=8) for i in range(9)]
    assert simulate(scheduler, jobs) == 8
