"""Log-probabilities of prompts as long as many chunks, against Hugging Face transformers, through LLM and HTTP."""

from pathlib import Path

import pytest

from mindspore_paged import SamplingParams
from tests.e2e.models import make_llm, make_llm_over
from tests.e2e.prompt_logprob_goldens import BOUND, CASES, check_logprobs, check_told
from tests.serving.running import RunningServer

pytestmark = pytest.mark.slow

PROMPTS = [case["prompt_token_ids"] for case in CASES.values()]
LONG = CASES["documents"]["prompt_token_ids"]
SIZES = {
    "scheduler": {"max_num_seqs": 32, "max_num_batched_tokens": 64, "token_buckets": [32, 64], "max_model_len": 608},
    "model": {"weight_dtype": "float32"},
}
CACHE = {"num_blocks": 128}


@pytest.fixture(scope="module")
def llm(demo_model):
    with make_llm(demo_model, cache=CACHE, **SIZES) as llm:
        yield llm


@pytest.fixture(scope="module")
def llm_without_prefix_cache(llm):
    """It takes the model and the pages of the other, so its test comes last."""
    return make_llm_over(llm, cache=CACHE | {"enable_prefix_caching": False}, **SIZES)


def check_cold_and_warm(llm) -> None:
    """All prompts side by side, and again by `score`, now that pages of theirs may be there."""
    for output, case in zip(
        llm.generate(PROMPTS, SamplingParams(max_tokens=1, prompt_logprobs=1)), CASES.values(), strict=True
    ):
        check_told(output.prompt_logprobs, case)
    for logprobs, case in zip(llm.score(PROMPTS), CASES.values(), strict=True):
        check_logprobs(logprobs, case)
    assert llm.get_statistics()["compiles_after_warmup"] == 0


def test_the_long_prompt_is_the_beginning_of_the_text(llm):
    text = Path(__file__).parents[2] / "scripts" / "texts" / "american_documents.txt"
    assert llm.tokenizer.encode(text.read_text(encoding="utf-8"))[: len(LONG)] == LONG


def test_with_prefix_cache(llm):
    check_cold_and_warm(llm)
    (output,) = llm.generate([LONG], SamplingParams(max_tokens=1))
    assert output.num_cached_tokens == 592  # the pages that they left, and did not take


def test_over_http(llm):
    """Token ids side by side, and a text; `echo` with `logprobs` as lm-eval asks for them."""
    with RunningServer(llm, llm.config.server) as server:
        model = server.client.models.list().data[0].id
        common = {"model": model, "max_tokens": 1, "echo": True, "logprobs": 1}
        choices = server.client.completions.create(prompt=PROMPTS, **common).choices
        choices += server.client.completions.create(prompt=llm.tokenizer.decode(LONG), **common).choices
        for choice, case in zip(choices, [*CASES.values(), CASES["documents"]], strict=True):
            check_choice(choice, case, llm.tokenizer)
        server.assert_idle()


def check_choice(choice, case, tokenizer) -> None:
    first, *others = choice.logprobs.token_logprobs[:-1]  # the last is the answer's
    assert first is None
    check_logprobs(others, case)
    for place, (token_id, logprob) in case["top"].items():
        best, value = max(choice.logprobs.top_logprobs[int(place)].items(), key=lambda pair: pair[1])
        assert (best, value) == (tokenizer.decode([token_id]), pytest.approx(logprob, abs=BOUND))
    assert choice.text.startswith(tokenizer.decode(case["prompt_token_ids"]))


def test_without_prefix_cache(llm_without_prefix_cache):
    check_cold_and_warm(llm_without_prefix_cache)
