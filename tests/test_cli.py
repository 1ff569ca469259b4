"""Whole runs of the command line: every kind of weights, every kind of prompt, against the float64 reference."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mindspore_paged.models.registry import num_parameters
from mindspore_paged.tokenizer import load_tokenizer
from tests import cli_runs
from tests.cli_runs import CONFIG, SMALL, TINY, WEIGHTS, run_to_json, write_lines
from tests.mindformers_samples import PREDICT_FILE
from tests.reference import llama as reference
from tests.weights import tiny

PROMPT = [11, 250, 34, 6, 190, 77, 5, 5, 120, 33, 9]
GREEDY = ["--max-tokens", "10", "--ignore-eos"]
STATISTICS = {
    *("memory_usage_gb", "block_utilization", "throughput", "num_preemptions", "prefix_cache_hit_rate"),
    *("compiled_graphs", "compiles_after_warmup", "time_to_first_token_s"),
}
MODEL_CONFIG = """
    batch_size: 2
    seq_length: 64
    hidden_size: 32
    intermediate_size: 64
    num_layers: 2
    num_heads: 8
    n_kv_heads: 2
    vocab_size: 259
    theta: 500000.0
    compute_dtype: "float16"
    block_size: 16
    num_blocks: 16
    do_sample: False
"""


@pytest.fixture(scope="module")
def expected():
    return reference.greedy(CONFIG, WEIGHTS, PROMPT, 10)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The model as a GGUF file with its tokenizer."""
    return cli_runs.write_gguf(tmp_path_factory.mktemp("model") / "model.gguf")


@pytest.fixture
def ids(tmp_path):
    return write_lines(tmp_path / "ids.jsonl", {"prompt_token_ids": PROMPT})


def token_ids(document, request=0):
    return [answer["token_ids"] for answer in document["outputs"][request]["outputs"]]


@pytest.mark.parametrize("kind", ["gguf", "gguf without tokenizer", "hf"])
def test_weights_that_describe_themselves_are_enough(tmp_path, model, ids, expected, kind):
    weights = {
        "gguf": lambda: model,
        "gguf without tokenizer": lambda: cli_runs.write_gguf_without_tokenizer(tmp_path / "bare.gguf"),
        "hf": lambda: cli_runs.write_hf_folder(tmp_path / "hf"),
    }[kind]()
    assert token_ids(run_to_json(tmp_path, "--weights", weights, "--prompts-file", ids, *GREEDY)) == [expected]


@pytest.mark.parametrize("fused", [False, True])
def test_a_mindformers_predict_file_with_mindformers_weights(tmp_path, ids, expected, fused):
    weights = tiny.write_ckpt(tmp_path / "model.ckpt", tiny.to_mindformers(WEIGHTS, qkv_concat=fused))
    text = PREDICT_FILE.format(
        load_checkpoint=weights, use_parallel=False, model_parallel=2, vocab_file="", model_config=MODEL_CONFIG
    )
    config = tmp_path / "predict.yaml"
    config.write_text(text)
    document = run_to_json(tmp_path, "--config", config, "--prompts-file", ids, *GREEDY)
    assert token_ids(document) == [expected]


def test_the_answers_have_the_documented_shape(tmp_path, model):
    document = run_to_json(tmp_path, "--weights", model, "--prompt", "Hello", "you", *GREEDY)
    assert set(document) == {"outputs", "statistics"}
    tokenizer = load_tokenizer(model)
    assert [output["prompt"] for output in document["outputs"]] == ["Hello", "you"]
    for output in document["outputs"]:
        assert set(output) == {
            "request_id",
            "prompt",
            "prompt_token_ids",
            "outputs",
            "num_cached_tokens",
            "prompt_logprobs",
        }
        assert output["prompt_token_ids"] == tokenizer.encode(output["prompt"])
        (answer,) = output["outputs"]
        assert set(answer) == {"index", "text", "token_ids", "finish_reason"}
        assert (answer["index"], answer["finish_reason"]) == (0, "length")
        assert answer["token_ids"] == reference.greedy(CONFIG, WEIGHTS, output["prompt_token_ids"], 10)
        assert answer["text"] == tokenizer.decode(answer["token_ids"])
    statistics = document["statistics"]
    assert statistics.keys() >= STATISTICS
    assert all(type(value) in (int, float) for value in statistics.values())
    assert statistics["num_output_tokens"] == 20
    assert statistics["compiled_graphs"] == 6
    assert statistics["compiles_after_warmup"] == 0
    assert 0 < statistics["block_utilization"] <= 1
    assert statistics["throughput"] > 0
    assert statistics["time_to_first_token_s"] > 0
    pages = 2 * 2 * 17 * 16 * 2 * 4 * 4  # keys and values of 2 layers, 17 blocks of 16 tokens, 2 heads of 4 floats
    weights = 4 * num_parameters(CONFIG)
    assert statistics["memory_usage_gb"] == pytest.approx((pages + weights) / 1e9)


