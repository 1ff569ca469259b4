"""Two engines side by side under the real msrun, each alone or shared by two ranks, against one process.

This file is also the script that msrun runs; only rank 0 gets past LLM(…) and writes an answer.
"""

import json
import sys
from pathlib import Path

import pytest

from mindspore_paged import LLM, SamplingParams
from mindspore_paged.config import config_from_dict
from tests.e2e.draft_models import write_draft
from tests.e2e.msrun import run_alone, run_job

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__)
PROMPTS = [[(7 * prompt + place) % 250 + 1 for place in range(5 + 9 * prompt)] for prompt in range(6)]


def answers(parallel: str, draft: str | None = None) -> dict:
    """Greedy answers, seeded draws and a stream; pinned and exported pages; figures. draft: a draft model's folder."""
    speculation = {} if draft is None else {"speculative_model": draft, "num_speculative_tokens": 3}
    config = config_from_dict(
        {
            "model": {"weights": "random", "name": "tiny"},
            "cache": {"num_blocks": 64},
            "scheduler": {"max_num_batched_tokens": 16, "max_num_seqs": 4, "max_model_len": 128} | speculation,
            "runtime": {"debug": True},
            "parallel": json.loads(parallel),
        }
    )
    with LLM(config, show_progress=False) as llm:
        greedy, drawn = SamplingParams(max_tokens=16), SamplingParams(max_tokens=16, temperature=0.8, seed=7, n=2)
        outputs = llm.generate(PROMPTS, greedy) + llm.generate(PROMPTS, drawn)
        stream = llm.stream(PROMPTS[0], greedy)
        streamed = [token for update in stream for token in update.token_ids]
        aborted = llm.stream(PROMPTS[1], greedy)
        next(aborted)
        aborted.close()
        statistics = llm.get_statistics()
        pinned = llm.pin_prefix(PROMPTS[5])
        llm.engine.check_integrity()
    return {
        "tokens": [[completion.token_ids for completion in output.outputs] for output in outputs],
        "streamed": streamed,
        "pinned": pinned,
        "statistics": statistics,
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run_alone(SCRIPT, tmp_path_factory.mktemp("alone"), "{}")


@pytest.mark.parametrize("tensor_parallel_size", [1, 2])
def test_two_engines_answer_as_one_process_does(alone, tmp_path, tensor_parallel_size):
    parallel = {"data_parallel_size": 2, "tensor_parallel_size": tensor_parallel_size}
    job = run_job(SCRIPT, 2 * tensor_parallel_size, tmp_path, json.dumps(parallel))
    assert job.exit_code == 0, job.output
    found, statistics = job.answer, job.answer["statistics"]
    assert found["tokens"] == alone["tokens"]
    assert found["streamed"] == alone["streamed"] == alone["tokens"][0][0]
    assert found["pinned"] == alone["pinned"] == 48
    assert statistics["data_parallel_size"] == 2
    assert statistics["tensor_parallel_size"] == tensor_parallel_size
    assert statistics["num_requests_replica_0"] >= 3
    assert statistics["num_requests_replica_1"] >= 3
    assert statistics["num_requests_finished"] == 14
    assert statistics["num_requests_failed"] == statistics["compiles_after_warmup"] == 0


def test_each_engine_has_a_draft_model_of_its_own(alone, tmp_path):
    draft = write_draft(tmp_path / "draft", noise=0.05)
    job = run_job(SCRIPT, 2, tmp_path, json.dumps({"data_parallel_size": 2, "tensor_parallel_size": 1}), str(draft))
    assert job.exit_code == 0, job.output
    found, statistics = job.answer, job.answer["statistics"]
    assert found["tokens"] == alone["tokens"]
    assert statistics["num_accepted_tokens"] > 0
    by_position = [statistics[f"num_accepted_tokens_pos_{place}"] for place in range(3)]
    assert sum(by_position) == statistics["num_accepted_tokens"]
    assert statistics["num_requests_failed"] == statistics["compiles_after_warmup"] == 0


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(answers(*sys.argv[2:])))
