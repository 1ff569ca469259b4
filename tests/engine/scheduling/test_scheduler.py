"""Who runs next, with how many tokens, and who gives way: the scheduler without a device."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspore_paged.engine.scheduling.scheduler import MAX_PASSED_OVER
from mindspore_paged.errors import IntegrityError
from tests.engine.scheduler_sim import SchedulerSim


class TestOrder:
    def test_first_come_first_served(self):
        sim = SchedulerSim(rows=2, budget=64)
        for length in (3, 9, 1, 5):
            sim.add(length, answer=2)
        assert [who for who, _, _ in sim.step()] == [0, 1]
        sim.run()
        assert sim.finished == [0, 1, 2, 3]

    def test_a_sequence_starts_as_soon_as_another_ends(self):
        sim = SchedulerSim(rows=1)
        sim.add(3, answer=2)
        sim.add(3, answer=2)
        sim.run()
        assert sim.history == [[(0, 0, 3)], [(0, 3, 1)], [(1, 0, 3)], [(1, 3, 1)]]

    def test_a_large_prompt_is_passed_over_so_often_and_then_the_others_wait(self):
        sim = SchedulerSim(num_blocks=9, rows=4, budget=64, longest=32)  # 8 blocks to hand out
        sim.add(4, answer=24)  # goes on for long, with up to 7 blocks
        sim.step()
        large = sim.add(31)  # needs all 8
        overtaken = 0
        for _ in range(MAX_PASSED_OVER + 5):
            late = sim.add(2)
            sim.step()
            overtaken += late in sim.finished
            assert large not in sim.running()
        assert overtaken == MAX_PASSED_OVER
        sim.run()
        assert sim.finished.index(large) == 1 + MAX_PASSED_OVER  # behind the first and those that overtook
        assert sorted(sim.finished) == sorted(sim.sequences)

    def test_how_often_it_was_passed_over_is_forgotten_when_it_runs(self):
        sim = SchedulerSim(num_blocks=9, rows=4, budget=64, longest=32)
        sim.add(4, answer=20)
        sim.step()
        large = sim.add(30)
        sim.sequences[large].num_passed_over = 7
        sim.run()
        assert sim.sequences[large].num_passed_over == 0

    def test_a_later_arrival_never_takes_the_pages_of_an_earlier_one(self):
        sim = SchedulerSim(num_blocks=7, rows=3, budget=64, longest=24)
        for _ in range(3):
            sim.add(7, answer=16)  # each grows to 6 blocks, all there are
        sim.run()
        assert sim.scheduler.num_preemptions > 0
        starts = {arrival: [start for start, _ in sim.chunks_of(arrival)] for arrival in range(3)}
        assert starts[0].count(0) == 1
        assert starts[2].count(0) > 1
        assert sim.finished == [0, 1, 2]

    def test_pages_of_a_finished_sequence_are_free_while_others_go_on(self):
        sim = SchedulerSim(budget=64)
        sim.add(9)
        sim.add(5, answer=9)
        sim.step()
        assert sim.finished == [0]
        assert sim.scheduler.cache.pool.num_used == 2
        assert sim.scheduler.cache.pool.num_free == 63 - 2

    def test_a_step_that_takes_pages_from_one_sequence_gives_none_to_another(self):
        sim = SchedulerSim(num_blocks=7, rows=2, budget=64, longest=24)  # 6 blocks to hand out
        for _ in range(2):
            sim.add(12, answer=5)  # 3 blocks each, and a fourth for the first answer
        small = sim.add(1)
        sim.step()
        assert sim.step() == [(0, 12, 1)]
        assert sim.scheduler.num_preemptions == 1
        assert sim.step() == [(0, 13, 1), (small, 0, 1)]


class TestChunks:
    @pytest.mark.parametrize(
        ("length", "budget", "chunks"),
        [
            (1, 4, [(0, 1)]),
            (4, 4, [(0, 4)]),  # ends on the bound of a block
            (5, 4, [(0, 4), (4, 1)]),  # and is followed by one token
            (8, 4, [(0, 4), (4, 4)]),
            (7, 3, [(0, 3), (3, 3), (6, 1)]),
            (3, 1, [(0, 1), (1, 1), (2, 1)]),
        ],
    )
    def test_a_prompt_is_cut_where_the_budget_ends(self, length, budget, chunks):
        sim = SchedulerSim(budget=budget)
        sim.add(length, answer=2)
        sim.run()
        assert sim.chunks_of(0) == [*chunks, (length, 1)]

    def test_a_chunk_holds_no_more_blocks_than_its_tokens_need(self):
        sim = SchedulerSim(budget=8)
        sim.add(15)
        sim.step()
        assert sim.scheduler.cache.pool.num_used == 2  # check_integrity compares the same for every step
        sim.step()
        assert sim.finished == [0]
        assert sim.scheduler.cache.pool.num_used == 0

    def test_decodes_go_first_and_the_prompt_takes_what_is_left(self):
        sim = SchedulerSim(budget=6)
        sim.add(2, answer=9)
        sim.add(2, answer=9)
        sim.step()
        sim.add(20)
        assert sim.step() == [(0, 2, 1), (1, 2, 1), (2, 0, 4)]
        assert sim.step() == [(0, 3, 1), (1, 3, 1), (2, 4, 4)]

    def test_decodes_go_before_the_prompt_of_an_earlier_arrival_that_they_overtook(self):
        sim = SchedulerSim(num_blocks=12, budget=16, longest=32)  # 11 blocks to hand out
        sim.add(13)
        large = sim.add(32)  # does not fit beside the first
        small = sim.add(2, answer=8)
        assert [who for who, _, _ in sim.step()] == [0, small]
        assert sim.step() == [(small, 2, 1), (large, 0, 15)]
        assert sim.step() == [(small, 3, 1), (large, 15, 15)]

    def test_the_rest_of_the_budget_goes_to_the_next_prompt(self):
        sim = SchedulerSim(budget=8)
        sim.add(5)
        sim.add(9)
        assert sim.step() == [(0, 0, 5), (1, 0, 3)]

    def test_without_chunks_a_prompt_waits_until_it_fits_whole(self):
        sim = SchedulerSim(budget=8, chunked=False)
        sim.add(5, answer=3)
        sim.add(8)
        assert sim.step() == [(0, 0, 5)]
        sim.run()
        assert sim.chunks_of(1) == [(0, 8)]

    def test_without_chunks_a_long_prompt_does_not_starve_while_short_ones_arrive(self):
        sim = SchedulerSim(budget=16, rows=4, chunked=False)
        sim.add(1, answer=5)
        sim.step()
        long = sim.add(16)
        for _ in range(20):
            sim.add(3, answer=4)
            sim.step()
        assert long in sim.finished
        assert sim.chunks_of(long) == [(0, 16)]

    def test_with_chunks_a_long_prompt_does_not_starve_either(self):
        sim = SchedulerSim(budget=4, rows=4)
        long = sim.add(40)
        for _ in range(45):
            sim.add(2, answer=3)
            sim.step()
        assert long in sim.finished


class TestRandomLoads:
    @given(
        lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 20)), min_size=1, max_size=12),
        num_blocks=st.integers(14, 30),
        rows=st.integers(1, 5),
        budget=st.integers(5, 50),
        chunked=st.booleans(),
        prefix_caching=st.booleans(),
        together=st.booleans(),
    )
    @settings(max_examples=150, deadline=None)
    def test_all_end_within_the_limits_and_no_token_is_lost(
        self, lengths, num_blocks, rows, budget, chunked, prefix_caching, together
    ):
        sim = SchedulerSim(num_blocks, 4, rows, budget if chunked else 50, 50, chunked, prefix_caching)
        for length, answer in lengths:
            sim.add([5] * length if together else length, answer)
            if not together:
                sim.step()
        earliest = min(set(sim.sequences) - set(sim.finished), default=None)
        while sim.scheduler.has_unfinished:
            held = earliest in sim.running()
            sim.step()
            # Once it runs, the earliest is never preempted.
            assert not held or earliest in sim.running() or earliest in sim.finished
            earliest = min(set(sim.sequences) - set(sim.finished), default=None)
        for arrival, (length, answer) in enumerate(lengths):
            sequence = sim.sequences[arrival]
            assert sequence.token_ids[:length] == list(sequence.request.prompt_token_ids)
            assert sequence.output_token_ids == [1000 * arrival + 500 + place for place in range(answer)]
            self.check_chunks(sim.chunks_of(arrival), length, chunked, prefix_caching)
        assert sim.scheduler.cache.pool.num_used == 0

    @staticmethod
    def check_chunks(chunks, length, chunked, prefix_caching):
        """Each chunk goes on where the last one ended, or starts over, behind what the prefix cache holds by then."""
        for (start, tokens), (next_start, _) in pairwise(chunks):
            assert next_start == start + tokens or (next_start % 4 == 0 if prefix_caching else next_start == 0)
        if not chunked:
            assert all(start + tokens >= length for start, tokens in chunks)


class TestFailedSteps:
    def test_after_a_failed_step_its_sequences_run_one_at_a_time_until_each_has_come_through(self):
        sim = SchedulerSim(budget=4)
        for length in (6, 2):
            sim.add(length, answer=4)
        sim.step()
        sim.step()
        plan = sim.plan()
        assert len(plan.chunks) == 2
        assert sim.scheduler.roll_back(plan) == []
        assert sim.running() == []
        assert sim.scheduler.cache.pool.num_used == 0
        late = sim.add(1)
        assert [[who for who, _, _ in sim.step()] for _ in range(3)] == [[0], [0], [1]]
        assert [who for who, _, _ in sim.step()] == [0, 1, late]
        sim.run()
        assert sim.scheduler.num_preemptions == 0

    def test_who_fails_alone_is_the_culprit(self):
        sim = SchedulerSim()
        sim.add(3)
        sim.add(3)
        assert sim.scheduler.roll_back(sim.plan()) == []
        assert sim.scheduler.roll_back(sim.plan()) == [sim.sequences[0]]
        sim.scheduler.finish(sim.sequences[0], "error")
        sim.run()
        assert sim.finished == [1]


def test_what_can_never_run_is_an_error_and_no_endless_loop():
    sim = SchedulerSim(num_blocks=3)
    sim.add(9)  # needs 3 blocks of 2; the engine's limits refuse such a prompt before
    with pytest.raises(IntegrityError, match="none of them can run"):
        sim.step()


def test_finishing_a_waiting_sequence_takes_it_out_of_the_queue():
    sim = SchedulerSim(rows=1)
    sim.add(3, answer=5)
    waiting = sim.add(3)
    sim.step()
    sim.scheduler.finish(sim.sequences[waiting], "abort")
    sim.run()
    assert sim.finished == [0]


class TestPrefixCache:
    def test_blocks_are_found_only_after_the_step_that_wrote_them(self):
        sim = SchedulerSim(budget=8, prefix_caching=True)
        sim.add(list(range(8)), answer=3)
        sim.plan()  # planned, not run: nothing is written yet
        hashes = sim.sequences[0].extend_hashes(4)
        assert sim.scheduler.cache.pool.match_prefix(hashes) == []

    def test_a_hit_is_taken_by_whole_blocks_up_to_the_last_token(self):
        sim = SchedulerSim(budget=64, prefix_caching=True)
        prompt = list(range(8))
        for tokens in (prompt, prompt, [*prompt, 8], prompt[:6]):
            sim.add(tokens)
            sim.run()
        assert [sim.chunks_of(arrival) for arrival in range(4)] == [[(0, 8)], [(4, 4)], [(8, 1)], [(4, 2)]]
        assert sim.scheduler.prefix_cache_hit_rate == pytest.approx((0 + 4 + 8 + 4) / (8 + 8 + 9 + 6))

    def test_a_preempted_sequence_finds_its_own_blocks_again(self):
        sim = SchedulerSim(num_blocks=9, rows=2, budget=64, longest=32, prefix_caching=True)
        sim.add(8, answer=18)
        sim.add(8, answer=18)
        sim.run()
        assert sim.scheduler.num_preemptions == 1
        again = [start for start, _ in sim.chunks_of(1)]
        restart = next(place for place in range(1, len(again)) if again[place] <= again[place - 1])
        assert again[restart] > 0