def test_one_prompt_is_streamed_and_says_the_same(tmp_path, model, capsys):
    (output,) = run_to_json(tmp_path, "--weights", model, "--prompt", "Hello", *GREEDY)["outputs"]
    capsys.readouterr()
    assert cli_runs.run("--weights", model, "--prompt", "Hello", *GREEDY) == 0
    out, err = capsys.readouterr()
    assert out == "Hello" + output["outputs"][0]["text"] + "\n"
    assert "10 tokens" in err
    assert "6 graphs compiled, 0 after warm-up" in err


def test_without_a_tokenizer_the_token_ids_are_shown(ids, capsys):
    assert cli_runs.run(*TINY, "--prompts-file", ids, "--max-tokens", "3") == 0
    heading, tokens = capsys.readouterr().out.splitlines()
    assert heading == "--- request-0 [0], 3 tokens, length"
    assert len(json.loads(tokens)) == 3


def test_a_chat_goes_through_the_template_of_the_model(tmp_path, model):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    lines = write_lines(tmp_path / "p.jsonl", {"messages": messages})
    folder = cli_runs.write_hf_folder(tmp_path / "hf", tokenizer_from=model)
    document = run_to_json(tmp_path, "--weights", folder, "--chat", "--prompt", "Hi", "--prompts-file", lines, *GREEDY)
    encode = load_tokenizer(model).encode
    assert [output["prompt_token_ids"] for output in document["outputs"]] == [encode("<s>Hi|"), encode("<s>Hi|Ho|")]
    for request, output in enumerate(document["outputs"]):
        assert token_ids(document, request) == [reference.greedy(CONFIG, WEIGHTS, output["prompt_token_ids"], 10)]


def test_a_line_overrules_a_flag_and_a_flag_the_file(tmp_path, model):
    config = tmp_path / "own.yaml"
    config.write_text(f"model: {{weights: {model}}}\nsampling: {{max_tokens: 2, ignore_eos: true, logprobs: 1}}\n")
    lines = write_lines(
        tmp_path / "p.jsonl", {"prompt_token_ids": PROMPT}, {"prompt_token_ids": PROMPT, "max_tokens": 4, "n": 2}
    )

    def lengths(*flags):
        document = run_to_json(tmp_path, "--config", config, "--prompts-file", lines, *flags)
        assert all("logprobs" in answer for output in document["outputs"] for answer in output["outputs"])
        return [[len(tokens) for tokens in token_ids(document, request)] for request in range(2)]

    assert lengths() == [[2], [4, 4]]
    assert lengths("--max-tokens", "3") == [[3], [4, 4]]


def test_set_overrules_the_sampling_of_the_file(tmp_path, ids):
    document = run_to_json(tmp_path, *TINY, "--prompts-file", ids, "--set", "sampling.max_tokens=5")
    assert [len(tokens) for tokens in token_ids(document)] == [5]


def test_siblings_are_told_apart_and_a_seed_repeats_them(tmp_path):
    line = {"prompt_token_ids": PROMPT, "n": 3, "temperature": 1.0, "seed": 4, "max_tokens": 8, "logprobs": 2}
    lines = write_lines(tmp_path / "p.jsonl", line)
    first, again = (run_to_json(tmp_path, *TINY, "--prompts-file", lines) for _ in range(2))
    assert first["outputs"] == again["outputs"]
    answers = first["outputs"][0]["outputs"]
    assert [answer["index"] for answer in answers] == [0, 1, 2]
    assert len({tuple(answer["token_ids"]) for answer in answers}) == 3
    for answer in answers:
        assert [entry["token_id"] for entry in answer["logprobs"]] == answer["token_ids"]
        assert all(len(entry["top_logprobs"]) == 2 for entry in answer["logprobs"])


def test_a_beam_width_tells_every_beam_best_first(tmp_path, ids):
    document = run_to_json(tmp_path, *TINY, "--prompts-file", ids, "--max-tokens", "6", "--beam-width", "2")
    (output,) = document["outputs"]
    best, other = output["outputs"]
    assert best["cumulative_logprob"] >= other["cumulative_logprob"]
    assert best["token_ids"] != other["token_ids"]
    assert "logprobs" not in best


def test_end_of_sequence_and_stop_strings_end_an_answer(tmp_path, model):
    (output,) = run_to_json(tmp_path, "--weights", model, "--prompt", "Hello", *GREEDY)["outputs"]
    text, tokens = output["outputs"][0]["text"], output["outputs"][0]["token_ids"]
    lines = write_lines(
        tmp_path / "p.jsonl",
        {"prompt": "Hello", "stop": text[4:6]},
        {"prompt": "Hello", "stop_token_ids": [tokens[3]]},
    )
    document = run_to_json(tmp_path, "--weights", model, "--prompts-file", lines, *GREEDY)
    by_text, by_token = (output["outputs"][0] for output in document["outputs"])
    assert (by_text["text"], by_text["finish_reason"]) == (text[: text.index(text[4:6])], "stop")
    assert by_token["token_ids"] == tokens[: tokens.index(tokens[3]) + 1]
    assert by_token["finish_reason"] == "stop"


