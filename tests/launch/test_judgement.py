"""Who is blamed, from what ranks said and when: the judge is fed messages and times, there are no processes."""

import pytest

from mindspore_paged.launch.judgement import Judge, Limits, Verdict
from mindspore_paged.launch.states import COMPILING, IDLE, IN_THE_GRAPH, LOADING, WAITING_FOR_PLAN


class Story:
    """Time goes on in half seconds, in which every rank that is not silent beats and the judge is asked."""

    def __init__(self, size, connected=None, **limits):
        self.now = 100.0
        self.judge = Judge(size, self.now, Limits(**limits))
        self.positions = {}
        self.silent = set()
        for rank in range(size) if connected is None else connected:
            self.judge.connected(rank, self.now)
            self.at(rank, 0, IDLE)

    def at(self, rank, step, state):
        self.positions[rank] = (step, state)
        self.judge.heard(rank, step, state, self.now)

    def until_verdict(self, seconds):
        """The verdict and after how many seconds it came, or None and all of them."""
        start = self.now
        while self.now - start < seconds:
            self.now += 0.5
            for rank, (step, state) in self.positions.items():
                if rank not in self.silent:
                    self.judge.heard(rank, step, state, self.now)
            self.judge.local_workers(True, self.now)
            verdict = self.judge.verdict(self.now)
            if verdict is not None:
                return verdict, self.now - start
        return None, seconds


def test_ranks_that_move_are_left_alone():
    story = Story(2)
    for step in range(1, 60):
        story.at(0, step, IN_THE_GRAPH)
        story.at(1, step, IN_THE_GRAPH)
        assert story.until_verdict(1)[0] is None


def test_a_rank_that_is_lost_is_named_at_once():
    story = Story(3)
    story.at(1, 12, IN_THE_GRAPH)
    story.judge.closed(1, story.now)
    verdict, seconds = story.until_verdict(10)
    assert verdict == Verdict("error: rank 1 ended without a word, last seen at step 12 (in the graph)", 1)
    assert seconds <= 1


def test_the_first_lost_rank_is_named_not_those_that_msrun_kills_after_it():
    story = Story(3)
    story.judge.closed(2, story.now)
    story.judge.closed(0, story.now + 0.1)
    assert "rank 2 ended" in story.until_verdict(10)[0].error


def test_an_error_that_follows_from_a_lost_rank_does_not_hide_it():
    story = Story(2)
    story.judge.failed(0, "GroupError: rank 1 is gone", 1, story.now)
    story.judge.closed(1, story.now + 0.1)
    assert "rank 1 ended without a word" in story.until_verdict(10)[0].error


def test_the_first_error_is_told_with_its_exit_code():
    story = Story(2)
    story.judge.failed(1, "CheckpointError: no weights", 2, story.now)
    story.judge.failed(1, "something later", 1, story.now)
    story.judge.failed(0, "GroupError: rank 1 is gone", 1, story.now + 0.1)
    story.judge.closed(1, story.now + 0.2)  # as it must, having failed
    assert story.until_verdict(10)[0] == Verdict("error: rank 1: CheckpointError: no weights", 2)


def test_an_error_of_all_ranks_is_told_once():
    story = Story(2)
    for rank in range(2):
        story.judge.failed(rank, "ConfigError: no model", 2, story.now)
    assert story.until_verdict(10)[0] == Verdict("error: all ranks: ConfigError: no model", 2)


def test_an_error_after_goodbye_counts():
    story = Story(2)
    story.judge.said_goodbye(0, False, story.now)
    story.judge.failed(0, "ValueError: late", 1, story.now)
    assert story.until_verdict(10)[0] == Verdict("error: rank 0: ValueError: late", 1)


def test_a_job_has_ended_well_when_all_said_goodbye_and_are_gone():
    story = Story(2)
    for rank in range(2):
        del story.positions[rank]
        story.judge.said_goodbye(rank, True, story.now)
    story.judge.closed(0, story.now)
    assert story.until_verdict(2)[0] is None
    story.judge.closed(1, story.now)
    assert story.until_verdict(2)[0] == Verdict(None, 0)


