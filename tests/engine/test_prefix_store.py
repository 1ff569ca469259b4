"""Prefixes pinned, exported and imported: hits and right answers, or a failure that changes nothing."""

import pytest

from mindspore_paged import SamplingParams
from mindspore_paged.cache.host_tier import HostTier
from mindspore_paged.engine.prefix_store import export_prefix, import_prefix, pin_prefix
from mindspore_paged.engine.requests.response_cache import ResponseCache
from mindspore_paged.engine.scheduling.swap_cost import SwapCost
from mindspore_paged.errors import IntegrityError, OutOfBlocksError, RequestError, StepError
from tests.engine.paged_oracle import VOCAB, expected_tokens, make_engine, run_to_end

PREFIX = [5, 3, 8, 1, 9, 9, 2, 7, 4, 4]  # two full blocks of four, and a half
BLOCKS = 2


def engine_of(fingerprint="a model", **options):
    engine = make_engine(**options)
    engine.model_fingerprint = fingerprint
    return engine


def answer(engine, prompt, count=6) -> list[int]:
    request_id = engine.add_request(engine.make_request(prompt, SamplingParams(max_tokens=count)))
    (output,) = run_to_end(engine).answers[request_id].outputs
    return output.token_ids


def assert_hit(engine, num_tokens) -> None:
    """The prompt is answered rightly, and its first `num_tokens` tokens are not computed for it."""
    computed = engine.metrics.num_computed_tokens
    assert answer(engine, [*PREFIX, 6]) == expected_tokens([*PREFIX, 6], 6)
    assert engine.metrics.num_computed_tokens - computed == len(PREFIX) + 1 + 5 - num_tokens


def put_under_pressure(engine) -> None:
    """Let other prompts pass through every block that can be had."""
    for seed in range(4):
        prompt = [(seed + 7 * i) % VOCAB for i in range(30)]
        assert answer(engine, prompt, 10) == expected_tokens(prompt, 10)


def state_of(engine) -> tuple:
    pool = engine.scheduler.cache.pool
    engine.check_integrity()
    return pool.num_free, pool.num_cached, pool.num_used, pool.cached_blocks(), engine.runner.pages.tolist()


@pytest.fixture
def exported() -> bytes:
    return export_prefix(engine_of(), PREFIX)


# Computed


def test_a_prefix_is_computed_even_where_its_answer_is_known():
    engine = engine_of(num_blocks=14, response_cache=ResponseCache(8))
    assert answer(engine, PREFIX, 1) == expected_tokens(PREFIX, 1)  # what computing a prefix asks for too
    put_under_pressure(engine)  # the answer is kept, the pages are not
    other = engine_of()
    assert import_prefix(other, export_prefix(engine, PREFIX)) == BLOCKS * 4
    assert_hit(other, BLOCKS * 4)


# Pinned


def test_a_pinned_prefix_survives_what_evicts_another():
    pinning, plain = (engine_of(num_blocks=14) for _ in range(2))
    assert pin_prefix(pinning, PREFIX) == BLOCKS * 4
    assert answer(plain, PREFIX, 1) == expected_tokens(PREFIX, 1)
    for engine in (pinning, plain):
        put_under_pressure(engine)
    assert_hit(pinning, BLOCKS * 4)
    assert_hit(plain, 0)
    pinning.check_integrity()


def test_pins_are_counted_when_nothing_runs():
    engine = engine_of()
    pin_prefix(engine, PREFIX)
    pool = engine.scheduler.cache.pool
    assert pool.num_used == len(set(pool.pinned_blocks())) == BLOCKS
    pool.retain(pool.pinned_blocks()[:1])
    with pytest.raises(IntegrityError, match="has 2 references, 0 rows and 1 pins"):
        engine.check_integrity()


def test_two_pins_of_one_prefix_share_its_blocks():
    engine = engine_of()
    assert pin_prefix(engine, PREFIX) == pin_prefix(engine, [*PREFIX, 1]) == BLOCKS * 4
    assert engine.scheduler.cache.pool.num_used == BLOCKS
    engine.check_integrity()
    assert pin_prefix(engine, PREFIX[:3]) == 0


def test_pins_leave_room_for_the_longest_sequence():
    engine = engine_of(num_blocks=13)  # 12, of which the longest sequence needs 10
    pin_prefix(engine, PREFIX)
    before = state_of(engine)[2]
    with pytest.raises(RequestError, match=r"3 of 12 blocks would be pinned; a sequence of max_model_len needs 10"):
        pin_prefix(engine, [60] * 4)
    assert state_of(engine)[2] == before
    assert answer(engine, [1] * 30, 10) == expected_tokens([1] * 30, 10)


@pytest.mark.parametrize("use", [pin_prefix, export_prefix])
def test_a_prefix_is_computed_only_by_an_idle_engine(use):
    engine = engine_of()
    request_id = engine.add_request(engine.make_request([1, 2], SamplingParams(max_tokens=3)))
    with pytest.raises(RequestError, match="only while no request is under way"):
        use(engine, PREFIX)
    assert run_to_end(engine).answers[request_id].outputs[0].token_ids == expected_tokens([1, 2], 3)


