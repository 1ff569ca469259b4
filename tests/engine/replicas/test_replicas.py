"""Engines side by side: real connections, each replica's server in a thread, over the device of paged_oracle."""

import random
import socket
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import Pipe
from threading import Event, Thread
from time import sleep
from types import SimpleNamespace

import numpy as np
import pytest

from mindspore_paged import SamplingParams
from mindspore_paged.engine.replicas.engine_server import EngineServer
from mindspore_paged.engine.replicas.figures import MAXIMA, MEANS
from mindspore_paged.engine.replicas.prefixes import export_prefix, import_prefix, pin_prefix
from mindspore_paged.engine.replicas.routed_engine import RoutedEngine
from mindspore_paged.errors import ConfigError, IntegrityError, ReplicaError, RequestError
from tests.engine.paged_oracle import VOCAB, expected_tokens, make_engine, run_to_end
from tests.sampling import processors

LETTERS = [chr(0x4E00 + token) for token in range(VOCAB)]
TOKENIZER = SimpleNamespace(
    backend=SimpleNamespace(decode=lambda ids, skip_special_tokens=True: "".join(LETTERS[i] for i in ids)),
    special_tokens={},
)


@contextmanager
def replicas(count=2, **options):
    """A RoutedEngine and the engines behind it, which must be idle and whole in the end."""
    engines = [make_engine(tokenizer=TOKENIZER, **options) for _ in range(count)]
    with routed_over(engines) as routed:
        yield routed, engines
    for engine in engines:
        engine.check_integrity()


@contextmanager
def routed_over(engines):
    ends = [Pipe() for _ in engines[1:]]
    threads = [
        Thread(target=serve, args=(engine, theirs), daemon=True) for engine, (_, theirs) in zip(engines[1:], ends)
    ]
    for thread in threads:
        thread.start()
    routed = None
    try:
        routed = RoutedEngine(engines[0], [ours for ours, _ in ends])
        yield routed
    finally:
        if routed is not None:
            routed.close()
        for ours, _ in ends:
            ours.close()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()


def serve(engine, connection):
    with suppress(RuntimeError):  # the tests' own
        EngineServer(engine, connection).serve()


def submit(engine, prompt, request_id=None, **params):
    request = engine.make_request(prompt, SamplingParams(**{"max_tokens": 8} | params), request_id)
    engine.add_request(request)
    return request


def random_requests(seed, count=24):
    """Prompts with and without a common beginning, and parameters with which they have one answer."""
    rng = random.Random(seed)
    shared = [rng.randrange(VOCAB) for _ in range(12)]
    for _ in range(count):
        prompt = (shared if rng.random() < 0.5 else []) + [rng.randrange(VOCAB) for _ in range(rng.randint(1, 14))]
        yield (
            prompt,
            SamplingParams(
                max_tokens=rng.randint(1, 12),
                temperature=rng.choice([0.0, 0.3]),
                seed=rng.randrange(100),
                n=rng.choice([1, 1, 3]),
                logprobs=rng.choice([None, 2]),
                stop=rng.choice([(), (LETTERS[rng.randrange(VOCAB)],)]),
                repetition_penalty=rng.choice([1.0, 1.3]),
                logit_bias=rng.choice([{}, {rng.randrange(VOCAB): 0.8, rng.randrange(VOCAB): -100}]),
            ),
        )


def run_all(engine, requests):
    made = [engine.make_request(prompt, params) for prompt, params in requests]
    for request in made:
        engine.add_request(request)
    return made, run_to_end(engine, check=False)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_answers_and_the_order_of_their_pieces_are_those_of_one_engine(count, seed):
    requests = list(random_requests(seed))
    alone, expected = run_all(make_engine(tokenizer=TOKENIZER), requests)
    with replicas(count, num_blocks=24) as (routed, engines):  # little enough for preemptions
        together, found = run_all(routed, requests)
        routed.check_integrity()
    assert all(engine.metrics.num_requests_finished > 0 for engine in engines)
    pieces, other_pieces = in_order(expected.updates), in_order(found.updates)
    for one, other in zip(alone, together):
        assert found.answers[other.request_id] == replace(expected.answers[one.request_id], request_id=other.request_id)
        assert other.is_finished
        for index in range(one.params.n):
            assert other_pieces[other.request_id, index] == pieces[one.request_id, index]
            assert other.sequences[index].finish_reason == found.answers[other.request_id].outputs[index].finish_reason


