"""cache_salt: who has another one finds no page and no answer, in whatever tier it lies; and every answer is right."""

import numpy as np
import pytest

from mindspore_paged import SamplingParams
from mindspore_paged.cache.block_pool import extend_block_hashes
from mindspore_paged.cache.file_tier import FileTier
from mindspore_paged.cache.host_tier import HostTier
from mindspore_paged.cache.page_format import PageFormat
from mindspore_paged.engine.prefix_store import export_prefix, import_prefix, pin_prefix
from mindspore_paged.engine.requests.response_cache import ResponseCache
from mindspore_paged.engine.scheduling.swap_cost import SwapCost
from mindspore_paged.errors import RequestError
from mindspore_paged.prompts_file import read_prompts_file
from tests.engine.paged_oracle import expected_tokens, make_engine, run_to_end

PROMPT = [5, 3, 8, 1, 9, 9, 2, 7, 4, 4]  # two full blocks of four, and a half
HIT, PAGE_BYTES = 8, 4 * 4
SALTS = (None, "one tenant", "another", "\x05\x00")


def num_hit(engine, salt, prompt=PROMPT, **params) -> int:
    """How many of the prompt's tokens were found, after its answer was found right."""
    computed = engine.metrics.num_computed_tokens
    params = SamplingParams(**{"max_tokens": 3} | params)
    request_id = engine.add_request(engine.make_request(prompt, params, cache_salt=salt))
    for output in run_to_end(engine).answers[request_id].outputs:
        assert output.token_ids == expected_tokens(prompt, params.max_tokens)
    # Of an answer each token but the last is computed, by each sequence.
    return len(prompt) + params.n * (params.max_tokens - 1) - (engine.metrics.num_computed_tokens - computed)


def test_pages_are_found_under_an_equal_salt_alone():
    engine = make_engine()
    assert [num_hit(engine, salt) for salt in SALTS] == [0] * len(SALTS)
    assert engine.scheduler.prefix_cache_hit_rate == 0
    assert [num_hit(engine, salt, n=2) for salt in SALTS] == [HIT] * len(SALTS)


def test_a_prompt_that_runs_beside_an_equal_one_shares_no_page_of_another_salt():
    engine = make_engine()
    requests = [engine.make_request(PROMPT, SamplingParams(max_tokens=20), cache_salt=salt) for salt in SALTS]
    for request in requests:
        engine.add_request(request)
        engine.step()
    table = engine.scheduler.cache.table
    held = [set(table.blocks(request.sequences[0].row)) for request in requests]
    assert len(set.union(*held)) == sum(map(len, held))
    assert all(a.outputs[0].token_ids == expected_tokens(PROMPT, 20) for a in run_to_end(engine).answers.values())


def test_no_salt_is_like_the_tokens_of_a_block():
    """A salt whose bytes are those of a block's tokens does not lead behind that block."""
    first, second = [1, 2], [3, 4]
    plain, salted = [], []
    extend_block_hashes(plain, first + second, 2)
    extend_block_hashes(salted, second, 2, np.array(first, np.int32).tobytes().decode())
    assert salted[0] != plain[1]
    again = []
    extend_block_hashes(again, first + second, 2, None)
    assert again == plain


def test_no_adapter_finds_pages_of_another_or_of_none():
    """Under any salt: also one that is the text of another's name."""
    tokens, names = [1, 2, 3, 4], []
    for salt in (None, "mine", "\x01" * 32, "\x02" * 32):
        for adapter in (None, b"\x01" * 32, b"\x02" * 32):
            hashes = []
            extend_block_hashes(hashes, tokens, 2, salt, adapter)
            names += hashes
    assert len(set(names)) == 4 * 3 * 2


def test_host_memory_and_files_keep_them_apart_too(tmp_path):
    pages = PageFormat("model", np.dtype(np.int32), (4,))

    def engine_over(tier):
        return make_engine(num_blocks=11, host_tier=tier, swap_cost=SwapCost("always"))

    with HostTier(16 * PAGE_BYTES, FileTier(tmp_path, 10**6, pages)) as tier:
        engine = engine_over(tier)
        for prompt in (PROMPT, *([seed] * 36 for seed in range(50, 54))):  # these drive its pages down to files
            engine.add_request(engine.make_request(prompt, SamplingParams(max_tokens=2), cache_salt="mine"))
            while engine.has_unfinished:
                engine.step()
                tier.wait_until_idle()
    with HostTier(16 * PAGE_BYTES, FileTier(tmp_path, 10**6, pages)) as tier:
        engine = engine_over(tier)
        assert [num_hit(engine, salt) for salt in ("yours", None)] == [0, 0]
        assert engine.get_statistics()["num_pages_loaded"] == 0
        assert num_hit(engine, "mine") == HIT
        assert engine.get_statistics()["num_pages_loaded"] == HIT // 4


def test_pinned_and_imported_prefixes_are_for_requests_without_a_salt():
    engine, other = make_engine(), make_engine()
    pin_prefix(engine, PROMPT)
    import_prefix(other, export_prefix(engine, PROMPT))
    for each in (engine, other):
        assert num_hit(each, "mine") == 0
        assert num_hit(each, None) == HIT


def test_a_remembered_answer_is_given_under_its_own_salt_alone():
    engine = make_engine(response_cache=ResponseCache(8))
    for salt in SALTS:
        num_hit(engine, salt)
    assert engine.metrics.num_response_cache_hits == 0
    for number, salt in enumerate(SALTS, 1):
        num_hit(engine, salt)
        assert engine.metrics.num_response_cache_hits == number


@pytest.mark.parametrize("salt", ["", 3, b"bytes", ["a"], "x" * 1025, "half a pair: \ud83d"])
def test_what_is_no_salt_is_refused_in_one_line(salt):
    with pytest.raises(RequestError, match=r"^cache_salt is .*; it must be text of 1 to 1024 characters, or none$"):
        make_engine().make_request(PROMPT, SamplingParams(), cache_salt=salt)
    assert make_engine().make_request(PROMPT, SamplingParams(), cache_salt="x" * 1024).cache_salt == "x" * 1024


def test_a_line_of_a_prompts_file_may_have_one(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a", "cache_salt": "mine"}\n{"prompt": "b", "cache_salt": null}\n')
    assert [entry.cache_salt for entry in read_prompts_file(path, SamplingParams())] == ["mine", None]
