"""Beam searches of real models: of the tiny one against NumPy, of the demo model against Hugging Face transformers."""

import json
from pathlib import Path

import numpy as np
import pytest

from mindspore_paged import LLM, BeamSearchParams, SamplingParams
from tests import cli_runs
from tests.e2e.models import make_llm
from tests.reference import llama as reference
from tests.reference.beam_search import beam_search

PROMPTS = [[5, 9, 100, 7, 30], [(11 * place) % 250 + 2 for place in range(21)], [77]]
SIZES = [
    *("scheduler.max_num_seqs=6", "scheduler.max_num_batched_tokens=16", "scheduler.token_buckets=[8,16]"),
    *("scheduler.max_model_len=96", "cache.block_size=16", "runtime.debug=true"),
]
GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "beams.json").read_text(encoding="utf-8"))
CASES = {
    " ".join(str(value) for value in case.values() if not isinstance(value, list)): case for case in GOLDENS["cases"]
}
FIRST, *REST = CASES


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return cli_runs.write_gguf(tmp_path_factory.mktemp("beams") / "model.gguf")


@pytest.fixture(scope="module", params=["roomy", "cramped"])
def llm(request, model_file):
    """In the cramped pool beams preempt each other, and whoever else runs guesses ahead."""
    cramped = ["cache.num_blocks=8", "scheduler.num_speculative_tokens=2"]
    options = cramped if request.param == "cramped" else ["cache.num_blocks=64"]
    with LLM(weights=model_file, overrides=[*SIZES, *options], show_progress=False) as llm:
        yield llm
        assert (llm.get_statistics()["num_preemptions"] > 0) == (request.param == "cramped")


def expected_beams(prompt, params):
    def logprobs(tokens):
        logits = reference.logits(cli_runs.CONFIG, cli_runs.WEIGHTS, [*prompt, *tokens])[-1]
        return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())

    eos = () if params.ignore_eos else cli_runs.CONFIG.eos_token_ids
    return beam_search(logprobs, params.beam_width, params.max_tokens, eos, params.length_penalty)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_beams_are_those_of_a_search_in_numpy(llm, width):
    params = BeamSearchParams(width, 14, length_penalty=0.5, ignore_eos=width == 3)
    greedy = SamplingParams(max_tokens=14, ignore_eos=True)
    outputs = llm.generate([*PROMPTS, PROMPTS[1][::-1]], [params] * len(PROMPTS) + [greedy])
    for prompt, output in zip(PROMPTS, outputs):
        expected = expected_beams(prompt, params)
        assert [beam.token_ids for beam in output.outputs] == [tokens for tokens, _ in expected]
        found = [beam.cumulative_logprob for beam in output.outputs]
        np.testing.assert_allclose(found, [total for _, total in expected], atol=1e-3)
    alone = reference.greedy(cli_runs.CONFIG, cli_runs.WEIGHTS, PROMPTS[1][::-1], 14)
    assert outputs[-1].outputs[0].token_ids == alone
    assert llm.engine.scheduler.cache.pool.num_used == 0
    assert llm.get_statistics()["compiles_after_warmup"] == 0


@pytest.fixture(scope="module")
def demo_llm(demo_model):
    return make_llm(
        demo_model,
        cache={"num_blocks": 64},
        scheduler={"max_num_batched_tokens": 64, "token_buckets": [8, 64], "max_model_len": 256, "max_num_seqs": 8},
        model={"weight_dtype": "float32"},
    )


def check_golden(llm, case):
    params = BeamSearchParams(
        beam_width=case["num_beams"],
        max_tokens=case["max_new_tokens"],
        length_penalty=case.get("length_penalty", 1.0),
        early_stopping=case.get("early_stopping", False),
    )
    assert sorted(llm.engine.limits.eos_token_ids) == sorted(GOLDENS["eos_token_ids"])
    (output,) = llm.beam_search([GOLDENS["prompts"][case["name"]]], params)
    assert [beam.token_ids for beam in output.outputs] == case["token_ids"]
    scores = [beam.cumulative_logprob / len(beam.token_ids) ** params.length_penalty for beam in output.outputs]
    np.testing.assert_allclose(scores, case["scores"], atol=2e-4)
    for beam in output.outputs:
        assert beam.finish_reason == ("stop" if beam.token_ids[-1] in GOLDENS["eos_token_ids"] else "length")
        text = beam.token_ids[:-1] if beam.finish_reason == "stop" else beam.token_ids
        assert beam.text.strip() == llm.tokenizer.decode(text).strip()


def test_sequences_and_scores_are_those_of_transformers(demo_llm):
    check_golden(demo_llm, CASES[FIRST])


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_more_sequences_and_scores_are_those_of_transformers(demo_llm, name):
    check_golden(demo_llm, CASES[name])
