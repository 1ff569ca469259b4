"""MindFormers predict files of a LLaMA: what they become, what they are warned about, and what is refused."""

import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from mindspore_paged.config import load_config
from mindspore_paged.config.quiet_mindformers import quiet_mindformers
from mindspore_paged.errors import ConfigError
from mindspore_paged.model_config import ModelConfig, RopeScaling
from mindspore_paged.models.registry import MODEL_CONFIGS
from mindspore_paged.sampling.sampling_params import SamplingParams
from tests.mindformers_files import refusal_of, warning_of, write
from tests.mindformers_samples import (
    LLAMA2_13B,
    LLAMA2_70B,
    LLAMA3_70B,
    LLAMA31_8B,
    SMALL,
)

ROOT = Path(__file__).parent.parent


# Shapes, against the table of published models


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LLAMA2_70B, MODEL_CONFIGS["llama2-70b"]),
        (LLAMA2_13B, MODEL_CONFIGS["llama2-13b"]),
        (LLAMA3_70B, MODEL_CONFIGS["llama3-70b"]),
    ],
)
def test_published_models(tmp_path, text, expected):
    assert load_config(write(tmp_path, text)).model.dimensions() == expected


def test_llama_3_1(tmp_path):
    config = load_config(write(tmp_path, LLAMA31_8B))
    assert config.model.dimensions() == ModelConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=131072,
        rope_theta=500000.0,
        rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 8192),
        bos_token_id=128000,
        eos_token_ids=(128001,),
    )
    assert config.scheduler.max_model_len == 512


def test_the_example_of_this_project():
    config = load_config(ROOT / "configs" / "mindformers_predict_llama2_7b.yaml")
    assert config.model.dimensions() == MODEL_CONFIGS["llama2-7b"]
    assert (config.runtime.device_target, config.model.dtype) == ("CPU", "float32")
    assert config.scheduler.resolved_max_model_len(4096, (config.cache.num_blocks - 1) * 16) == 4096


def test_defaults_are_those_of_mindformers(tmp_path):
    config = load_config(write(tmp_path, "    vocab_size: 32000"))
    model = config.model.dimensions()
    assert (model.hidden_size, model.num_hidden_layers, model.num_attention_heads) == (4096, 32, 32)
    assert (model.num_key_value_heads, model.intermediate_size, model.max_position_embeddings) == (32, 11008, 2048)
    assert (config.cache.block_size, config.cache.num_blocks, config.scheduler.max_num_seqs) == (16, 512, 1)
    assert config.sampling == SamplingParams(max_tokens=1024, temperature=1.0, top_k=5, top_p=1.0)


# Rotary embeddings, against the tables that MindFormers itself computes


def angles(model: ModelConfig, positions: np.ndarray) -> np.ndarray:
    """Our reading of `rope_theta` and `rope_scaling`, as their documentation says it."""
    pairs = np.arange(0, model.head_dim, 2)
    frequencies = model.rope_theta ** (-pairs / model.head_dim)
    scaling = model.rope_scaling
    if scaling.type == "linear":
        frequencies = frequencies / scaling.factor
    if scaling.type == "llama3":
        turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        kept = np.clip((turns - low) / (high - low), 0, 1)
        frequencies = frequencies * (kept + (1 - kept) / scaling.factor)
    return np.outer(positions, frequencies)


@pytest.mark.parametrize(
    ("method", "yaml_factor"),
    [
        ('"None"', "4.0"),
        ("null", "1.0"),
        ("NTK", "4.0"),
        ("NTK", "2"),
        ("PI", "2.0"),
        (
            "LLAMA3",
            "{factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: 64}",
        ),
    ],
)
def test_rotary_angles_equal_those_of_mindformers(tmp_path, method, yaml_factor):
    text = f"{SMALL}    theta: 1000.0\n    extend_method: {method}\n    scaling_factor: {yaml_factor}\n"
    model = load_config(write(tmp_path, text)).model.dimensions()
    with quiet_mindformers():
        import mindspore
        import yaml
        from mindformers.modules.layers import FreqsMgr

        theirs = FreqsMgr(
            head_dim=16,
            seq_length=256,
            max_position_embedding=256,
            rotary_dtype=mindspore.float32,
            theta=1000.0,
            scaling_factor=yaml.safe_load(yaml_factor),
            extend_method=yaml.safe_load(method) or "None",
        )
    ours = angles(model, np.arange(256))
    np.testing.assert_allclose(np.cos(ours), theirs.freqs_cos.asnumpy()[:, :8], atol=2e-5)
    np.testing.assert_allclose(np.sin(ours), theirs.freqs_sin.asnumpy()[:, :8], atol=2e-5)


