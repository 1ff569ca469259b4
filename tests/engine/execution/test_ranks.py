"""A leader and its followers over real connections, in threads; each rank is an oracle that has some of the heads."""

import io
import itertools
import threading
import zipfile
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client

import numpy as np
import pytest
from safetensors.numpy import load

from mindspore_paged import SamplingParams
from mindspore_paged.cache.host_tier import HostTier
from mindspore_paged.engine.execution.ranks import channel as channels
from mindspore_paged.engine.execution.ranks.calls import Call, cut_page, join_pages
from mindspore_paged.engine.execution.ranks.follower import follow
from mindspore_paged.engine.execution.ranks.leader_runner import LeaderRunner
from mindspore_paged.engine.execution.ranks.place import place_of
from mindspore_paged.engine.prefix_store import export_prefix, import_prefix
from mindspore_paged.engine.scheduling.swap_cost import SwapCost
from mindspore_paged.errors import GroupError, IntegrityError, StepError
from mindspore_paged.launch import supervision
from mindspore_paged.launch.worker import Worker
from mindspore_paged.models.registry import model_config_by_name
from mindspore_paged.tensor_parallel import TensorParallel
from tests.engine.paged_oracle import OracleRunner, expected_tokens, make_engine, run_to_end

HEADS = 4
MODEL = model_config_by_name("tiny").__class__(
    vocab_size=64, hidden_size=8, intermediate_size=64, num_hidden_layers=1, num_attention_heads=16,
    num_key_value_heads=HEADS, head_dim=2, max_position_embeddings=64,
)  # fmt: skip
SIZES = [2, 4, 8]
COMMON = {"cache.num_blocks": 64}
LIMIT_S = 20


def kv_heads_of(size: int) -> list[range]:
    return [TensorParallel(rank, size).kv_heads(MODEL) for rank in range(size)]


class RankOracle(OracleRunner):
    """An OracleRunner of some KV heads: a token shows in a page as one number for each head, another for each."""

    def __init__(self, heads: range, num_blocks=64, block_size=4, table_shape=(8, 10), poison=None, buckets=(4, 16)):
        super().__init__(num_blocks, block_size, table_shape, poison)
        self.heads = heads
        self.buckets = buckets
        self.calls: list[str] = []

    def buckets_of(self, inputs):
        return (next(bucket for bucket in self.buckets if bucket >= inputs.num_tokens),)

    def run(self, inputs):
        self.calls.append("run")
        return super().run(inputs)

    def copy_blocks(self, pairs):
        self.calls.append("copy_blocks")
        super().copy_blocks(pairs)

    def read_pages(self, block_ids):
        """Pages [1 layer, 2, block_size, heads, 1]: token + 1000 * head; as values, negative."""
        self.calls.append("read_pages")
        keys = [self.pages[block][:, None, None] + 1000 * np.array(self.heads)[:, None] for block in block_ids]
        return [np.stack([key, -key])[None] for key in keys]

    def write_pages(self, block_ids, pages):
        self.calls.append("write_pages")
        for block, page in zip(block_ids, pages, strict=True):
            self.pages[block] = page[0, 0, :, 0, 0] - 1000 * self.heads[0]
            np.testing.assert_array_equal(page, self.read_pages([block])[0])


class Group:
    """A leader runner over followers in threads of their own; `runners` are those of all ranks."""

    names = map("leader {}".format, itertools.count())

    def __init__(self, runners: list[RankOracle], kv_heads: list[range]):
        self.runners = runners
        self._name = next(self.names)
        self.ended: list[BaseException | None] = [None] * (len(runners) - 1)
        self._threads = [
            threading.Thread(target=self._follow, args=(rank,), daemon=True) for rank in range(1, len(runners))
        ]
        for thread in self._threads:
            thread.start()
        self.channel = channels.listen(self._name, "127.0.0.1", len(runners), COMMON)
        self.leader = LeaderRunner(runners[0], self.channel, kv_heads)

    def join(self) -> list[BaseException | None]:
        """Wait for all followers; what each of them ended with, None being right."""
        for thread in self._threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive(), "a follower is left"
        return self.ended

    def _follow(self, rank: int) -> None:
        line = channels.connect(self._name, rank, COMMON)
        try:
            follow(self.runners[rank], line)
        except BaseException as error:  # noqa: BLE001, the test looks at it
            self.ended[rank - 1] = error
        line.close()  # as the end of a process does