def test_a_request_that_fails_while_it_runs_is_reported_and_the_others_answered(tmp_path, capsys, ids, monkeypatch):
    from mindspore_paged.engine.execution.model_runner import ModelRunner

    run = ModelRunner.run

    def run_with_nan(runner, inputs):
        logits = run(runner, inputs)
        logits[[inputs.input_ids[index] == 13 for index in inputs.logit_indices]] = float("nan")
        return logits

    monkeypatch.setattr(ModelRunner, "run", run_with_nan)
    lines = write_lines(tmp_path / "p.jsonl", {"prompt_token_ids": [13]}, {"prompt_token_ids": [14]})
    answers = tmp_path / "answers.json"
    assert cli_runs.run(*TINY, "--prompts-file", lines, "--max-tokens", "1", "--json", answers) == 1
    assert "error: request-0: the largest logit is nan; it must be finite" in capsys.readouterr().err.splitlines()
    bad, good = json.loads(answers.read_text())["outputs"]
    assert "nan" in bad["error"]
    assert bad["outputs"][0]["finish_reason"] == "error"
    assert "error" not in good
    assert good["outputs"][0]["finish_reason"] == "length"


def test_an_interrupt_ends_quietly_and_leaves_the_old_answers(tmp_path, capsys, ids, monkeypatch):
    from mindspore_paged.engine.execution.model_runner import ModelRunner

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ModelRunner, "run", interrupt)
    answers = tmp_path / "answers.json"
    answers.write_text("old")
    assert cli_runs.run(*TINY, "--prompts-file", ids, "--json", answers) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert answers.read_text() == "old"


def test_an_interrupted_run_gives_what_is_finished(tmp_path, capsys, monkeypatch):
    from mindspore_paged.engine.execution.model_runner import ModelRunner
    from mindspore_paged.launch import interruption

    run, steps, words = ModelRunner.run, [], []

    def run_and_interrupt(runner, inputs):
        steps.append(inputs)
        if len(steps) == 8:
            words.append(interruption._last_words())  # what `interrupt` calls, beside this step
            raise KeyboardInterrupt
        return run(runner, inputs)

    monkeypatch.setattr(ModelRunner, "run", run_and_interrupt)
    line = {"prompt_token_ids": PROMPT, "ignore_eos": True}
    lines = write_lines(tmp_path / "p.jsonl", line | {"max_tokens": 2}, line | {"max_tokens": 40}, line)
    path = tmp_path / "answers.json"
    assert cli_runs.run(*TINY, "--prompts-file", lines, "--json", path) == 130
    assert words == [f"1 of 3 requests were answered, see {path}"]
    out = capsys.readouterr().out
    assert "request-0 [0], 2 tokens, length" in out
    assert "request-1" not in out
    document = json.loads(path.read_text())
    answers = [answer for output in document["outputs"] for answer in output["outputs"]]
    assert [answer["finish_reason"] for answer in answers] == ["length", "abort", "abort"]
    assert len(answers[0]["token_ids"]) == 2
    assert 0 < len(answers[1]["token_ids"]) < 8
    assert interruption._last_words is None


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [1, 3, 6, 10, 20])  # MindSpore's import, graphs, answers
def test_a_signal_at_any_moment_ends_the_script_in_one_line_within_5_seconds(tmp_path, number, seconds):
    # More than any machine answers before the last of the signals.
    lines = [{"prompt_token_ids": [5, 9, i % 50], "max_tokens": 200, "ignore_eos": True} for i in range(8000)]
    write_lines(tmp_path / "p.jsonl", *lines)
    script = Path(__file__).parents[1] / "scripts" / "run_generate.py"
    command = [sys.executable, str(script), *TINY, "--prompts-file", "p.jsonl", "--json", "out.json"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        time.sleep(seconds)
        begin = time.monotonic()
        process.send_signal(number)
        err = process.communicate()[1]
        assert time.monotonic() - begin < 5
    assert process.returncode == 128 + number
    assert err.startswith(f"interrupted by {number.name}")
    assert err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"p.jsonl", "out.json"}


def test_the_script_runs_from_any_folder(tmp_path, ids, expected):
    script = Path(__file__).parents[1] / "scripts" / "run_generate.py"
    cli_runs.write_gguf(tmp_path / "model.gguf")
    arguments = ["--weights", "model.gguf", "--prompts-file", ids.name, *GREEDY, "--json", "out.json", "--set", *SMALL]
    done = subprocess.run(
        [sys.executable, str(script), *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert token_ids(json.loads((tmp_path / "out.json").read_text())) == [expected]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["ids.jsonl", "model.gguf", "out.json"]
