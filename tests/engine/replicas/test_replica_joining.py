"""How replicas of one job find each other, and keep apart what is each one's own."""

from collections import defaultdict
from dataclasses import replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path
from queue import Queue
from threading import Thread
from types import SimpleNamespace

import pytest

from mindspore_paged.config import config_from_dict
from mindspore_paged.engine.replicas import joining
from mindspore_paged.engine.replicas.joining import files_of_replica, serve_or_route
from mindspore_paged.errors import IntegrityError
from tests.engine.paged_oracle import expected_tokens, make_engine, run_to_end
from tests.engine.replicas.test_replicas import submit


def test_leaders_find_each_other_and_the_others_end_when_the_first_closes(monkeypatch):
    board, left, ends = defaultdict(Queue), [], Queue()
    monkeypatch.setattr(joining, "current_worker", lambda: SimpleNamespace(own_address=lambda: "127.0.0.1"))
    monkeypatch.setattr(joining.supervision, "publish", lambda name, value: board[name].put(value))
    monkeypatch.setattr(joining.supervision, "lookup", lambda name: board[name].get(timeout=20))
    monkeypatch.setattr(joining.supervision, "leave", lambda: left.append(True))

    def lead(rank):
        try:
            serve_or_route(make_engine(), rank, 2, 3)
        except SystemExit as end:
            ends.put(end.code)

    threads = [Thread(target=lead, args=(rank,), daemon=True) for rank in (2, 4)]
    for thread in threads:
        thread.start()
    place = board["replica 1"].get(timeout=20)
    host, port, _ = place.split()
    with pytest.raises(AuthenticationError):
        Client((host, int(port)), authkey=b"a guess")
    board["replica 1"].put(place)
    routed = serve_or_route(make_engine(), 0, 2, 3)
    requests = [submit(routed, [number]) for number in range(6)]
    answers = run_to_end(routed, check=False).answers
    assert all(answers[r.request_id].outputs[0].token_ids == expected_tokens(r.prompt_token_ids, 8) for r in requests)
    assert routed._router.num_requests == [2, 2, 2]
    assert not left
    routed.close()
    assert [ends.get(timeout=20) for _ in threads] == [0, 0]
    assert left == [True, True]


def test_one_replica_is_the_engine_itself_and_followers_are_none_of_ours():
    engine = make_engine()
    assert serve_or_route(engine, 0, 4, 1) is engine
    for rank in (1, 8):
        with pytest.raises(IntegrityError, match=f"rank {rank} leads none of 2 replicas of 4 ranks"):
            serve_or_route(engine, rank, 4, 2)


def test_replicas_do_not_write_into_the_same_files(tmp_path):
    config = config_from_dict(
        {
            "runtime": {"event_log": str(tmp_path / "pool.events.log")},
            "cache": {"page_files": str(tmp_path / "pages"), "host_memory": "1MB"},
        }
    )
    assert files_of_replica(config, 0) is config
    own = files_of_replica(config, 2)
    assert own.runtime.event_log == tmp_path / "pool.events.replica2.log"
    assert own.cache.page_files == Path(tmp_path / "pages" / "replica2")
    assert replace(own, runtime=config.runtime, cache=config.cache) == config
    plain = config_from_dict({})
    assert files_of_replica(plain, 1) == plain
