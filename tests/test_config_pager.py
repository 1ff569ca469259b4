"""The keys of the pager: what they become, and what one line a mistake in them gets."""

from dataclasses import replace
from pathlib import Path

import pytest

from mindspore_paged.config import CacheSection, EngineConfig, SchedulerSection, config_from_dict, load_config
from tests.test_config import message_of, write


def test_every_key_is_read(tmp_path):
    path = write(
        tmp_path,
        """
cache:
  block_size: auto
  host_memory: 1GiB
  page_files: pages
  page_files_budget: 8MiB
  swap: never
  contiguous_priority: -1
  compaction: true
  elastic_min_blocks: 9
  preload_prefixes: [You are, "a: b"]
  response_cache_entries: 5
scheduler:
  policy: shortest
  ageing_steps: 2
  predict_lengths: true
  long_prefill_share: 0.25
  long_prompt_tokens: 100
  num_speculative_tokens: 4
  speculative_model: small.gguf
  speculative_weight_dtype: int4
  adaptive_speculation: false
  prompt_lookup_min: 1
  prompt_lookup_max: 5
runtime: {event_log: logs/pool.jsonl}
""",
    )
    config = load_config(path)
    assert config.cache == CacheSection(
        block_size="auto",
        host_memory=2**30,
        page_files=tmp_path / "pages",
        page_files_budget=8 * 2**20,
        swap="never",
        contiguous_priority=-1,
        compaction=True,
        elastic_min_blocks=9,
        preload_prefixes=("You are", "a: b"),
        response_cache_entries=5,
    )
    assert config.scheduler == SchedulerSection(
        policy="shortest",
        ageing_steps=2.0,
        predict_lengths=True,
        long_prefill_share=0.25,
        long_prompt_tokens=100,
        num_speculative_tokens=4,
        speculative_model=tmp_path / "small.gguf",
        speculative_weight_dtype="int4",
        adaptive_speculation=False,
        prompt_lookup_min=1,
        prompt_lookup_max=5,
    )
    assert config.runtime.event_log == tmp_path / "logs/pool.jsonl"


def test_the_defaults_leave_every_feature_out():
    cache, scheduler, event_log = EngineConfig().cache, EngineConfig().scheduler, EngineConfig().runtime.event_log
    assert (cache.host_memory, cache.page_files, cache.contiguous_priority, cache.elastic_min_blocks) == (None,) * 4
    assert scheduler.num_speculative_tokens == 0
    assert (cache.compaction, cache.preload_prefixes, cache.response_cache_entries) == (False, (), 0)
    assert (scheduler.policy, scheduler.predict_lengths, scheduler.long_prefill_share) == ("fcfs", False, None)
    assert event_log is None


@pytest.mark.parametrize("word", ["pages", "demo", "random"])
def test_paths_of_a_file_start_at_its_folder_and_those_of_an_override_do_not(tmp_path, monkeypatch, word):
    path = write(
        tmp_path, f"cache: {{host_memory: 1MiB, page_files: {word}, page_key: {word}}}\nruntime: {{event_log: {word}}}"
    )
    monkeypatch.chdir("/")
    config = load_config(path)
    assert (config.cache.page_files, config.runtime.event_log) == (tmp_path / word, tmp_path / word)
    assert config.cache.page_key == tmp_path / word
    config = load_config(path, [f"cache.page_files={word}", f"runtime.event_log={word}"])
    assert (config.cache.page_files, config.runtime.event_log) == (Path(word), Path(word))


def test_absolute_and_home_paths_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/reader")
    path = write(tmp_path, "cache: {host_memory: 1MiB, page_files: ~/pages}\nruntime: {event_log: /var/log/pool}")
    config = load_config(path)
    assert (config.cache.page_files, config.runtime.event_log) == (Path("/home/reader/pages"), Path("/var/log/pool"))


def test_an_override_adds_the_memory_that_files_need(tmp_path):
    path = write(tmp_path, "cache: {page_files: pages}")
    assert load_config(path, ["cache.host_memory=1MiB"]).cache.page_files == tmp_path / "pages"


SIZE = "a size such as 512MiB, or a whole number of bytes"