def in_order(updates):
    pieces = defaultdict(list)
    for update in updates:
        pieces[update.request_id, update.index].append((update.text, update.token_ids, update.finish_reason))
    return pieces


def test_an_unseeded_request_draws_anew_in_another_replica_too():
    with replicas() as (routed, _):
        made, _ = run_all(routed, [([1, 2], SamplingParams(max_tokens=12, temperature=1.0))] * 6)
        assert len({tuple(request.answer[0].token_ids) for request in made if request.answer}) > 1


@pytest.mark.parametrize("seed", range(4))
def test_aborts_at_any_time_give_what_there_is_and_nothing_comes_after(seed):
    rng = random.Random(seed)
    under_way, seen, aborted = {}, {}, 0
    with replicas(3, num_blocks=20) as (routed, engines):
        for _ in range(150):
            free = [f"id {number}" for number in range(12) if f"id {number}" not in under_way]
            if free and rng.random() < 0.8:
                prompt, name = [rng.randrange(VOCAB) for _ in range(rng.randint(1, 20))], rng.choice(free)
                under_way[name] = submit(routed, prompt, name, max_tokens=rng.randint(1, 15))
                seen[name] = []
            if under_way and rng.random() < 0.3:
                name = rng.choice(list(under_way))
                request, answer = under_way.pop(name), routed.abort(name)
                tokens = answer.outputs[0].token_ids
                assert request.is_finished
                assert answer.outputs[0].finish_reason in ("abort", "length")
                assert tokens == expected_tokens(request.prompt_token_ids, len(tokens))
                assert tokens[: len(seen[name])] == seen[name]
                assert routed.abort(name) is None
                aborted += answer.outputs[0].finish_reason == "abort"
            take_step(routed, under_way, seen)
        while routed.has_unfinished:
            take_step(routed, under_way, seen)
        assert not under_way
        routed.check_integrity()
        assert aborted > 10
        assert all(engine.scheduler.cache.pool.num_used == 0 for engine in engines)
        assert routed._router.loads == [0, 0, 0]


def take_step(routed, under_way, seen):
    """One step; what it gives must be of requests under way, whole, and handed over no later than the request ends."""
    output = routed.step()
    for update in output.updates:
        seen[update.request_id] += update.token_ids
    for answer in output.finished:
        request = under_way.pop(answer.request_id)
        assert answer.outputs[0].token_ids == seen[answer.request_id]
        assert seen[answer.request_id] == expected_tokens(request.prompt_token_ids, request.params.max_tokens)
    for request in under_way.values():
        assert not request.is_finished, "a request has ended, but not all of its updates were handed over"


def test_pieces_of_an_aborted_request_do_not_reach_the_next_one_of_its_name():
    with replicas(2) as (routed, engines):
        submit(routed, [9], max_tokens=39)  # keeps replica 0 busier than the other
        submit(routed, [1], "again", max_tokens=39)
        while routed._inbox.qsize() < 3:
            sleep(0.001)
        routed.abort("again")
        submit(routed, [2], "again", max_tokens=3)
        tokens = [
            token
            for update in run_to_end(routed, check=False).updates
            if update.request_id == "again"
            for token in update.token_ids
        ]
        assert tokens == expected_tokens([2], 3)
        assert engines[1].metrics.num_requests_finished == 2


def test_aborting_many_requests_in_a_row_does_not_take_a_step_each():
    with replicas(2, max_num_seqs=8) as (routed, engines):
        run = engines[1].runner.run
        engines[1].runner.run = lambda inputs: sleep(0.02) or run(inputs)
        requests = [submit(routed, [number], max_tokens=30) for number in range(40)]
        while not engines[1].metrics.num_steps:
            routed.step()
        ask = routed._remotes[0].ask
        routed._remotes[0].ask = lambda *call: sleep(0.001) or ask(*call)  # between processes they never come at once
        before = engines[1].metrics.num_steps
        for request in requests:
            routed.abort(request.request_id)
        assert engines[1].metrics.num_requests_finished >= 10
        assert engines[1].metrics.num_steps - before < 8


