"""Ranks against merits worked out step by step, and what a scheduler that follows them can promise."""

import random
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspore_paged.engine.scheduling.length_predictor import LengthPredictor, class_of
from mindspore_paged.engine.scheduling.policies import POLICIES, policy_by_name
from mindspore_paged.engine.scheduling.prefill_window import PrefillWindow
from mindspore_paged.errors import ConfigError
from tests.engine.simulation import make_job, make_scheduler, mean_wait, simulate, true_length


def order(name, jobs, ageing_steps=None):
    policy = policy_by_name(name, true_length(jobs), ageing_steps)
    return [job.request.arrival for job in sorted(jobs, key=lambda job: policy.rank(job.request, job.arrives_at))]


def test_first_come_first_served_looks_at_nothing_but_the_order():
    jobs = [make_job(2, 5, 5, 1, priority=9), make_job(0, 900, 90, 0), make_job(1, 100, 9, 0)]
    assert order("fcfs", jobs) == [0, 1, 2]


def test_priority_serves_higher_numbers_first_and_equals_as_they_came():
    jobs = [make_job(arrival, 5, 5, priority=priority) for arrival, priority in enumerate([0, -1, 3, 0, 3])]
    assert order("priority", jobs) == [2, 4, 0, 3, 1]


def test_shortest_counts_prompt_and_expected_output():
    jobs = [make_job(0, 50, 50), make_job(1, 90, 5), make_job(2, 5, 94), make_job(3, 60, 40)]
    assert order("shortest", jobs) == [1, 2, 0, 3]


@pytest.mark.parametrize(("arrives_at", "overtakes"), [(0, True), (9, True), (10, False), (11, False)])
def test_one_level_of_priority_is_made_up_for_by_waiting_ageing_steps(arrives_at, overtakes):
    waits, newcomer = make_job(0, 5, 5, priority=0), make_job(1, 5, 5, arrives_at, priority=1)
    assert (order("priority", [waits, newcomer], ageing_steps=10) == [1, 0]) is overtakes


@given(
    jobs=st.lists(st.tuples(st.integers(0, 60), st.integers(-5, 5), st.integers(1, 40)), min_size=2, max_size=12),
    name=st.sampled_from(["priority", "shortest"]),
    ageing_steps=st.integers(1, 30),
    later=st.integers(0, 500),
)
def test_ranks_order_as_the_merits_do_at_any_later_step(jobs, name, ageing_steps, later):
    made = [
        make_job(arrival, prompt_length, 3, arrives_at, priority=priority)
        for arrival, (arrives_at, priority, prompt_length) in enumerate(jobs)
    ]
    now = max(job.arrives_at for job in made) + later

    def merit(job):
        value = job.request.priority if name == "priority" else -len(job.request.prompt_token_ids) - 3
        return value + Fraction(now - job.arrives_at, ageing_steps)

    by_merit = sorted(made, key=lambda job: (-merit(job), job.request.arrival))
    assert order(name, made, ageing_steps) == [job.request.arrival for job in by_merit]
    policy = policy_by_name(name, lambda request: 3, ageing_steps)
    assert all(
        policy.rank(a.request, a.arrives_at) < policy.rank(b.request, b.arrives_at) for a, b in pairwise(by_merit)
    )


@pytest.mark.parametrize("ageing_steps", [0, -1, float("inf"), float("nan")])
def test_ageing_must_be_a_number_of_steps(ageing_steps):
    with pytest.raises(ConfigError, match="ageing_steps"):
        policy_by_name("priority", lambda request: 0, ageing_steps)


def test_an_unknown_policy_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="'lifo'; allowed: fcfs, priority, shortest"):
        policy_by_name("lifo", lambda request: 0)


@given(seed=st.integers(0, 2**32), name=st.sampled_from(POLICIES), windowed=st.booleans(), predicted=st.booleans())
@settings(max_examples=100, deadline=None)
def test_pages_move_to_better_ranks_only_and_every_sequence_ends(seed, name, windowed, predicted):
    rng = random.Random(seed)
    num_blocks = rng.randint(6, 14)
    max_model_len = 4 * (num_blocks - 1)
    jobs = []
    for arrival in range(12):
        prompt_length = rng.randint(1, max_model_len - 1)
        output_length = rng.randint(1, max_model_len - prompt_length)
        arrives_at = rng.choice([0, rng.randint(0, 40)])
        jobs.append(make_job(arrival, prompt_length, output_length, arrives_at, priority=rng.randint(-3, 3)))
    scheduler = make_scheduler(
        step_tokens=rng.randint(4, 16),
        max_num_seqs=4,
        num_blocks=num_blocks,
        block_size=4,
        max_model_len=max_model_len,
        policy=policy_by_name(name, true_length(jobs), ageing_steps=rng.randint(1, 8)),
        prefill_window=PrefillWindow(4, 4, 6, share=0.5, num_steps=4) if windowed else None,
        predictor=LengthPredictor(min_samples=1, window=4) if predicted else None,
    )
    simulate(scheduler, jobs, max_steps=3_000)
    assert all(job.ended_at is not None for job in jobs)
    for victim, others in scheduler.preemptions:
        assert all(victim > other for other in others)
    ranks = {victim[1]: victim for victim, _ in scheduler.preemptions}
    assert all(ranks[victim[1]] == victim for victim, _ in scheduler.preemptions)


