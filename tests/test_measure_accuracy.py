"""scripts/measure_accuracy.py measures what it says, against LLaMA in NumPy."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from mindspore_paged import LLM
from mindspore_paged.config import load_config
from mindspore_paged.errors import ConfigError, StepError
from mindspore_paged.weights.random_checkpoint import RandomCheckpoint
from tests.reference import llama as reference

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "measure_accuracy.py"
TINY = ROOT / "configs" / "tiny.yaml"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("measure_accuracy", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def tokenizer(tmp_path):
    """A folder with a tokenizer of bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_every_token_but_the_first_of_a_window_counts(script, monkeypatch):
    """More than a chunk in a window, which is as long as any sequence; the last has one token, and nothing to tell."""
    sizes = ["scheduler.max_num_seqs=64", "scheduler.token_buckets=[64]", "scheduler.max_model_len=100"]
    config = load_config(TINY, sizes)
    model_config = config.model.dimensions()
    checkpoint = RandomCheckpoint(model_config, config.model.seed)
    weights = {name: np.asarray(checkpoint.read(name), np.float64) for name in checkpoint.names()}
    tokens = np.random.default_rng(0).integers(0, 256, 201).tolist()
    steps = []
    with LLM(config, show_progress=False) as llm:
        run = llm.engine.runner.run
        monkeypatch.setattr(llm.engine.runner, "run", lambda inputs: steps.append(inputs) or run(inputs))
        reading = script.read(llm, tokens, 100)
    expected, likeliest = [], []
    for window in (tokens[:100], tokens[100:200]):
        logits = reference.logits(model_config, weights, window)[:-1]
        totals = np.log(np.exp(logits).sum(axis=1))
        expected += list(logits[np.arange(99), window[1:]] - totals)
        likeliest += list(logits.argmax(axis=1))
    np.testing.assert_allclose(reading.log_probabilities, expected, atol=1e-4)
    np.testing.assert_array_equal(reading.likeliest, likeliest)
    assert reading.perplexity == pytest.approx(np.exp(-np.mean(expected)), rel=1e-4)
    with pytest.raises(ConfigError, match="fewer than 2 tokens: "):
        script.read(llm, [1], 100)
    assert max(len(step.input_ids) for step in steps) == 64


def test_logits_that_are_not_finite_are_told_with_the_variant(script, monkeypatch):
    with LLM(load_config(TINY), show_progress=False) as llm:
        run = llm.engine.runner.run
        monkeypatch.setattr(llm.engine.runner, "run", lambda inputs: run(inputs) * np.float32("nan"))
        with pytest.raises(StepError, match="model.dtype=float16: the largest logit is nan; it must be finite"):
            script.read(llm, [1, 2, 3], 100, "model.dtype=float16")


@pytest.mark.slow
def test_variants_are_compared_with_what_is_configured(tmp_path, tokenizer):
    table = tmp_path / "table.json"
    done = run(
        *("--config", TINY, "--set", f"model.tokenizer={tokenizer}", "cache.block_size=32", "--window", 250),
        *("--variant", "cache.kv_cache_dtype=float32", "--variant", "cache.kv_cache_dtype=int8", "--json", table),
    )
    assert done.returncode == 0, done.stderr
    plain, same, int8 = json.loads(table.read_text())
    assert [row["variant"] for row in (plain, same, int8)] == [
        "as configured",
        "cache.kv_cache_dtype=float32",
        "cache.kv_cache_dtype=int8",
    ]
    assert (plain["kv_bytes_per_token"], int8["kv_bytes_per_token"]) == (2 * 2 * 2 * 16 * 4, 2 * 2 * 2 * (16 + 4))
    assert (same["perplexity"], same["largest_difference"], same["same_top"]) == (plain["perplexity"], 0, 1)
    assert 0 < int8["mean_difference"] < int8["largest_difference"] < 0.5
    assert int8["perplexity"] == pytest.approx(plain["perplexity"], rel=0.01)
    assert int8["same_top"] > 0.9
    lines = done.stdout.splitlines()
    assert len(lines) == 2 + 3
    assert lines[-1].startswith("| cache.kv_cache_dtype=int8 | ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--window", 1], "--window is 1; it must be at least 2"),
        (["--variant", "cache.kv_cache_dtype=int3"], "cache.kv_cache_dtype is 'int3'"),
        (
            ["--variant", "cache.block_size=16", "--json", "/none/out.json"],
            "--json /none/out.json: its folder is not there",
        ),
        (["--text", "/none/text.txt"], "No such file"),
        (["--window", 100], "the weights bring no tokenizer; set model.tokenizer"),
    ],
)
def test_refused_in_one_line(arguments, message):
    done = run("--config", TINY, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