@pytest.mark.parametrize("use", [pin_prefix, export_prefix])
@pytest.mark.parametrize(
    ("prompt", "message"), [([], "empty"), ([VOCAB], "no token"), ([1] * 40, "max_model_len"), ("text", "tokenizer")]
)
def test_a_bad_prompt_is_refused(use, prompt, message):
    engine = engine_of()
    with pytest.raises(RequestError, match=message):
        use(engine, prompt)
    assert engine.metrics.num_steps == 0


@pytest.mark.parametrize("use", [pin_prefix, export_prefix])
def test_a_prefix_that_fails_on_the_device_is_refused(use):
    engine = engine_of(poison=PREFIX[-1])
    with pytest.raises(RequestError, match="the prefix could not be computed: token 4 is poison"):
        use(engine, PREFIX)
    assert engine.scheduler.cache.pool.num_used == 0
    engine.check_integrity()


def test_without_prefix_caching_nothing_can_be_kept(exported):
    engine = engine_of(enable_prefix_caching=False)
    for use, argument in ((pin_prefix, PREFIX), (export_prefix, PREFIX), (import_prefix, exported)):
        with pytest.raises(RequestError, match="cache.enable_prefix_caching is false"):
            use(engine, argument)


# Exported and imported


def test_an_imported_prefix_is_hit(exported, tmp_path):
    engine = engine_of()
    assert import_prefix(engine, exported) == BLOCKS * 4
    assert engine.scheduler.cache.pool.num_cached == BLOCKS
    engine.check_integrity()
    assert_hit(engine, BLOCKS * 4)
    path = tmp_path / "prefix.zip"
    assert export_prefix(engine, PREFIX, path) == path.read_bytes()
    for source in (path, str(path)):
        other = engine_of()
        assert import_prefix(other, source) == BLOCKS * 4
        assert_hit(other, BLOCKS * 4)


def test_what_is_there_already_is_not_written_again(exported):
    engine = engine_of()
    answer(engine, PREFIX[:4], 1)
    write_pages, written = engine.runner.write_pages, []
    engine.runner.write_pages = lambda blocks, pages: written.append(len(blocks)) or write_pages(blocks, pages)
    assert import_prefix(engine, exported) == BLOCKS * 4
    assert written == [1]
    before = state_of(engine)
    assert import_prefix(engine, exported) == BLOCKS * 4
    assert state_of(engine) == before
    assert_hit(engine, BLOCKS * 4)


def test_an_import_beside_requests_under_way(exported):
    engine = engine_of(num_blocks=14)
    request_id = engine.add_request(engine.make_request([1] * 12, SamplingParams(max_tokens=20)))
    for _ in range(3):
        engine.step()
    assert import_prefix(engine, exported) == BLOCKS * 4
    engine.check_integrity()
    assert run_to_end(engine).answers[request_id].outputs[0].token_ids == expected_tokens([1] * 12, 20)
    assert_hit(engine, BLOCKS * 4)


def test_an_import_evicts_what_is_merely_cached(exported):
    engine = engine_of(num_blocks=11)
    put_under_pressure(engine)
    assert engine.scheduler.cache.pool.num_free < BLOCKS
    assert import_prefix(engine, exported) == BLOCKS * 4
    engine.check_integrity()
    assert_hit(engine, BLOCKS * 4)


def test_what_an_import_evicts_is_saved_before_it_is_overwritten(exported):
    with HostTier(10**6) as tier:
        engine = engine_of(num_blocks=11, host_tier=tier, swap_cost=SwapCost("always"))
        prompt = [50] * 39  # takes the whole pool
        answer(engine, prompt, 1)
        for _ in range(5):
            assert import_prefix(engine, exported) == BLOCKS * 4
            answer(engine, [51] * 30, 1)
        assert_hit(engine, BLOCKS * 4)
        assert answer(engine, prompt, 1) == expected_tokens(prompt, 1)
        assert engine.mover.num_pages_loaded > 0


def test_a_full_pool_takes_no_import(exported):
    engine = engine_of(num_blocks=11)
    answer(engine, PREFIX[:4], 1)  # known, and so retained for a moment
    held = engine.scheduler.cache.pool.allocate(9)
    before = engine.scheduler.cache.pool.cached_blocks(), engine.runner.pages.tolist()
    with pytest.raises(OutOfBlocksError, match="1 blocks asked for, 0 of 10 available"):
        import_prefix(engine, exported)
    assert (engine.scheduler.cache.pool.cached_blocks(), engine.runner.pages.tolist()) == before
    engine.scheduler.cache.pool.release(held)
    engine.check_integrity()


def test_a_failing_write_leaves_no_block_behind(exported):
    engine = engine_of()
    before = state_of(engine)
    write_pages, engine.runner.write_pages = engine.runner.write_pages, failing
    with pytest.raises(StepError, match="no page can be written"):
        import_prefix(engine, exported)
    assert state_of(engine) == before
    engine.runner.write_pages = write_pages
    assert_hit(engine, 0)


def failing(*arguments):
    raise StepError("no page can be written")


def test_a_failing_read_exports_nothing(tmp_path):
    engine, path = engine_of(), tmp_path / "prefix.zip"
    engine.runner.read_pages = failing
    with pytest.raises(StepError):
        export_prefix(engine, PREFIX, path)
    assert not path.exists()
    engine.check_integrity()
