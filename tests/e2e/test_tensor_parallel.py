"""Ranks that share a model, under the real msrun, against one process: tokens, pages, bookkeeping, refusals.

This file is also the script that msrun runs: each rank calls the function that the test names, and only the leader
gets past LLM(…) and writes an answer.
"""

import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mindspore_paged import LLM, SamplingParams
from mindspore_paged.config import EngineConfig, config_from_dict
from mindspore_paged.engine.building.exporting import export_model
from tests.e2e.msrun import Job, run_alone, run_job

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__)
GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "smollm2_135m.json").read_text(encoding="utf-8"))
LLAMA_70B_HEADS = {
    "vocab_size": 250,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 16,
    "max_position_embeddings": 128,
}
DEMO_TOKENS = 24


def llm_of(*sections, **more) -> LLM:
    return LLM(config_of(*sections, **more), show_progress=False)


def config_of(model=None, cache=None, scheduler=None, parallel=None, runtime=None) -> EngineConfig:
    sections = {
        "model": model or {"weights": "random", "config": LLAMA_70B_HEADS},
        "cache": {"num_blocks": 24} | (cache or {}),
        "scheduler": scheduler
        or {"max_num_seqs": 4, "max_num_batched_tokens": 16, "token_buckets": [4, 16], "max_model_len": 96},
        "runtime": {"debug": True} | (runtime or {}),
        "parallel": parallel or {},
    }
    return config_from_dict(sections)


# What the ranks run


def demo(weights: str) -> dict:
    """The golden prompts on the demo model, all at once."""
    scheduler = {"max_num_seqs": 8, "max_num_batched_tokens": 64, "token_buckets": [8, 64], "max_model_len": 512}
    with llm_of({"weights": weights}, {"num_blocks": 128}, scheduler) as llm:
        prompts = [case["prompt_token_ids"] for case in GOLDENS["cases"]]
        outputs = llm.generate(prompts, SamplingParams(max_tokens=DEMO_TOKENS, ignore_eos=True))
        return {
            "tokens": [output.outputs[0].token_ids for output in outputs],
            "texts": [output.outputs[0].text for output in outputs],
            "statistics": llm.get_statistics(),
        }


def llama_70b() -> dict:
    """A few prompts on a model with the heads of LLaMA-70B; and its pages of a prompt, exported."""
    with llm_of() as llm:
        return answers_of_llama_70b(llm)


def on_the_emulated_chip() -> dict:
    """The same on Ascend's kernels: layers of few launches, with two sums over ranks in each."""
    with llm_of(cache={"kv_cache_dtype": "float16"}, runtime={"ops_backend": "ascend_emulator"}) as llm:
        return answers_of_llama_70b(llm)


def answers_of_llama_70b(llm: LLM) -> dict:
    generator = random.Random(3)
    prompts = [[generator.randrange(250) for _ in range(length)] for length in (1, 7, 20, 40)]
    outputs = llm.generate(prompts, SamplingParams(max_tokens=6))
    llm.export_prefix(prompts[3], Path(sys.argv[1]).with_name("prefix.zip"))
    return {
        "tokens": [output.outputs[0].token_ids for output in outputs],
        "statistics": llm.get_statistics(),
    }


def export(folder: str) -> None:
    """The model of `llama_70b` as files, a folder of each rank's own."""
    export_model(config_of(), Path(folder), show_progress=False)


def exported(folder: str) -> dict:
    """What `llama_70b` gives, from those files."""
    with LLM.from_mindir(folder, show_progress=False) as llm:
        return answers_of_llama_70b(llm)


def imported(prefix: str) -> dict:
    """How much of a prompt is computed after its pages were taken from a file, and its answer."""
    with llm_of() as llm:
        num_tokens = llm.import_prefix(Path(prefix))
        generator = random.Random(3)
        *_, prompt = [[generator.randrange(250) for _ in range(length)] for length in (1, 7, 20, 40)]
        (output,) = llm.generate(prompt, SamplingParams(max_tokens=6))
        return {"tokens": output.outputs[0].token_ids, "imported": num_tokens, "statistics": llm.get_statistics()}