def test_a_rank_that_said_goodbye_but_takes_the_job_down_is_named():
    # It ended with an exit code of its own, and msrun killed the others for it.
    story = Story(2)
    del story.positions[1]
    story.judge.said_goodbye(1, True, story.now)
    story.judge.closed(1, story.now)
    assert story.until_verdict(1)[0] is None
    story.judge.closed(0, story.now)
    assert story.until_verdict(5)[0].error.startswith("error: rank 1 ended before the others")


def test_a_process_that_does_not_end_after_its_goodbye_is_named():
    story = Story(2)
    story.judge.said_goodbye(1, True, story.now)
    verdict, seconds = story.until_verdict(60)
    assert verdict.error == "error: rank 1 is done, but its process does not end within 20 s"
    assert seconds < 30


def test_a_rank_that_leaves_early_may_go_on_without_the_others():
    story = Story(2)
    story.judge.said_goodbye(0, False, story.now)
    story.at(1, 3, WAITING_FOR_PLAN)
    assert story.until_verdict(100)[0] is None


def test_a_silent_rank_is_named_with_where_it_was():
    story = Story(3)
    story.at(2, 12, IN_THE_GRAPH)
    story.silent = {2}
    verdict, seconds = story.until_verdict(60)
    assert verdict.error == (
        "error: rank 2 does not answer: no sign of life for 10 s, last seen at step 12 (in the graph)"
    )
    assert 10 <= seconds < 12


@pytest.mark.parametrize("state", [COMPILING, LOADING, "starting", "compiling graph 3 of 9"])
def test_a_rank_may_be_silent_for_long_where_mindspore_lets_no_other_thread_run(state):
    story = Story(2)
    story.at(1, 0, state)
    story.silent = {1}
    assert story.until_verdict(500)[0] is None
    assert "rank 1 does not answer: no sign of life for 600 s" in story.until_verdict(200)[0].error


@pytest.mark.parametrize(
    ("positions", "named"),
    [
        # The follower never took the plan of step 12.
        ({0: (12, IN_THE_GRAPH), 1: (11, WAITING_FOR_PLAN)}, "rank 1 hangs"),
        # The leader does not make a plan.
        ({0: (12, "planning"), 1: (11, WAITING_FOR_PLAN)}, "rank 0 hangs"),
        # One does not come out of the graph, the other did.
        ({0: (12, "waiting for the other ranks"), 1: (12, IN_THE_GRAPH)}, "rank 1 hangs"),
        ({0: (12, IN_THE_GRAPH), 1: (12, WAITING_FOR_PLAN)}, "rank 0 hangs"),
        ({0: (12, IDLE), 1: (12, IN_THE_GRAPH)}, "rank 1 hangs"),
        # The one that others wait for, in the minority or not.
        ({0: (5, IN_THE_GRAPH), 1: (5, IN_THE_GRAPH), 2: (4, "copying pages")}, "rank 2 hangs"),
        ({0: (5, IN_THE_GRAPH), 1: (4, WAITING_FOR_PLAN), 2: (4, WAITING_FOR_PLAN)}, "ranks 1 and 2 hang"),
        ({0: (5, "waiting for the other ranks"), 1: (5, WAITING_FOR_PLAN), 2: (5, IN_THE_GRAPH)}, "rank 2 hangs"),
        # An answer was lost.
        ({0: (5, "waiting for the other ranks"), 1: (5, WAITING_FOR_PLAN)}, "ranks 0 and 1 hang"),
    ],
)
def test_a_hang_is_the_fault_of_whoever_is_not_where_the_others_are(positions, named):
    story = Story(len(positions))
    for rank, (step, state) in positions.items():
        story.at(rank, step, state)
    verdict, seconds = story.until_verdict(60)
    assert verdict.error.startswith(f"error: {named}: for 20 s ")
    assert 20 <= seconds < 22


