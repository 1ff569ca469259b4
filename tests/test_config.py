"""The configuration of our own: what is read, what it becomes, and what one line a mistake gets."""

import dataclasses
from pathlib import Path

import pytest
from pydantic import ValidationError

from mindspore_paged.config import CacheSection, EngineConfig, SchedulerSection, config_from_dict, load_config
from mindspore_paged.errors import ConfigError
from mindspore_paged.model_config import ModelConfig, RopeScaling
from mindspore_paged.models.registry import MODEL_CONFIGS
from mindspore_paged.sampling.sampling_params import SamplingParams

ROOT = Path(__file__).parent.parent

TINY_SHAPE = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}


def write(folder: Path, text: str) -> Path:
    path = folder / "engine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def message_of(call, *args, **kwargs) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


# What a good file becomes


def test_defaults_without_a_file():
    config = load_config(None)
    assert config == EngineConfig()
    assert (config.cache.block_size, config.cache.num_blocks, config.cache.pool_bytes) == (16, None, 268_435_456)
    assert (config.scheduler.max_num_seqs, config.scheduler.max_num_batched_tokens) == (8, 256)
    assert config.sampling == SamplingParams()


def test_every_section_is_read(tmp_path):
    path = write(
        tmp_path,
        """
model: {name: llama2-7b, config: {num_hidden_layers: 3, rms_norm_eps: 1e-6}, weights: random, dtype: bfloat16, seed: 7}
cache: {block_size: 32, memory_budget: 1.5MiB, kv_cache_dtype: float16, enable_prefix_caching: false}
scheduler:
  max_num_seqs: 4
  max_num_batched_tokens: 64
  max_model_len: 48
  enable_chunked_prefill: false
  token_buckets: [1, 4, 64]
runtime: {device_target: Ascend, ops_backend: cpu, jit_level: O1, debug: true}
sampling: {temperature: 1, top_p: 0.9, stop: ["\\n"], stop_token_ids: [5], max_tokens: null}
""",
    )
    config = load_config(path)
    assert config.model.weights == "random"
    assert (config.model.dtype, config.model.seed, config.kv_cache_dtype) == ("bfloat16", 7, "float16")
    expected = dataclasses.replace(MODEL_CONFIGS["llama2-7b"], num_hidden_layers=3, rms_norm_eps=0.000001)
    assert config.model.dimensions() == expected
    assert (config.cache.block_size, config.cache.pool_bytes) == (32, 1_572_864)
    assert not config.cache.enable_prefix_caching
    assert config.scheduler.resolved_token_buckets() == (1, 4, 64)
    assert (config.runtime.device_target, config.runtime.jit_level, config.runtime.debug) == ("Ascend", "O1", True)
    assert config.sampling == SamplingParams(
        max_tokens=None, temperature=1, top_p=0.9, stop=("\n",), stop_token_ids=(5,)
    )


def test_a_section_left_empty_has_its_defaults(tmp_path):
    config = load_config(write(tmp_path, "cache:\n  # block_size: 32\nruntime: {debug: true}\n"))
    assert config.cache == CacheSection()
    assert config.runtime.debug


def test_kv_cache_dtype_follows_the_model():
    assert config_from_dict({"model": {"dtype": "float16"}}).kv_cache_dtype == "float16"


def test_shape_of_its_own_with_rope_scaling():
    scaling = {"type": "llama3", "factor": 8, "original_max_position_embeddings": 128}
    config = config_from_dict({"model": {"config": TINY_SHAPE | {"rope_scaling": scaling, "eos_token_ids": [2, 3]}}})
    assert config.model.dimensions() == ModelConfig(
        **TINY_SHAPE,
        rope_scaling=RopeScaling(type="llama3", factor=8, original_max_position_embeddings=128),
        eos_token_ids=(2, 3),
    )


def test_without_name_and_config_the_weights_know_the_shape():
    assert config_from_dict({"model": {"weights": "model.gguf"}}).model.dimensions() is None


def test_which_fields_config_gives_itself():
    model = config_from_dict({"model": {"name": "tiny", "config": {"rms_norm_eps": 1e-6}}}).model
    assert [key for key in ("rms_norm_eps", "hidden_size") if model.overrides(key)] == ["rms_norm_eps"]
    assert not EngineConfig().model.overrides("rms_norm_eps")


def test_num_blocks_sizes_the_pool():
    assert CacheSection(num_blocks=9).pool_bytes is None


def test_a_section_can_be_changed_in_python():
    config = dataclasses.replace(EngineConfig(), cache=CacheSection(num_blocks=9))
    assert config.cache.num_blocks == 9
    with pytest.raises(ValidationError, match="num_blocks"):
        dataclasses.replace(config.cache, num_blocks="9")