def crowd() -> dict:
    """200 requests that come while others run, in a pool that is too small for them; some are aborted, some fork."""
    generator = random.Random(11)
    shared = [generator.randrange(250) for _ in range(20)]
    cache = {"num_blocks": 12, "host_memory": "8MiB", "swap": "always"}
    scheduler = {"max_num_seqs": 6, "max_num_batched_tokens": 64, "token_buckets": [6, 64], "max_model_len": 64}
    with llm_of(cache=cache, scheduler=scheduler) as llm:
        engine, answers, num_steps = llm.engine, {}, 0
        requests = []
        for number in range(200):
            prompt = shared[: generator.choice((0, 0, 16, 20))]
            prompt = prompt + [generator.randrange(250) for _ in range(generator.randrange(1, 24))]
            params = SamplingParams(max_tokens=generator.randrange(1, 14), n=generator.choice((1, 1, 1, 3)))
            requests.append(engine.make_request(prompt, params, f"{number}"))
        waiting = requests[::-1]
        while waiting or engine.has_unfinished:
            for _ in range(generator.randrange(4)):
                if waiting:
                    engine.add_request(waiting.pop())
            if generator.random() < 0.1 and (aborted := engine.abort(str(generator.randrange(200)))) is not None:
                answers[aborted.request_id] = aborted
            answers.update((answer.request_id, answer) for answer in engine.step().finished)
            num_steps += 1
            if num_steps % 16 == 0:
                engine.check_integrity()
        engine.check_integrity()
        return {
            "answers": {name: [output.token_ids for output in answer.outputs] for name, answer in answers.items()},
            "reasons": {name: answer.outputs[0].finish_reason for name, answer in answers.items()},
            "statistics": llm.get_statistics(),
            "blocks_held": engine.scheduler.cache.pool.num_used,
        }


def embeddings() -> dict:
    """Of a few prompts, beside an answer that is under way."""
    generator = random.Random(3)
    prompts = [[generator.randrange(250) for _ in range(length)] for length in (1, 7, 20, 96)]
    found = {}
    with llm_of(runtime={"embeddings": True}) as llm:
        stream = llm.stream([5, 6, 7], SamplingParams(max_tokens=6))
        next(stream)
        for pooling in ("mean", "last"):
            found[pooling] = [output.embedding.tolist() for output in llm.embed(prompts, pooling)]
        return found | {"statistics": llm.get_statistics(), "num_updates": len(list(stream))}


def failing_step() -> dict:
    """A request whose step every rank's operator refuses, beside one that goes on; then another one."""
    with llm_of() as llm:
        engine = llm.engine
        for name in ("bad", "good"):
            engine.add_request(engine.make_request([5, 6, 7], SamplingParams(max_tokens=4), name))
        (bad, *_), run = engine.scheduler.waiting, engine.runner.run

        def run_with_a_block_outside_the_pool(inputs):
            of_bad = (inputs.table_indices[:, 0] == bad.row) & (bad.row in inputs.rows)
            return run(replace(inputs, table_values=np.where(of_bad, np.int32(10_000), inputs.table_values)))

        engine.runner.run = run_with_a_block_outside_the_pool
        answers = {}
        while engine.has_unfinished:
            answers.update((answer.request_id, answer) for answer in engine.step().finished)
        engine.check_integrity()
        return {name: [answer.error, answer.outputs[0].token_ids] for name, answer in answers.items()}


def refused(tensor_parallel_size: str) -> None:
    """A configuration that the ranks cannot have; whoever reads weights all the same fails in another way."""
    from mindspore_paged.engine.building import builder

    del builder.load_weights
    llm_of(parallel={"tensor_parallel_size": json.loads(tensor_parallel_size)})


def leader_raises() -> None:
    """An error in the user's own part of the script."""
    llm = llm_of()
    llm.generate([1, 2], SamplingParams(max_tokens=2))
    raise ValueError("the script is wrong")


def second_llm() -> None:
    """Another LLM after the first one was closed: nobody is left to share its model."""
    for _ in range(2):
        llm_of().close()


def unclosed() -> dict:
    """A script that never closes its LLM."""
    llm = llm_of()
    (output,) = llm.generate([1, 2], SamplingParams(max_tokens=2))
    return {"tokens": output.outputs[0].token_ids}


# What is asked of them


def job(folder, num_workers: int, name: str, *arguments: str, timeout: float = 300) -> Job:
    return run_job(SCRIPT, num_workers, folder, name, *arguments, timeout=timeout)