def test_an_error_ends_one_request_and_no_other():
    with replicas(2, poison=63) as (routed, _):
        prompts = [[number, number] for number in range(8)]
        bad = [submit(routed, [63, number]) for number in range(4)]
        good = [submit(routed, prompt, max_tokens=1) for prompt in prompts]
        result = run_to_end(routed, check=False)
        assert {routed._router.num_requests[replica] > 2 for replica in (0, 1)} == {True}
        for request in bad:
            assert request.error == result.answers[request.request_id].error == "token 63 is poison"
            assert [u.error for u in result.updates if u.request_id == request.request_id] == [request.error]
        for prompt, request in zip(prompts, good):
            assert request.error is None
            assert result.answers[request.request_id].outputs[0].token_ids == expected_tokens(prompt, 1)
        assert routed.get_statistics()["num_requests_failed"] == 4


def test_requests_that_come_faster_than_they_are_read_block_nobody():
    with replicas(2) as (routed, _):
        requests = [submit(routed, [number % VOCAB] * 30, max_tokens=3) for number in range(1500)]
        answers = run_to_end_without_limit(routed)
        for request in requests:
            assert answers[request.request_id] == expected_tokens(request.prompt_token_ids, 3)


def run_to_end_without_limit(routed):
    answers = {}
    while routed.has_unfinished:
        answers |= {answer.request_id: answer.outputs[0].token_ids for answer in routed.step().finished}
    return answers


def test_what_cannot_be_queued_is_refused_wherever_it_would_have_gone():
    with replicas(2) as (routed, _):
        for _ in range(2):
            request = submit(routed, [1, 2, 3], "mine")
            with pytest.raises(RequestError, match="request_id 'mine' is in use"):
                submit(routed, [1, 2, 3], "mine")
            submit(routed, [5] * 20, max_tokens=20)  # so that the next one goes elsewhere
            while not request.is_finished:
                routed.step()
            with pytest.raises(RequestError, match="request 'mine' has ended already"):
                routed.add_request(request)
        run_to_end(routed, check=False)
        assert min(routed._router.num_requests) > 0


def test_requests_with_a_common_beginning_stay_together_until_their_replica_is_much_busier():
    prefix = list(range(24))
    with replicas(2, max_model_len=80, num_blocks=100) as (routed, engines):
        for number in range(4):  # one after the other: nobody is ever busier
            submit(routed, [*prefix, 40 + number])
            run_to_end(routed, check=False)
        assert routed._router.num_requests == [4, 0]
        assert engines[0].scheduler.prefix_cache_hit_rate == pytest.approx(3 * 24 / 100)
        submit(routed, [50], max_tokens=50)  # to replica 0 as well: nobody is busier
        submit(routed, [*prefix, 51])
        assert routed._router.num_requests == [5, 1]  # 51 tokens to wait for are more than 24 to compute
        run_to_end(routed, check=False)


def test_a_salt_goes_with_its_request_to_the_router_and_to_its_replica():
    prompt = list(range(24))
    with replicas(2, max_model_len=80, num_blocks=100) as (routed, engines):

        def hits_of(salt):
            before = [engine.scheduler.num_cached_tokens for engine in engines]
            request = routed.make_request(prompt, SamplingParams(max_tokens=1), cache_salt=salt)
            routed.add_request(request)
            while not request.is_finished:
                routed.step()
            return [engine.scheduler.num_cached_tokens - old for engine, old in zip(engines, before)]

        submit(routed, [60], max_tokens=50)  # keeps replica 0 busier than the other
        hits_of("mine")
        assert routed._router.num_requests == [1, 1]
        assert hits_of("mine") == [0, 20]  # not the last block: the last token's logits are needed
        assert sum(hits_of("yours")) == sum(hits_of(None)) == 0
        run_to_end(routed, check=False)


