"""Beam searches in engines side by side, against one engine's."""

from dataclasses import replace

from mindspore_paged import BeamSearchParams
from tests.engine.paged_oracle import make_engine
from tests.engine.replicas.test_replicas import TOKENIZER, replicas, run_all


def test_beam_searches_of_replicas_are_those_of_one_engine():
    requests = [([3, place], BeamSearchParams(3, 6, n=2, length_penalty=0.5)) for place in range(6)]
    alone, expected = run_all(make_engine(tokenizer=TOKENIZER), requests)
    with replicas(num_blocks=16) as (routed, engines):
        together, found = run_all(routed, requests)
    assert all(engine.metrics.num_requests_finished > 0 for engine in engines)
    for one, other in zip(alone, together):
        assert found.answers[other.request_id] == replace(expected.answers[one.request_id], request_id=other.request_id)
        assert other.is_finished
        told = [update for update in found.updates if update.request_id == other.request_id]
        assert [(update.index, update.finish_reason is None) for update in told] == [(0, True), (0, False), (1, False)]


def test_a_beam_search_of_another_replica_can_be_aborted():
    with replicas() as (routed, _):
        made = [routed.make_request([3, place], BeamSearchParams(3, 20, n=2)) for place in range(2)]
        for request in made:
            routed.add_request(request)
        for request in made:
            assert [one.finish_reason for one in routed.abort(request.request_id).outputs] == ["abort"] * 2
            assert request.is_finished
