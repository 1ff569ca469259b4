"""What one line a mistake in a configuration gets."""

from pathlib import Path

import pytest

from mindspore_paged.config import CacheSection, config_from_dict, load_config
from tests.test_config import TINY_SHAPE, message_of, write


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"cache": {"block_sise": 1}}, "unknown key cache.block_sise; did you mean cache.block_size?"),
        ({"cach": {}}, "unknown key cach; did you mean cache?"),
        ({"scheduler": {"num_blocks": 1}}, "unknown key scheduler.num_blocks; did you mean cache.num_blocks?"),
        ({"max_num_seq": 1}, "unknown key max_num_seq; did you mean scheduler.max_num_seqs?"),
        ({"sampling": {"temprature": 1}}, "unknown key sampling.temprature; did you mean sampling.temperature?"),
        (
            {"model": {"config": {"hidden_sise": 1}}},
            "unknown key model.config.hidden_sise; did you mean model.config.hidden_size?",
        ),
        (
            {"model": {"name": "tiny", "config": {"rope_scaling": {"typ": "linear"}}}},
            "unknown key model.config.rope_scaling.typ; did you mean model.config.rope_scaling.type?",
        ),
        ({"zzz": 1}, "unknown key zzz; known keys: model, cache, scheduler, runtime, parallel, server, sampling"),
        ({1: 1}, "unknown key 1; known keys: model, cache, scheduler, runtime, parallel, server, sampling"),
    ],
)
def test_unknown_key_names_the_nearest_right_one(data, message):
    assert message_of(config_from_dict, data) == message


@pytest.mark.parametrize(
    ("section", "key", "value", "allowed"),
    [
        ("cache", "block_size", "abc", "a multiple of 16, or auto"),
        ("cache", "block_size", "16", "a multiple of 16, or auto"),
        ("cache", "block_size", True, "a multiple of 16, or auto"),
        ("cache", "block_size", 16.0, "a multiple of 16, or auto"),
        ("cache", "block_size", 24, "a multiple of 16, or auto"),
        ("cache", "block_size", 0, "a multiple of 16, or auto"),
        ("cache", "num_blocks", 1, "greater than or equal to 2"),
        ("cache", "memory_budget", True, "a size such as 512MiB, or a whole number of bytes"),
        ("cache", "memory_budget", "lots", "a size such as 512MiB, or a whole number of bytes"),
        ("cache", "memory_budget", -5, "a size such as 512MiB, or a whole number of bytes"),
        ("cache", "memory_budget", 0, "greater than 0"),
        ("cache", "kv_cache_dtype", "int4", "'auto', 'float32', 'float16', 'bfloat16' or 'int8'"),
        ("cache", "enable_prefix_caching", 1, "true or false"),
        ("scheduler", "max_num_seqs", 0, "greater than or equal to 1"),
        ("scheduler", "max_num_seqs", None, "a whole number"),
        ("scheduler", "max_model_len", 0, "greater than or equal to 1"),
        ("scheduler", "token_buckets", 5, "a list"),
        ("scheduler", "enable_chunked_prefill", "yes", "true or false"),
        ("runtime", "ops_backend", "gpu", "'cpu', 'ascend_emulator' or 'ascend'"),
        ("runtime", "device_target", "GPU", "'CPU' or 'Ascend'"),
        ("runtime", "jit_level", "O2", "'O0' or 'O1'"),
        ("runtime", "debug", "on", "true or false"),
        ("model", "dtype", "float64", "'float32', 'float16' or 'bfloat16'"),
        ("model", "weights", 3, "a path"),
        ("model", "tokenizer", "", "a path"),
        ("model", "weights", Path("a\0b"), "a path"),
        ("model", "seed", -1, "greater than or equal to 0"),
        ("model", "weights", "random", "a file or folder, unless model.name or model.config gives the shape"),
        ("sampling", "temperature", -1, "0 or more, and finite"),
        ("sampling", "top_k", True, "a whole number"),
    ],
)
def test_wrong_value_names_key_value_and_what_is_allowed(section, key, value, allowed):
    message = message_of(config_from_dict, {section: {key: value}})
    assert message == f"{section}.{key} is {value!r}; it must be {allowed}"


def test_wrong_entry_of_a_list_is_pointed_at():
    data = {"scheduler": {"token_buckets": [1, "x", 256]}}
    assert message_of(config_from_dict, data) == "scheduler.token_buckets[1] is 'x'; it must be a whole number"