@pytest.mark.parametrize(
    ("section", "key", "value", "allowed"),
    [
        ("cache", "block_size", "Auto", "a multiple of 16, or auto"),
        ("cache", "block_size", None, "a multiple of 16, or auto"),
        ("cache", "host_memory", 0, "greater than 0"),
        ("cache", "host_memory", "much", SIZE),
        ("cache", "host_memory", True, SIZE),
        ("cache", "page_files", 3, "a path"),
        ("cache", "page_key", "", "a path"),
        ("cache", "page_files", "", "a path"),
        ("cache", "page_files_budget", 0, "greater than 0"),
        ("cache", "page_files_budget", None, SIZE),
        ("cache", "swap", "sometimes", "'auto', 'always' or 'never'"),
        ("cache", "swap", True, "'auto', 'always' or 'never'"),
        ("cache", "contiguous_priority", 1.5, "a whole number"),
        ("cache", "compaction", "on", "true or false"),
        ("cache", "elastic_min_blocks", 0, "greater than or equal to 1"),
        ("cache", "preload_prefixes", "You are", "a list"),
        ("cache", "response_cache_entries", -1, "greater than or equal to 0"),
        ("cache", "response_cache_entries", None, "a whole number"),
        ("scheduler", "policy", "lifo", "'fcfs', 'priority' or 'shortest'"),
        ("scheduler", "ageing_steps", 0, "greater than 0"),
        ("scheduler", "ageing_steps", float("inf"), "a finite number"),
        ("scheduler", "ageing_steps", True, "a number"),
        ("scheduler", "ageing_steps", "64", "a number"),
        ("scheduler", "predict_lengths", 1, "true or false"),
        ("scheduler", "long_prefill_share", 0, "greater than 0"),
        ("scheduler", "long_prefill_share", 1.1, "less than or equal to 1"),
        ("scheduler", "long_prefill_share", True, "a number"),
        ("scheduler", "long_prompt_tokens", 0, "greater than or equal to 1"),
        ("scheduler", "num_speculative_tokens", -1, "greater than or equal to 0"),
        ("scheduler", "num_speculative_tokens", None, "a whole number"),
        ("scheduler", "speculative_model", "", "a path"),
        (
            *("scheduler", "speculative_model", "demo"),
            "left out where scheduler.num_speculative_tokens is 0: it would guess nothing",
        ),
        (
            *("scheduler", "speculative_weight_dtype", "int8"),
            "left out where scheduler.speculative_model is not given: it is of its weights",
        ),
        ("scheduler", "adaptive_speculation", 1, "true, false or auto"),
        ("scheduler", "prompt_lookup_min", 0, "greater than or equal to 1"),
        ("scheduler", "prompt_lookup_max", 1, "at least scheduler.prompt_lookup_min (2)"),
        ("runtime", "event_log", 3, "a path"),
        ("runtime", "event_log", "", "a path"),
    ],
)
def test_wrong_value_names_key_value_and_what_is_allowed(section, key, value, allowed):
    message = message_of(config_from_dict, {section: {key: value}})
    assert message == f"{section}.{key} is {value!r}; it must be {allowed}"


@pytest.mark.parametrize("prefix", [1, None, ["You are"]])
def test_a_prefix_that_is_no_text(prefix):
    message = message_of(config_from_dict, {"cache": {"preload_prefixes": ["You are", prefix]}})
    assert message == f"cache.preload_prefixes[1] is {prefix!r}; it must be a valid string"


NAMES = "left out where cache.enable_prefix_caching is false: pages are found by their prefix"


@pytest.mark.parametrize(
    ("section", "values", "key", "allowed"),
    [
        ("cache", {"enable_prefix_caching": False, "host_memory": "1MiB"}, "host_memory", NAMES),
        ("cache", {"enable_prefix_caching": False, "preload_prefixes": ["You are"]}, "preload_prefixes", NAMES),
        (
            "cache",
            {"page_files": "pages"},
            "page_files",
            "left out where cache.host_memory is not given: pages reach the files through it",
        ),
        (
            "scheduler",
            {"enable_chunked_prefill": False, "long_prefill_share": 0.5},
            "long_prefill_share",
            "left out where scheduler.enable_chunked_prefill is false: whole prompts cannot be spread",
        ),
    ],
)
def test_a_key_that_another_rules_out(section, values, key, allowed):
    message = message_of(config_from_dict, {section: values})
    assert message == f"{section}.{key} is {values[key]!r}; it must be {allowed}"


def test_every_feature_may_stand_beside_the_others_that_it_needs():
    cache = CacheSection(host_memory=1, page_files="pages", preload_prefixes=["You are"])
    assert replace(cache, swap="always").page_files == Path("pages")
    assert SchedulerSection(long_prefill_share=1).long_prefill_share == 1.0
    assert not CacheSection(enable_prefix_caching=False, compaction=True, elastic_min_blocks=1).preload_prefixes


@pytest.mark.parametrize(
    ("keys", "adapts"),
    [
        ({}, False),
        ({"speculative_model": "demo"}, True),
        ({"speculative_model": "demo", "adaptive_speculation": False}, False),
        ({"adaptive_speculation": True}, True),
    ],
)
def test_the_number_of_guesses_is_chosen_where_a_model_makes_them_unless_told_otherwise(keys, adapts):
    assert SchedulerSection(num_speculative_tokens=3, **keys).adapts_speculation is adapts