@pytest.mark.parametrize(
    ("sequences", "tokens", "buckets"),
    [
        (8, 256, (1, 2, 4, 8, 32, 128, 256)),
        (1, 1, (1,)),
        (1, 256, (1, 4, 16, 64, 256)),
        (6, 96, (1, 2, 4, 6, 24, 96)),
        (8, 8, (1, 2, 4, 8)),
        (5, 7, (1, 2, 4, 5, 7)),
    ],
)
def test_chosen_token_buckets(sequences, tokens, buckets):
    section = SchedulerSection(max_num_seqs=sequences, max_num_batched_tokens=tokens)
    assert section.resolved_token_buckets() == buckets


@pytest.mark.parametrize(
    ("sequences", "tokens", "drafts", "buckets"),
    [
        (8, 256, 4, (1, 2, 4, 8, 16, 32, 40, 160, 256)),
        (1, 256, 4, (1, 2, 4, 5, 20, 80, 256)),
        (8, 16, 4, (1, 2, 4, 8, 16)),
        (2, 2, 9, (1, 2)),
    ],
)
def test_chosen_token_buckets_hold_a_batch_with_its_drafts(sequences, tokens, drafts, buckets):
    section = SchedulerSection(max_num_seqs=sequences, max_num_batched_tokens=tokens, num_speculative_tokens=drafts)
    assert section.resolved_token_buckets() == buckets


# Paths


def test_paths_of_a_file_start_at_its_folder_and_those_of_an_override_do_not(tmp_path, monkeypatch):
    path = write(tmp_path, "model: {weights: weights/a.gguf, tokenizer: tok}")
    monkeypatch.chdir("/")
    model = load_config(path).model
    assert (model.weights, model.tokenizer) == (tmp_path / "weights/a.gguf", tmp_path / "tok")
    assert load_config(path, ["model.weights=b.gguf"]).model.weights == Path("b.gguf")


def test_absolute_and_home_paths_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/reader")
    model = load_config(write(tmp_path, "model: {weights: ~/a.gguf, tokenizer: /t}")).model
    assert (model.weights, model.tokenizer) == (Path("/home/reader/a.gguf"), Path("/t"))


@pytest.mark.parametrize("word", ["demo", "random"])
def test_words_that_are_no_paths(tmp_path, word):
    path = write(tmp_path, f"model: {{name: tiny, weights: {word}}}")
    assert load_config(path).model.weights == word
    assert load_config(path, [f"model.weights=./{word}"]).model.weights == Path(word)


# Overrides


def test_overrides_win_and_the_last_wins(tmp_path):
    path = write(tmp_path, "cache: {block_size: 32}\nmodel: {name: tiny}")
    config = load_config(
        path,
        ["cache.block_size=48", "cache.block_size=64", "model.config.rms_norm_eps=1e-6", "sampling.stop=[a, b]"],
    )
    assert config.cache.block_size == 64
    assert config.model.dimensions() == dataclasses.replace(MODEL_CONFIGS["tiny"], rms_norm_eps=0.000001)
    assert config.sampling.stop == ("a", "b")


@pytest.mark.parametrize(
    ("in_file", "override", "num_blocks", "memory_budget"),
    [
        ("memory_budget: 1MiB", "cache.num_blocks=8", 8, None),
        ("num_blocks: 8", "cache.memory_budget=1MiB", None, 2**20),
    ],
)
def test_an_override_sizes_the_pool_the_other_way(tmp_path, in_file, override, num_blocks, memory_budget):
    cache = load_config(write(tmp_path, f"cache: {{{in_file}}}"), [override]).cache
    assert (cache.num_blocks, cache.memory_budget) == (num_blocks, memory_budget)


def test_what_chats_say_to_their_template_is_merged_by_name(tmp_path):
    path = write(tmp_path, "model: {chat_template_kwargs: {enable_thinking: false, date_string: today}}")
    changed = load_config(path, ["model.chat_template_kwargs.enable_thinking=true"])
    assert changed.model.chat_template_kwargs == {"enable_thinking": True, "date_string": "today"}
    refused = message_of(load_config, path, ["model.chat_template_kwargs=5"])
    assert refused == "model.chat_template_kwargs is 5; it must be a mapping of keys"


@pytest.mark.parametrize("override", ["cache.block_size", "block_size=3", "a..b=1", ".a=1", "cache={block_size: 32}"])
def test_malformed_override(override):
    assert message_of(load_config, None, [override]) == f"override {override!r} must look like section.key=value"


