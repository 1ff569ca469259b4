"""Answers held to a form by two engines side by side, or two ranks, under the real msrun: those of one process.

This file is also the script that msrun runs.
"""

import json
import sys
from pathlib import Path

import pytest

from mindspore_paged import LLM, SamplingParams
from mindspore_paged.config import config_from_dict
from tests.cli_runs import write_gguf
from tests.e2e.msrun import run_alone, run_job
from tests.e2e.test_held_answers import SCHEMA, SIZES

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__)


def answers(weights: str, parallel: str) -> dict:
    """Tokens of greedy and drawn answers, and how many requests failed."""
    config = config_from_dict(
        {
            "model": {"weights": weights},
            "cache": {"num_blocks": 65},
            "scheduler": SIZES,
            "runtime": {"debug": True},
            "parallel": json.loads(parallel),
        }
    )
    with LLM(config, show_progress=False) as llm:
        form = {"json": SCHEMA}
        greedy = SamplingParams(max_tokens=100, structured_outputs=form)
        drawn = SamplingParams(max_tokens=100, temperature=1.0, seed=7, n=2, structured_outputs=form)
        prompts = ["A cat", "A dog and a cat", "b"]
        outputs = llm.generate(prompts, greedy) + llm.generate(prompts, drawn)
        statistics = llm.get_statistics()
    return {
        "tokens": [[completion.token_ids for completion in output.outputs] for output in outputs],
        "failed": statistics["num_requests_failed"],
    }


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(write_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory, weights):
    return run_alone(SCRIPT, tmp_path_factory.mktemp("alone"), weights, "{}")


@pytest.mark.parametrize(
    "parallel", [{"data_parallel_size": 2}, {"tensor_parallel_size": 2}], ids=["two replicas", "two ranks"]
)
def test_they_are_the_same(alone, weights, tmp_path, parallel):
    job = run_job(SCRIPT, 2, tmp_path, weights, json.dumps(parallel))
    assert job.exit_code == 0, job.output
    assert job.answer == alone
    assert alone["failed"] == 0


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(answers(*sys.argv[2:])))