def test_linear_scaling_is_read_though_mindformers_itself_fails_on_it(tmp_path):
    text = f"{SMALL}    extend_method: linear\n    scaling_factor: {{factor: 2.5}}\n"
    assert load_config(write(tmp_path, text)).model.dimensions().rope_scaling == RopeScaling("linear", 2.5)


# The other sections


def test_cache_scheduler_and_runtime(tmp_path):
    config = load_config(write(tmp_path, LLAMA2_13B))
    assert (config.cache.block_size, config.cache.num_blocks, config.cache.memory_budget) == (32, 512, None)
    assert (config.scheduler.max_num_seqs, config.scheduler.max_num_batched_tokens) == (4, 256)
    assert (config.scheduler.max_model_len, config.runtime.device_target) == (4096, "CPU")
    assert config.kv_cache_dtype == "float32"


def test_a_batch_larger_than_our_steps(tmp_path):
    scheduler = load_config(write(tmp_path, SMALL + "    batch_size: 300\n")).scheduler
    assert (scheduler.max_num_seqs, scheduler.max_num_batched_tokens) == (300, 300)


def test_seq_length_beyond_the_pool_is_cut_to_it_and_said(tmp_path, caplog):
    config = load_config(write(tmp_path, SMALL + "    seq_length: 4096\n    block_size: 16\n    num_blocks: 64\n"))
    assert config.scheduler.resolved_max_model_len(4096, 63 * 16) == 1008
    assert "model.model_config.seq_length is 4096: a sequence ends at the 1008 of the pool" in warning_of(caplog)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("do_sample: False, top_k: 3, max_decode_length: 512", SamplingParams(max_tokens=512)),
        (
            "do_sample: True, top_k: 3, top_p: 0.8, temperature: 0.7, repetition_penalty: 1.1, max_new_tokens: 9",
            SamplingParams(max_tokens=9, temperature=0.7, top_k=3, top_p=0.8, repetition_penalty=1.1),
        ),
    ],
)
def test_sampling(tmp_path, keys, expected):
    text = SMALL + "".join(f"    {key}\n" for key in keys.split(", "))
    assert load_config(write(tmp_path, text)).sampling == expected


@pytest.mark.parametrize(
    ("load_checkpoint", "name_or_path", "weights"),
    [
        ("ckpt/llama.ckpt", "llama2_7b", Path("ckpt/llama.ckpt")),
        ("ckpt", "", Path("ckpt")),
        ("", "./llama2_7b", Path("llama2_7b")),
        ("", "/ckpt/rank_0", Path("/ckpt/rank_0")),
        ("", "llama.safetensors", Path("llama.safetensors")),
        ("", "llama2_7b", None),
        ("", "", None),
    ],
)
def test_weights(tmp_path, caplog, load_checkpoint, name_or_path, weights):
    path = write(tmp_path, f"{SMALL}    checkpoint_name_or_path: '{name_or_path}'\n", load_checkpoint)
    # Unlike in our own files, relative to the working directory, as MindFormers does it.
    assert load_config(path).model.weights == weights
    says_why = "'llama2_7b' names a model that MindFormers would download" in warning_of(caplog)
    assert says_why == (weights is None and bool(name_or_path))


def test_tokenizer(tmp_path):
    assert load_config(write(tmp_path, vocab_file="/t/tokenizer.model")).model.tokenizer == Path("/t/tokenizer.model")
    assert load_config(write(tmp_path)).model.tokenizer is None