def test_a_hang_is_told_in_one_line_with_both_places():
    story = Story(3)
    story.at(0, 12, IN_THE_GRAPH)
    story.at(1, 11, WAITING_FOR_PLAN)
    story.at(2, 12, IN_THE_GRAPH)
    assert story.until_verdict(60)[0].error == (
        "error: rank 1 hangs: for 20 s at step 11 (waiting for the plan) while the others are at step 12 (in the graph)"
    )


def test_nobody_hangs_while_anyone_of_the_group_moves():
    story = Story(3)
    story.at(1, 11, WAITING_FOR_PLAN)
    story.at(2, 12, IN_THE_GRAPH)
    for part in range(20):
        story.at(0, 12, f"planning {part}")
        assert story.until_verdict(10)[0] is None


@pytest.mark.parametrize("state", [COMPILING, LOADING])
def test_who_compiles_or_loads_has_more_time(state):
    story = Story(2)
    story.at(0, 0, state)
    story.at(1, 0, WAITING_FOR_PLAN)
    assert story.until_verdict(500)[0] is None
    assert story.until_verdict(200)[0].error.startswith("error: rank 0 hangs: for 600 s")


def test_a_leader_without_requests_is_no_hang():
    story = Story(3)
    story.at(0, 12, IDLE)
    story.at(1, 12, WAITING_FOR_PLAN)
    story.at(2, 12, WAITING_FOR_PLAN)
    assert story.until_verdict(2000)[0] is None


def test_a_step_that_no_rank_comes_out_of_ends_the_job():
    story = Story(2)
    story.at(0, 12, IN_THE_GRAPH)
    story.at(1, 12, IN_THE_GRAPH)
    verdict, seconds = story.until_verdict(400)
    assert verdict.error == "error: step 12 does not end: all ranks are in the graph for 300 s"
    assert seconds > 299


def test_groups_are_judged_each_for_itself():
    story = Story(4)
    for rank in range(4):
        story.judge.joined(rank, [0, 1] if rank < 2 else [2, 3])
    story.at(2, 7, IN_THE_GRAPH)
    story.at(3, 6, WAITING_FOR_PLAN)
    for step in range(1, 60):  # the first replica is busy all the while
        story.at(0, step, IN_THE_GRAPH)
        story.at(1, step, IN_THE_GRAPH)
        verdict, _ = story.until_verdict(1)
        if verdict is not None:
            break
    assert verdict.error == (
        "error: rank 3 hangs: for 20 s at step 6 (waiting for the plan) while rank 2 is at step 7 (in the graph)"
    )


@pytest.mark.parametrize("group", [[1, 0, 0], [1], [0, 7], []])
def test_a_group_that_makes_no_sense_is_refused(group):
    with pytest.raises(ValueError, match="rank 0 cannot be in a group"):
        Judge(2, 0.0).joined(0, group)


def test_a_rank_that_never_connects_is_named():
    story = Story(3, connected=[0, 2], start=60.0)
    verdict, seconds = story.until_verdict(100)
    assert verdict.error == "error: rank 1 did not connect within 60 s"
    assert seconds > 60


def test_workers_that_end_before_they_connect_are_not_waited_for():
    judge = Judge(2, 0.0)
    for tick in range(100):
        verdict = judge.verdict(tick / 10)
        if verdict is not None:
            break
    assert verdict.error == "error: ranks 0 and 1 ended before the supervisor heard from them: see their logs"
    assert tick / 10 < 6


def test_a_rank_that_never_connected_is_suspected_when_all_others_end():
    story = Story(2, connected=[0])
    story.judge.closed(0, story.now)
    assert "rank 1 never connected" in story.until_verdict(5)[0].error


def test_a_pause_of_the_judge_is_nobodys_fault():
    story = Story(2)
    story.at(0, 12, IN_THE_GRAPH)
    story.at(1, 11, WAITING_FOR_PLAN)
    assert story.until_verdict(5)[0] is None
    story.now += 1000
    assert story.judge.verdict(story.now) is None
    verdict, seconds = story.until_verdict(60)
    assert verdict.error.startswith("error: rank 1 hangs: for 20 s")
    assert 14 <= seconds <= 16