def answer_of(done: Job):
    assert done.exit_code == 0, done.output[-3000:]
    return done.answer


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The answer of one process to a function of this file, and the folder where it ran; computed once each."""
    known = {}

    def one_process(name: str):
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            known[name] = run_alone(SCRIPT, folder, name), folder
        return known[name]

    return one_process


@pytest.mark.parametrize("size", [1, 3])
def test_the_demo_model_writes_what_transformers_wrote(tmp_path, demo_model, size):
    answer = answer_of(job(tmp_path, size, "demo", str(demo_model)))
    assert answer["tokens"] == [case["token_ids"][:DEMO_TOKENS] for case in GOLDENS["cases"]]
    assert all(case["text"].startswith(text.rstrip("\ufffd")) for case, text in zip(GOLDENS["cases"], answer["texts"]))
    assert answer["statistics"]["compiles_after_warmup"] == 0
    assert answer["statistics"]["tensor_parallel_size"] == size


@pytest.mark.parametrize("size", [2, 4, 8])
def test_the_heads_of_llama_70b_on_any_number_of_ranks(tmp_path, one_process, size):
    expected, _ = one_process("llama_70b")
    done = job(tmp_path, size, "llama_70b")
    answer = answer_of(done)
    assert answer["tokens"] == expected["tokens"]
    assert answer["statistics"]["compiles_after_warmup"] == 0
    assert answer["statistics"]["kv_cache_gb"] == expected["statistics"]["kv_cache_gb"] / size
    for rank, log in enumerate(done.logs):
        assert f"rank {rank} of {size}: weights 0.00 GB, pages 0.00 GB, peak memory " in log


def test_layers_of_few_launches_on_two_ranks(tmp_path, one_process):
    expected, _ = one_process("on_the_emulated_chip")
    answer = answer_of(job(tmp_path, 2, "on_the_emulated_chip"))
    assert answer["tokens"] == expected["tokens"]


def test_a_prefix_goes_from_one_process_to_four_ranks_and_back(tmp_path, one_process):
    expected, folder = one_process("llama_70b")
    in_ranks = answer_of(job(tmp_path / "in", 4, "imported", str(folder / "prefix.zip")))
    assert in_ranks["imported"] == 32
    assert in_ranks["tokens"] == expected["tokens"][3]
    assert in_ranks["statistics"]["num_computed_tokens"] == 40 - 32 + 5
    answer_of(job(tmp_path / "out", 4, "llama_70b"))
    back = run_alone(SCRIPT, tmp_path / "back", "imported", str(tmp_path / "out" / "prefix.zip"))
    assert (back["imported"], back["tokens"]) == (32, expected["tokens"][3])


def test_each_rank_exports_and_loads_its_part(tmp_path, one_process):
    folder = tmp_path / "exported"
    assert job(tmp_path / "export", 2, "export", str(folder)).exit_code == 0
    sizes = [(folder / f"rank_{rank}" / "weights" / "00000.safetensors").stat().st_size for rank in (0, 1)]
    assert sizes[0] == sizes[1]
    answer = answer_of(job(tmp_path / "load", 2, "exported", str(folder)))
    assert answer["tokens"] == one_process("llama_70b")[0]["tokens"]
    assert answer["statistics"]["compiles_after_warmup"] == 0


def test_a_crowd_of_requests_loses_nothing_on_two_ranks(tmp_path, one_process):
    expected, _ = one_process("crowd")
    answer = answer_of(job(tmp_path, 2, "crowd"))
    statistics = answer["statistics"]
    assert len(answer["answers"]) == 200
    assert answer["blocks_held"] == 0
    assert statistics["num_requests_failed"] == statistics["compiles_after_warmup"] == 0
    for feature in ("num_preemptions", "num_pages_saved", "num_pages_loaded", "prefix_cache_hit_rate"):
        assert statistics[feature] > 0, feature
    assert set(answer["reasons"].values()) == {"length", "abort"}
    assert answer["answers"] == expected["answers"]
    assert answer["reasons"] == expected["reasons"]


def test_embeddings_of_two_ranks_are_those_of_one_process(tmp_path, one_process):
    expected, _ = one_process("embeddings")
    answer = answer_of(job(tmp_path, 2, "embeddings"))
    for pooling in ("mean", "last"):
        np.testing.assert_allclose(answer[pooling], expected[pooling], rtol=0, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(answer[pooling], axis=1), 1, rtol=1e-6)
    assert answer["statistics"]["compiles_after_warmup"] == 0


def test_a_step_that_all_ranks_refuse_ends_its_request_alone(tmp_path):
    answer = answer_of(job(tmp_path, 2, "failing_step"))
    message = "paged_attention: token 0: block 10000 at block_table[1, 0] is outside [0, 24)"  # before it is written to
    assert answer["bad"] == [message, []]
    error, tokens = answer["good"]
    assert error is None
    assert len(tokens) == 4


@pytest.mark.parametrize(
    ("workers", "size", "message"),
    [
        (2, 3, "parallel.tensor_parallel_size 3 makes 3 workers, but 2 workers run"),
        (3, "auto", "parallel.tensor_parallel_size is 3; it must divide the model's num_attention_heads, 64"),
    ],
)
def test_what_does_not_fit_is_refused_before_weights_are_read(tmp_path, workers, size, message):
    done = job(tmp_path, workers, "refused", json.dumps(size), timeout=120)
    assert done.exit_code != 0
    assert message in done.output
    assert not any("AttributeError" in log or "NameError" in log for log in done.logs)


def test_an_error_of_the_script_ends_every_rank(tmp_path):
    done = job(tmp_path, 2, "leader_raises", timeout=120)
    assert done.exit_code != 0
    assert "the script is wrong" in done.logs[0]


def test_a_second_llm_is_refused(tmp_path):
    done = job(tmp_path, 2, "second_llm", timeout=120)
    assert done.exit_code != 0
    assert "this process made an LLM of 2 ranks before; the other ranks ended with it" in done.output


def test_a_script_may_end_without_closing_its_llm(tmp_path, one_process):
    assert answer_of(job(tmp_path, 2, "unclosed")) == one_process("unclosed")[0]


if __name__ == "__main__":
    result = globals()[sys.argv[2]](*sys.argv[3:])
    Path(sys.argv[1]).write_text(json.dumps(result))