@pytest.mark.parametrize(
    ("overrides", "dtype", "warned"),
    [
        ([], "float32", True),
        (["runtime.device_target=Ascend"], "float16", False),
        (["runtime.ops_backend=ascend"], "float16", False),
        (["model.dtype=float16"], "float16", False),
    ],
)
def test_half_precision_becomes_float32_on_a_cpu_only(tmp_path, caplog, overrides, dtype, warned):
    assert load_config(write(tmp_path, LLAMA2_13B), overrides).model.dtype == dtype
    assert ("compute_dtype is float16, run as float32 on a CPU" in warning_of(caplog)) == warned
    assert "context.device_target is Ascend, run on CPU" in warning_of(caplog)


def test_overrides_are_our_keys_on_top(tmp_path):
    config = load_config(
        write(tmp_path, LLAMA2_13B),
        ["cache.memory_budget=64MiB", "scheduler.max_model_len=128", "model.config.num_hidden_layers=2"],
    )
    assert (config.cache.num_blocks, config.cache.pool_bytes) == (None, 64 * 2**20)
    assert config.scheduler.max_model_len == 128
    assert config.model.dimensions().num_hidden_layers == 2


@pytest.mark.parametrize(("context", "level"), [("jit_config: {jit_level: O1}", "O1"), ("jit_level: O2", "O0")])
def test_jit_level(tmp_path, caplog, context, level):
    path = write(tmp_path)
    path.write_text(path.read_text().replace("  mode: 0", f"  {context}\n  mode: 0"))
    assert load_config(path).runtime.jit_level == level
    assert ("context.jit_level is 'O2', run as O0" in warning_of(caplog)) == (level == "O0")


@pytest.mark.parametrize(("use_parallel", "size"), [(True, 8), (False, "auto")])
def test_parallel_sizes_count_with_use_parallel(tmp_path, use_parallel, size):
    config = load_config(write(tmp_path, model_parallel=8, use_parallel=use_parallel))
    assert config.parallel.tensor_parallel_size == size
    assert config.parallel.data_parallel_size == 1


# Warnings and refusals


def test_one_warning_names_what_has_no_effect(tmp_path, caplog):
    path = write(tmp_path, SMALL + "    n_kv_head: 2\n    max_decode_length: 8\n")
    path.write_text(path.read_text().replace("pipeline_stage: 1", "pipeline_stage: 2"))
    load_config(path)
    warning = warning_of(caplog)
    assert "parallel_config.pipeline_stage is 2, run as 1" in warning
    assert "max_decode_length becomes sampling.max_tokens, which does not count the prompt" in warning
    named = warning.split("no effect here: ")[1].split(", ")
    for key in ("seed", "trainer", "runner_config", "context.mode", "model.model_config.n_kv_head"):
        assert key in named
    for key in named:
        assert "num_heads" not in key
        assert not key.endswith(
            (
                ".type.model",
                "use_parallel",
                "model_parallel",
                ".use_past",
                ".vocab_file",
                "pipeline_stage",
                "run_mode",
                "expert_num",
            )
        )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("qkv_has_bias", "'yes'"),
        ("attn_proj_has_bias", "2"),
        ("quant_config", "{quant_method: rtn}"),
        ("quantization_config", "{quant_method: rtn, weight_dtype: int8}"),
        ("pet_config", "{pet_type: lora}"),
        ("moe_config", "{expert_num: 8}"),
        ("extend_method", "YARN"),
        ("extend_method", "DYNAMIC_NTK"),
        ("scaling_factor", "{factor: 2.0}\n    extend_method: PI"),
        ("scaling_factor", "8.0\n    extend_method: LLAMA3"),
        ("scaling_factor", "{factor: 2.0}\n    extend_method: LLAMA3"),
        ("encoder_repetition_penalty", "1.5"),
        ("hidden_size", "'abc'"),
        ("hidden_size", "65"),
        ("num_heads", "0"),
        ("do_sample", "'no'"),
        ("compute_dtype", "float64"),
        ("eos_token_id", "[two]"),
    ],
)
def test_what_would_change_the_text_is_refused_by_its_key(tmp_path, key, value):
    lines = [line for line in SMALL.splitlines() if f" {key}:" not in line]
    message = refusal_of(write(tmp_path, "\n".join([*lines, f"    {key}: {value}"])))
    assert message.startswith("model.model_config")
    assert key in message or "float64" in message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("expert_num: 1", "expert_num: 4", "moe_config.expert_num is 4: not supported"),
        ("run_mode: 'predict'", "run_mode: finetune", "run_mode is 'finetune'; a MindFormers file can be used where"),
        ("type: LlamaConfig", "type: GLM2Config", "model.model_config.type is 'GLM2Config'; "),
        ("type: LlamaConfig", "model_type: qwen3", "model.model_config.type is None; "),
        ("type: LlamaForCausalLM", "type: ChatGLM2", "model.arch.type is 'ChatGLM2'; "),
        ("seed: 0", "base_config: ['x.yaml']", "base_config is not supported"),
        ('device_target: "Ascend"', "device_target: TPU", "runtime.device_target is 'TPU'; it must be 'CPU' or"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, old, new, message):
    path = write(tmp_path)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    assert refusal_of(path).startswith(message)