def test_embeddings_come_from_whichever_replica_and_are_whole():
    rng = random.Random(4)
    prompts = [[rng.randrange(VOCAB) for _ in range(rng.randint(1, 30))] for _ in range(12)]
    with replicas(3) as (routed, engines):
        made = [routed.make_request(prompt, SamplingParams(max_tokens=1), pooling="mean") for prompt in prompts]
        for request in made:
            routed.add_request(request)
        answers = run_to_end(routed, check=False).answers
        assert all(engine.metrics.num_requests_finished > 0 for engine in engines)
    alone = make_engine()
    for request, prompt in zip(made, prompts):
        name = alone.add_request(alone.make_request(prompt, SamplingParams(max_tokens=1), pooling="mean"))
        expected = run_to_end(alone).answers[name].embedding
        assert np.array_equal(answers[request.request_id].embedding, expected)
        assert np.array_equal(request.embedding, expected)


def test_statistics_are_sums_maxima_and_means():
    # Room for all, so that nothing is admitted twice and the prompts sent are the tokens admitted.
    with replicas(3, num_blocks=400, max_num_seqs=64) as (routed, engines):
        run_all(routed, list(random_requests(9, 30)))
        found, parts = routed.get_statistics(), [engine.get_statistics() for engine in engines]
    assert found["data_parallel_size"] == 3
    assert sum(found[f"num_requests_replica_{replica}"] for replica in range(3)) == 30
    for name in parts[0].keys() - MEANS:
        values = [part[name] for part in parts]
        assert found[name] == (max(values) if name in MAXIMA else sum(values)), name
    totals = [engine.metrics for engine in engines]
    admitted = sum(engine.scheduler.num_admitted_tokens for engine in engines)
    assert found["block_utilization"] == sum(m.slots_filled for m in totals) / sum(m.slots_held for m in totals)
    assert found["throughput"] == sum(m.num_output_tokens for m in totals) / max(m.busy_seconds for m in totals)
    assert found["time_to_first_token_s"] == pytest.approx(sum(m.time_to_first_token_sum for m in totals) / 30)
    hits = sum(engine.scheduler.num_cached_tokens for engine in engines)
    assert found["prefix_cache_hit_rate"] == pytest.approx(hits / admitted)
    assert all(isinstance(value, int) for name, value in found.items() if name not in MEANS | MAXIMA)


def test_a_time_to_the_first_token_counts_from_where_the_request_was_made():
    with replicas(2) as (routed, engines):
        made = [routed.make_request([number], SamplingParams(max_tokens=1)) for number in range(4)]
        sleep(0.1)
        for request in made:
            routed.add_request(request)
        run_to_end(routed, check=False)
        assert engines[1].metrics.num_first_tokens == 2
        assert engines[1].metrics.time_to_first_token_s > 0.1
        assert all(request.first_token_time - request.arrival_time > 0.1 for request in made)


def test_an_error_of_a_replica_names_it_and_does_not_end_it():
    with replicas(2) as (routed, engines):
        held = engines[1].scheduler.cache.pool.allocate(2)
        for _ in range(2):
            with pytest.raises(IntegrityError, match="replica 1: block 1 has 1 references, 0 rows and"):
                routed.check_integrity()
        engines[1].scheduler.cache.pool.release(held)
        routed.check_integrity()


def test_an_answer_that_nobody_waited_for_is_not_taken_for_the_next():
    with replicas(2) as (routed, engines):
        held = engines[0].scheduler.cache.pool.allocate(2)
        with pytest.raises(IntegrityError, match="^block 1 has"):
            routed.check_integrity()  # ends before the other replica has answered
        engines[0].scheduler.cache.pool.release(held)
        assert routed.get_statistics()["num_blocks"] == 2 * 64


@pytest.mark.parametrize("call", ["step", "get_statistics", "check_integrity", "abort", "add"])
def test_a_replica_that_fails_is_one_clear_error(call):
    with replicas(2) as (routed, engines):
        failing = Event()
        engines[1].runner.run = lambda inputs: failing.set() or fail(inputs)
        requests = [submit(routed, [number], max_tokens=30) for number in range(2)]
        lost = next(request for request in requests if routed._requests[request.request_id][1] == 1)
        assert failing.wait(20)
        calls = {"abort": lambda: routed.abort(lost.request_id), "add": lambda: add_many(routed)}
        for _ in range(2):
            with pytest.raises(ReplicaError, match="^replica 1 failed: RuntimeError: the device burns$"):
                repeat(calls.get(call) or getattr(routed, call))
            call = "step" if call == "abort" else call  # the request is forgotten by now
        engines[0].abort(requests[0].request_id)
        engines[1].abort(lost.request_id)