def test_the_simulation_does_preempt():
    jobs = [make_job(arrival, 8, 30) for arrival in range(4)]
    scheduler = make_scheduler(num_blocks=11, block_size=4, max_model_len=40)
    simulate(scheduler, jobs)
    assert scheduler.preemptions
    assert [job.request.arrival for job in sorted(jobs, key=lambda job: job.ended_at)] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["priority", "shortest"])
def test_nothing_starves_under_a_stream_of_better_requests_that_never_ends(name):
    """The stream brings half as many tokens again as the steps can compute."""
    ageing_steps, units_ahead = (20, 5) if name == "priority" else (2, 60 - 24)
    patient = make_job(0, 50, 10)
    stream = [make_job(1 + step, 22, 2, step, priority=5) for step in range(800)]
    policy = policy_by_name(name, true_length([patient, *stream]), ageing_steps)
    simulate(make_scheduler(step_tokens=16, max_num_seqs=4, policy=policy), [patient, *stream])
    assert ageing_steps * units_ahead < patient.wait < 2 * ageing_steps * units_ahead
    assert sum(job.ended_at > patient.ended_at for job in stream) > 500


def mixed_load(seed, num_short=300, num_long=6):
    """Short requests, one a step on average, and now and then a prompt of many steps' tokens."""
    rng = random.Random(seed)
    short, time = [], 0.0
    for arrival in range(num_short):
        time += rng.expovariate(1.0)
        short.append(make_job(arrival, rng.randint(8, 96), rng.randint(4, 24), int(time), max_tokens=64, priority=1))
    long = [
        make_job(num_short + k, rng.randint(2000, 4000), rng.randint(8, 32), int(time * (k + 0.5) / num_long))
        for k in range(num_long)
    ]
    return short, long


def serve(seed, name, windowed):
    """Mean wait of short requests, of long ones, and steps in all."""
    short, long = mixed_load(seed)
    predictor = LengthPredictor()
    scheduler = make_scheduler(
        policy=policy_by_name(name, lambda request: predictor.predict(class_of(request), 0, request.params.max_tokens)),
        prefill_window=PrefillWindow(256, 16, long_prompt_tokens=256) if windowed else None,
        predictor=predictor,
    )
    num_steps = simulate(scheduler, short + long)
    return mean_wait(short), mean_wait(long), num_steps


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", POLICIES)
def test_short_requests_wait_less_on_a_mixed_load_and_the_total_takes_no_more_steps(seed, name):
    plain_wait, plain_long_wait, plain_steps = serve(seed, "fcfs", windowed=False)
    wait, long_wait, steps = serve(seed, name, windowed=True)
    assert wait < 0.6 * plain_wait
    assert steps < 1.03 * plain_steps
    assert long_wait < 3 * plain_long_wait


def test_the_window_shortens_waits_under_each_policy_and_each_policy_without_the_window():
    fcfs_wait, _, _ = serve(0, "fcfs", windowed=False)
    for name in POLICIES:
        wait, _, _ = serve(0, name, windowed=False)
        windowed_wait, _, _ = serve(0, name, windowed=True)
        assert windowed_wait < 0.7 * wait
        assert name == "fcfs" or wait < 0.9 * fcfs_wait


def serve_chats_and_essays(known, learner):
    """Mean wait of chats, and steps in all, where only the class tells short answers from long ones."""
    rng = random.Random(1)
    jobs, time = [], 0.0
    for arrival in range(400):
        time += rng.expovariate(0.085)
        kind, output_length = rng.choice([("chat", rng.randint(5, 20)), ("essay", rng.randint(60, 120))])
        jobs.append(make_job(arrival, 30, output_length, int(time), max_tokens=128, request_class=kind))
    policy = policy_by_name("shortest", lambda job: known.predict(class_of(job), 0, job.params.max_tokens))
    num_steps = simulate(make_scheduler(max_num_seqs=5, policy=policy, predictor=learner), jobs)
    return mean_wait([job for job in jobs if job.request.request_class == "chat"]), num_steps


def test_learned_lengths_let_short_answers_go_first_though_all_prompts_look_alike():
    learner = LengthPredictor()
    wait, steps = serve_chats_and_essays(learner, learner)
    blind_wait, blind_steps = serve_chats_and_essays(LengthPredictor(), learner=None)
    assert wait < 0.6 * blind_wait
    assert steps < 1.03 * blind_steps