@pytest.mark.parametrize(
    ("keys", "biases"),
    [
        ("    qkv_has_bias: True\n", ("q_proj", "k_proj", "v_proj")),
        ("    qkv_has_bias: True\n    attn_proj_has_bias: True\n", ("q_proj", "k_proj", "v_proj", "o_proj")),
        ("    attn_proj_has_bias: True\n", ("o_proj",)),
    ],
)
def test_biases(tmp_path, keys, biases):
    assert load_config(write(tmp_path, SMALL + keys)).model.dimensions().biases == biases


def test_harmless_values_of_refused_keys_pass(tmp_path):
    text = SMALL + "    qkv_has_bias: False\n    quant_config: null\n    moe_config: {expert_num: 1}\n"
    assert load_config(write(tmp_path, text)).model.dimensions().hidden_size == 64


# What importing MindFormers must not do to its host


def test_quiet_mindformers_restores_the_process_after_an_error(monkeypatch):
    def fail_inside():
        with quiet_mindformers():
            assert os.environ["LOG_MF_PATH"]
            raise RuntimeError("inside")

    monkeypatch.delenv("LOG_MF_PATH", raising=False)
    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert logging.root.manager.disable == logging.NOTSET
    assert "LOG_MF_PATH" not in os.environ


@pytest.mark.parametrize("value", [5, ["a"], {"a": 1}])
@pytest.mark.parametrize("key", ["vocab_file", "load_checkpoint"])
def test_a_path_that_is_none_is_refused(tmp_path, key, value):
    data = yaml.safe_load(write(tmp_path).read_text())
    (data if key == "load_checkpoint" else data["processor"]["tokenizer"])[key] = value
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=rf"{key} is .*; it must be a path$"):
        load_config(path)


def test_a_log_folder_of_the_users_choice_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("LOG_MF_PATH", str(tmp_path))
    with quiet_mindformers():
        assert os.environ["LOG_MF_PATH"] == str(tmp_path)
    assert os.environ["LOG_MF_PATH"] == str(tmp_path)


def test_a_first_use_prints_our_warning_only_and_leaves_the_process_and_the_folder_as_they_were(tmp_path):
    program = """
import logging, os, sys, warnings
from mindspore_paged.config import load_config
before = warnings.showwarning, logging.root.manager.disable, os.environ.get("LOG_MF_PATH")
load_config(sys.argv[1])
sys.exit(before != (warnings.showwarning, logging.root.manager.disable, os.environ.get("LOG_MF_PATH")))
"""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    command = [sys.executable, "-c", program, str(write(tmp_path))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.startswith("MindFormers configuration: ")
    assert done.stderr.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_our_own_files_do_not_import_mindformers():
    program = (
        "import sys; from mindspore_paged.config import load_config; load_config(sys.argv[1]);"
        "sys.exit('mindformers' in sys.modules or 'mindspore' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(ROOT / "configs" / "tiny.yaml")], check=True, timeout=120)