def test_override_that_is_not_yaml():
    assert message_of(load_config, None, ["cache.num_blocks=[1"]).startswith("override 'cache.num_blocks=[1':")


# max_model_len, once model and pool are known


@pytest.mark.parametrize(
    ("given", "model_limit", "pool_tokens", "longest"),
    [(None, 2048, 4096, 2048), (None, 4096, 1008, 1008), (1008, 2048, 1008, 1008), (2048, 2048, 4096, 2048)],
)
def test_resolved_max_model_len(given, model_limit, pool_tokens, longest):
    assert SchedulerSection(max_model_len=given).resolved_max_model_len(model_limit, pool_tokens) == longest


@pytest.mark.parametrize(
    ("section", "model_limit", "pool_tokens", "part"),
    [
        ({"max_model_len": 2049}, 2048, 4096, "the model has 2048 positions"),
        ({"max_model_len": 1009}, 2048, 1008, "the pool holds 1008 tokens"),
        ({"enable_chunked_prefill": False}, 2048, 1008, "max_model_len (1008) exceeds"),
    ],
)
def test_max_model_len_that_cannot_be(section, model_limit, pool_tokens, part):
    assert part in message_of(SchedulerSection(**section).resolved_max_model_len, model_limit, pool_tokens)


def test_whole_prompts_need_a_step_of_their_length():
    fits = {"enable_chunked_prefill": False, "max_model_len": 256}
    assert config_from_dict({"scheduler": fits}).scheduler.resolved_max_model_len(512, 512) == 256
    message = message_of(config_from_dict, {"scheduler": fits | {"max_model_len": 257}})
    assert message == (
        "scheduler.enable_chunked_prefill is False; it must be true where max_model_len (257) exceeds "
        "scheduler.max_num_batched_tokens (256)"
    )


# The files that come with the project


LONGEST = {"tiny": 256, "smollm2-135m": 2048, "llama2-7b": 4096, "llama2-13b": 4096, "llama2-70b": 4096}


def file_of(name: str) -> str:
    return name.replace(".", "_").replace("-", "_")


@pytest.mark.parametrize("name", MODEL_CONFIGS)
def test_our_files_load_and_their_pools_hold_a_sequence(name):
    config = load_config(ROOT / "configs" / f"{file_of(name)}.yaml")
    model = MODEL_CONFIGS[name]
    assert config.model.dimensions() == (None if config.model.weights == "demo" else model)
    itemsize = {"float32": 4, "float16": 2}[config.kv_cache_dtype]
    block_size, num_blocks = config.cache.block_size, config.cache.num_blocks
    if num_blocks is None:
        num_blocks = config.cache.pool_bytes // (block_size * model.kv_bytes_per_token(itemsize))
    pool_tokens = (num_blocks - 1) * block_size
    longest = LONGEST.get(name, 8192)
    assert config.scheduler.resolved_max_model_len(model.max_position_embeddings, pool_tokens) == longest


def test_no_file_is_left_untested():
    own = {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    mindformers = {"mindformers_predict_llama2_7b", "mindformers_predict_qwen2_5_7b"}
    assert own == {file_of(name) for name in MODEL_CONFIGS} | mindformers


def test_the_demo_file_shows_every_key_and_states_the_true_defaults():
    shown = load_config(ROOT / "configs" / "smollm2_135m.yaml")
    changed = {"weights": "demo", "memory_budget": 512 * 2**20, "max_model_len": 2048, "token_buckets": (1, 8, 64, 256)}
    defaults = EngineConfig()
    text = (ROOT / "configs" / "smollm2_135m.yaml").read_text(encoding="utf-8")
    for section in dataclasses.fields(EngineConfig):
        for key in dataclasses.fields(getattr(defaults, section.name)):
            expected = changed.get(key.name, getattr(getattr(defaults, section.name), key.name))
            assert getattr(getattr(shown, section.name), key.name) == expected, key.name
            assert key.name == "num_blocks" or f"\n  {key.name}: " in text, key.name


@pytest.mark.parametrize(
    ("runtime", "device"),
    [
        ({}, "CPU"),
        ({"ops_backend": "ascend_emulator"}, "CPU"),
        ({"ops_backend": "ascend"}, "Ascend"),
        ({"device_target": None, "ops_backend": "ascend"}, "Ascend"),
        ({"device_target": "CPU", "ops_backend": "ascend"}, "CPU"),  # refused where it meets the device
    ],
)
def test_the_device_follows_from_the_operators(runtime, device):
    assert config_from_dict({"runtime": runtime}).runtime.device_target == device