def repeat(call):
    for _ in range(10_000):  # until the news has come
        call()


def fail(inputs):
    raise RuntimeError("the device burns\nin many lines")


def add_many(routed):
    for number in range(10):
        submit(routed, [number], max_tokens=30)
    for request_id in list(routed._requests):
        routed.local.abort(request_id)


def test_a_replica_that_is_gone_is_one_clear_error():
    ours, theirs = Pipe()
    thread = Thread(target=lambda: EngineServer(make_engine(), theirs).serve(), daemon=True)
    thread.start()
    routed = RoutedEngine(make_engine(), [ours])
    routed._remotes[0]._connection.send(None)  # what nobody but close() sends: it ends by itself
    thread.join(20)
    for _ in range(2):
        with pytest.raises(ReplicaError, match="^replica 1 is gone: its connection ended$"):
            add_many(routed)
    routed.close()
    routed.close()


@pytest.mark.parametrize("is_abrupt", [False, True])
def test_a_replica_ends_when_the_router_closes_or_is_gone_even_with_work_left(is_abrupt):
    engine, (ours, theirs) = make_engine(), Pipe()
    ended = []
    thread = Thread(target=lambda: ended.append(EngineServer(engine, theirs).serve()), daemon=True)
    thread.start()
    routed = RoutedEngine(make_engine(), [ours])
    for number in range(2):
        submit(routed, [number], max_tokens=39)
    if is_abrupt:  # as the end of a process does it, whoever else holds the socket
        with socket.fromfd(ours.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as same:
            same.shutdown(socket.SHUT_RDWR)
    else:
        routed.close()
    thread.join(20)
    assert ended == [None], "it raised, or goes on"
    assert theirs.closed


def test_replicas_with_other_limits_are_refused():
    engines = [make_engine(), make_engine(max_model_len=36)]
    with pytest.raises(ConfigError, match="replica 1 runs .*max_model_len=36.*; all need one configuration"):
        with routed_over(engines):
            pass


def test_every_replica_pins_and_imports_and_one_exports():
    prefix = list(range(10))
    with replicas(3) as (routed, engines):
        assert pin_prefix(routed, prefix) == 8
        assert [len(set(engine.scheduler.cache.pool.pinned_blocks())) for engine in engines] == [2, 2, 2]
        exported = export_prefix(routed, list(range(20, 33)))
        assert import_prefix(routed, exported) == 12
        cached = [engine.scheduler.cache.pool.num_cached for engine in engines]
        assert cached[1:] == [3, 3]
        submit(routed, [1])
        with pytest.raises(RequestError, match="only while no request is under way"):
            pin_prefix(routed, prefix)
        run_to_end(routed, check=False)
    assert pin_prefix(make_engine(), prefix) == 8
    alone = make_engine()
    assert import_prefix(alone, export_prefix(make_engine(), prefix)) == 8


def test_logits_processors_travel_by_their_paths():
    path = "tests.sampling.processors:another_than_before"
    with replicas(2) as (routed, engines):
        with pytest.raises(RequestError, match="logits_processors: .*only_even' is a function; with replicas"):
            submit(routed, [1, 2], logits_processors=[processors.only_even])
        requests = [submit(routed, [prompt, 3], logits_processors=[path]) for prompt in range(4)]
        found = run_to_end(routed, check=False)
    assert all(engine.metrics.num_requests_finished > 0 for engine in engines)
    alone = make_engine(tokenizer=TOKENIZER)
    expected = [submit(alone, [prompt, 3], logits_processors=[path]) for prompt in range(4)]
    answers = run_to_end(alone, check=False).answers
    for one, other in zip(requests, expected):
        assert found.answers[one.request_id].outputs == answers[other.request_id].outputs