@pytest.mark.parametrize("buckets", [[], [1, 128], [1, 64, 8, 256], [1, 1, 256]])
def test_token_buckets_that_do_not_cover_every_step(buckets):
    message = message_of(config_from_dict, {"scheduler": {"token_buckets": buckets}})
    assert message.endswith("it must be ascending numbers that end at scheduler.max_num_batched_tokens (256)")


@pytest.mark.parametrize("section", ["model", "cache", "scheduler", "runtime", "sampling"])
def test_section_that_is_no_mapping(section):
    assert message_of(config_from_dict, {section: [1]}) == f"{section} is [1]; it must be a mapping of keys"


def test_override_below_a_plain_value(tmp_path):
    path = write(tmp_path, "cache: 3")
    assert message_of(load_config, path, ["cache.block_size=16"]) == "cache is 3; it must be a mapping of keys"


def test_unknown_model_name_lists_the_known():
    message = message_of(config_from_dict, {"model": {"name": "llama9"}})
    assert message.startswith("model.name is 'llama9'; it must be 'llama2-7b', ")


def test_incomplete_shape_lists_what_lacks():
    shape = {key: value for key, value in TINY_SHAPE.items() if key not in ("head_dim", "vocab_size")}
    message = message_of(config_from_dict, {"model": {"config": shape, "weights": "random"}})
    assert message == (
        "model.weights is 'random'; it must be a file or folder, unless model.name or model.config "
        "(it lacks vocab_size, head_dim) gives the shape"
    )


def test_contradictory_shape():
    message = message_of(config_from_dict, {"model": {"name": "tiny", "config": {"num_key_value_heads": 3}}})
    assert message == "model: num_attention_heads 4 is not a multiple of num_key_value_heads 3"


def test_dimension_of_the_wrong_type():
    message = message_of(config_from_dict, {"model": {"name": "tiny", "config": {"hidden_size": "64"}}})
    assert message == "model.config.hidden_size is '64'; it must be a whole number"


def test_two_sizes_of_one_pool():
    message = message_of(config_from_dict, {"cache": {"num_blocks": 9, "memory_budget": 5}})
    assert message.startswith("cache.memory_budget is 5; it must be left out where cache.num_blocks is given")


def test_fewer_tokens_in_a_step_than_sequences():
    message = message_of(config_from_dict, {"scheduler": {"max_num_seqs": 300}})
    assert message.startswith(
        "scheduler.max_num_batched_tokens is 256; it must be at least scheduler.max_num_seqs (300)"
    )


def test_other_problems_are_counted():
    data = {"cache": {"block_size": 1}, "runtime": {"jit": 1, "debug": 3}, "sampling": {"n": 0}}
    assert (
        message_of(config_from_dict, data) == "cache.block_size is 1; it must be a multiple of 16, or auto (and 3 more)"
    )


# Files that are no configuration


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cache:\n  block_size: 16\n  block_size: 32\n", "line 3: not valid YAML: the key 'block_size' stands twice"),
        ("cache: {num_blocks: 2, num_blocks: 2}", "line 1: not valid YAML: the key 'num_blocks' stands twice"),
        ("model: {name: tiny}\ncache: [\n", "line 3: not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "line 1: not valid YAML"),
        ("a: !!timestamp 2024-99-99", "line 1: not valid YAML"),
        ("[" * 1500, ""),  # too deep for the parser, or simply never closed
        ("", "a configuration is a mapping of sections, not NoneType"),
        ("- 1", "a configuration is a mapping of sections, not list"),
    ],
)
def test_file_that_is_no_configuration(tmp_path, text, message):
    path = write(tmp_path, text)
    assert message_of(load_config, path).startswith(f"{path}: {message}")


def test_a_merged_key_may_be_overridden(tmp_path):
    path = write(tmp_path, "cache:\n  <<: {block_size: 16, num_blocks: 4}\n  block_size: 32\n")
    assert load_config(path).cache == CacheSection(block_size=32, num_blocks=4)


def test_missing_unreadable_and_binary_files(tmp_path):
    missing = tmp_path / "none.yaml"
    assert message_of(load_config, missing) == f"{missing}: cannot read the configuration: No such file or directory"
    assert "Is a directory" in message_of(load_config, tmp_path)
    binary = tmp_path / "model.gguf"
    binary.write_bytes(b"GGUF\x03\x00\xff\xfe")
    assert message_of(load_config, binary) == f"{binary}: not a YAML file: it is not UTF-8 text"