@pytest.fixture(autouse=True)
def board(monkeypatch):
    """The supervisor's board of names, in this process; and what it was told of failures."""
    values, there, failures = {}, threading.Condition(), []

    def publish(name, value):
        with there:
            values[name] = value
            there.notify_all()

    def lookup(name, timeout=LIMIT_S):
        with there:
            assert there.wait_for(lambda: name in values, timeout)
            return values[name]

    monkeypatch.setattr(supervision, "publish", publish)
    monkeypatch.setattr(supervision, "lookup", lookup)
    monkeypatch.setattr(supervision, "fail", lambda message, exit_code=1: failures.append(message))
    return failures


@pytest.fixture
def start():
    """Makes groups of `size` ranks; afterwards no thread of theirs is left."""
    groups = []

    def start(size, **options) -> Group:
        heads = kv_heads_of(size)
        groups.append(Group([RankOracle(of_rank, **options) for of_rank in heads], heads))
        return groups[-1]

    yield start
    for group in groups:
        group.leader.close()
        group.join()


def engine_over(group: Group, **options):
    engine = make_engine(**options)
    engine.runner = engine.mover.runner = group.leader
    engine.model_fingerprint = "a model"
    return engine


def submit(engine, prompt, count=6, **params) -> str:
    return engine.add_request(engine.make_request(prompt, SamplingParams(max_tokens=count, **params)))


def prompts_of(seed: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    shared = generator.integers(0, 64, 9).tolist()
    return [shared[: 3 * (n % 4)] + generator.integers(0, 64, 2 + 2 * n).tolist() for n in range(8)]


def pages_of(exported: bytes) -> list:
    with zipfile.ZipFile(io.BytesIO(exported)) as archive:
        pages = [name for name in archive.namelist() if name.endswith("safetensors")]
        return [load(archive.read(name))["page"].tolist() for name in pages]


@pytest.mark.parametrize("size", SIZES)
def test_a_group_answers_as_one_rank_with_pages_in_and_out(start, size):
    group = start(size, num_blocks=14)
    host_tier = HostTier(2**20)
    engine = engine_over(group, num_blocks=14, host_tier=host_tier, swap_cost=SwapCost("always"))
    for prompts in (prompts_of(1), prompts_of(1)[::-1]):
        prompt_of = {submit(engine, prompt, 10, n=1 + place % 2): prompt for place, prompt in enumerate(prompts)}
        for request_id, answer in run_to_end(engine).answers.items():
            for output in answer.outputs:
                assert output.token_ids == expected_tokens(prompt_of[request_id], 10)
    statistics = engine.get_statistics()
    assert statistics["num_preemptions"] > 0
    assert statistics["num_pages_loaded"] > 0
    assert statistics["tensor_parallel_size"] == size
    assert {"run", "copy_blocks", "read_pages", "write_pages"} == set(group.runners[0].calls)
    engine.close()
    assert group.join() == [None] * (size - 1)
    for runner in group.runners[1:]:
        assert runner.calls == group.runners[0].calls
        np.testing.assert_array_equal(runner.pages, group.runners[0].pages)


def test_exported_pages_are_the_same_for_any_number_of_ranks(start):
    prompt = [5, 3, 8, 1, 9, 9, 2, 7, 4, 4]
    exported = [export_prefix(engine_over(start(size)), prompt) for size in (1, *SIZES)]
    assert len(pages_of(exported[0])) == 2
    assert all(pages_of(data) == pages_of(exported[0]) for data in exported)
    for size in (1, *SIZES):
        engine = engine_over(start(size))
        assert import_prefix(engine, exported[0]) == 8
        (answer,) = run_to_end(engine).answers.values() if submit(engine, prompt) else ()
        assert answer.outputs[0].token_ids == expected_tokens(prompt, 6)
        assert engine.get_statistics()["num_computed_tokens"] == len(prompt) - 8 + 5


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_pages_are_cut_and_joined_by_heads(size):
    """Of ranks that have the same head the first one's counts."""
    page = np.random.default_rng(0).standard_normal((3, 2, 16, 8, 4)).astype(np.float16)
    llama = MODEL.__class__(
        vocab_size=8, hidden_size=8, intermediate_size=16, num_hidden_layers=3, num_attention_heads=16,
        num_key_value_heads=8, head_dim=4, max_position_embeddings=8,
    )  # fmt: skip
    heads = [TensorParallel(rank, size).kv_heads(llama) for rank in range(size)]
    parts = [cut_page(page, of_rank) for of_rank in heads]
    for rank, part in enumerate(parts):
        first = rank * 8 // size
        np.testing.assert_array_equal(part, page[:, :, :, first : first + max(1, 8 // size)])
        assert part.flags.c_contiguous
        if rank and heads[rank] == heads[rank - 1]:
            part[:] = np.nan
    joined = join_pages(parts, heads)
    np.testing.assert_array_equal(joined, page)
    assert joined.flags.c_contiguous


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_pages_of_int8_are_cut_and_joined_with_their_scales(size):
    """What a rank gets is a page like any other: values first, then scales, of its heads alone."""
    values = np.random.default_rng(0).integers(-127, 128, (3, 2, 16, 4, 6)).astype(np.int8)
    scales = np.random.default_rng(1).random((3, 2, 16, 4), np.float32)

    def page_of(heads):
        stored_scales = np.ascontiguousarray(scales[..., heads]).reshape(6, -1).view(np.int8)
        parts = values[..., heads, :].reshape(6, -1), stored_scales
        return np.concatenate(parts, axis=1).reshape(3, 2, 16, len(range(4)[heads]), 10)

    page = page_of(slice(None))
    heads = [range(rank * 4 // size, max(rank * 4 // size + 1, (rank + 1) * 4 // size)) for rank in range(size)]
    parts = [cut_page(page, of_rank) for of_rank in heads]
    for part, of_rank in zip(parts, heads, strict=True):
        np.testing.assert_array_equal(part, page_of(slice(of_rank.start, of_rank.stop)))
        assert part.flags.c_contiguous
    joined = join_pages(parts, heads)
    np.testing.assert_array_equal(joined, page)
    assert (joined.dtype, joined.flags.c_contiguous) == (np.int8, True)


def test_what_fails_on_all_ranks_is_the_requests_fault(start, board):
    group = start(2, poison=63)
    engine = engine_over(group)
    good, bad = submit(engine, [1, 2, 3]), submit(engine, [4, 63])
    answers = run_to_end(engine).answers
    assert answers[bad].error == "token 63 is poison"
    assert answers[good].outputs[0].token_ids == expected_tokens([1, 2, 3], 6)
    assert board == []


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_what_fails_on_one_rank_ends_the_job(start, board, rank):
    group = start(4)
    group.runners[rank].poison = 63
    engine = engine_over(group)
    submit(engine, [4, 63])
    with pytest.raises(GroupError) as caught:
        engine.step()
    assert str(caught.value) == (
        f"rank {rank} of the group failed in call 1 (run) and the others did not: token 63 is poison"
    )
    assert board == [str(caught.value)]


@pytest.mark.parametrize("call", ["copy_blocks", "read_pages", "write_pages"])
def test_moves_of_pages_fail_together_too(start, board, call):
    group = start(2)
    page = np.zeros((1, 2, 4, HEADS, 1), np.int32)
    arguments = {"copy_blocks": ([(1, 2)],), "read_pages": ([1],), "write_pages": ([1], [page])}[call]

    def refuse(*arguments):
        raise StepError("block 1 is not there")

    for runner in group.runners:
        setattr(runner, call, refuse)
    with pytest.raises(StepError, match="block 1 is not there"):
        getattr(group.leader, call)(*arguments)
    assert board == []
    del group.runners[1].__dict__[call]
    with pytest.raises(GroupError if call != "write_pages" else (GroupError,)):
        getattr(group.leader, call)(*arguments)
    assert len(board) == 1


@pytest.mark.parametrize("rank", [0, 2])
def test_a_table_that_went_astray_on_any_device_is_found(start, rank):
    group = start(4)
    engine = engine_over(group)
    submit(engine, [1, 2, 3, 4, 5])
    engine.step()
    engine.check_integrity()
    group.runners[rank].block_table[0, 1] = 9
    with pytest.raises(IntegrityError) as caught:
        engine.check_integrity()
    held = engine.scheduler.cache.table.block_tables[0, 1]
    assert str(caught.value) == (
        f"block_table on the device of rank {rank} has block 9 at row 0, column 1; the host wrote {held} there"
    )


def test_counters_are_those_of_the_rank_that_has_most(start):
    group = start(4)
    assert (group.leader.num_compiles, group.leader.compiles_after_warmup) == (0, 0)
    group.runners[2].num_compiles, group.runners[3].compiles_after_warmup = 7, 2
    group.leader.copy_blocks([(-1, -1)])
    assert (group.leader.num_compiles, group.leader.compiles_after_warmup) == (7, 2)
    group.runners[0].num_compiles, group.runners[0].compiles_after_warmup = 8, 3
    assert (group.leader.num_compiles, group.leader.compiles_after_warmup) == (8, 3)


def test_a_step_never_starts_in_different_graphs(start, board):
    group = start(2)
    group.runners[1].buckets = (8, 16)
    engine = engine_over(group)
    submit(engine, [1, 2, 3])
    with pytest.raises(GroupError, match="rank 1 of the group is gone"):
        engine.step()
    (error,) = group.join()
    assert str(error) == (
        "step 1 runs in graphs of [4] tokens on the leader, of [8] on this rank; all ranks need the same configuration"
    )
    assert group.runners[1].calls == []


@pytest.mark.parametrize("call", [Call(3, "copy_blocks", ([(1, 2)],)), Call(1, "close"), Call(1, "__class__")])
def test_a_follower_does_nothing_out_of_turn(start, call):
    group = start(2)
    group.channel.send([call])
    (error,) = group.join()
    assert isinstance(error, GroupError)
    assert str(error) == f"the leader asks for call {call.number} ({call.method}); this rank is at call 1"
    assert group.runners[1].calls == []


def test_a_leader_that_is_gone_is_an_error_and_one_that_closes_is_not(start):
    closed, lost = start(2), start(2)
    closed.leader.close()
    closed.leader.close()
    assert closed.join() == [None]
    lost.channel._followers[0].close()
    (error,) = lost.join()
    assert str(error) == "the leader of the group is gone"


def test_an_engine_that_is_forgotten_lets_its_followers_go(start):
    group = start(2)
    group.leader = None
    try:
        assert group.join() == [None]
    finally:
        group.leader = LeaderRunner(group.runners[0], group.channel, kv_heads_of(2))


def test_an_interrupted_call_does_not_leave_its_outcome_to_the_next(start):
    group = start(2)
    interrupted = group.runners[0]

    def interrupt(pairs):
        raise KeyboardInterrupt

    interrupted.copy_blocks = interrupt
    with pytest.raises(KeyboardInterrupt):
        group.leader.copy_blocks([(1, 2)])
    (page,) = group.leader.read_pages([1])
    assert page.shape == (1, 2, 4, HEADS, 1)


def test_ranks_of_other_configurations_are_refused():
    threading.Thread(target=lambda: channels.connect("refused", 1, {"cache.num_blocks": 63}), daemon=True).start()
    with pytest.raises(GroupError) as caught:
        channels.listen("refused", "127.0.0.1", 2, COMMON)
    assert str(caught.value) == "cache.num_blocks is 63 on rank 1 of the group, 64 on rank 0; they must agree"


def test_a_stranger_gets_no_line():
    lines = {}
    listening = threading.Thread(target=lambda: lines.update(leader=channels.listen("leader", "127.0.0.1", 2, COMMON)))
    listening.start()
    host, port, _ = supervision.lookup("leader").split()
    with pytest.raises(AuthenticationError):
        Client((host, int(port)), authkey=b"guessed")
    follower = channels.connect("leader", 1, COMMON)
    listening.join(LIMIT_S)
    lines["leader"].close()
    assert follower.receive() is None


def test_groups_are_made_of_consecutive_workers():
    places = [place_of(Worker(rank, 6, "host", 1), 3) for rank in range(6)]
    assert [place.parallel.rank for place in places] == [0, 1, 2, 0, 1, 2]
    assert [place.replica for place in places] == [0, 0, 0, 1, 1, 1]
    assert [list(place.ranks) for place in places] == [[0, 1, 2]] * 3 + [[3, 4, 5]] * 3
    assert [place.is_leader for place in places] == [True, False, False, True, False, False]
