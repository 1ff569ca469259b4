"""DRY in whole answers: greedy tokens are the largest of the model's logits less what the definition takes."""

import pytest

from mindspore_paged import SamplingParams
from tests.cli_runs import write_gguf
from tests.e2e.models import make_llm
from tests.sampling.test_dry import longest_repetitions

SIZES = {"max_num_seqs": 4, "max_num_batched_tokens": 32, "token_buckets": [8, 32], "max_model_len": 128}
PROMPT = "to be or not to be or not to be"
DRY = {"dry_multiplier": 1.5, "dry_base": 2.0, "dry_allowed_length": 1}


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    weights = str(write_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf"))
    with make_llm(weights, cache={"num_blocks": 65}, scheduler=SIZES | {"num_speculative_tokens": 2}) as llm:
        yield llm


def answer(llm, **params):
    return llm.generate(PROMPT, SamplingParams(**{"max_tokens": 40, "ignore_eos": True} | params))[0]


@pytest.mark.parametrize("breakers", [[], ["b"], ["or n", " "]])
def test_greedy_tokens_are_the_best_that_are_left(llm, breakers):
    keys = DRY | {"dry_sequence_breakers": breakers, "logprobs": -1}
    output = answer(llm, **keys)
    text, (completion,) = list(output.prompt_token_ids), output.outputs
    encoded = [llm.tokenizer.encode(breaker, add_special_tokens=False) for breaker in breakers]
    assert all(len(tokens) == len(breaker) for tokens, breaker in zip(encoded, breakers, strict=True))  # by letters
    params = SamplingParams(**keys)
    for token in completion.logprobs:
        left = dict(token.top_logprobs)
        for other, length in longest_repetitions(text, params, [tuple(tokens) for tokens in encoded]).items():
            left[other] -= 1.5 * 2.0 ** (length - 1)
        assert token.token_id == max(left, key=left.get)
        text.append(token.token_id)
    assert completion.token_ids != answer(llm).outputs[0].token_ids


def test_each_of_several_answers_has_its_own(llm):
    together = answer(llm, **DRY, n=3, temperature=1.0, seed=5).outputs
    assert len({tuple(one.token_ids) for one in together}) == 3
    assert together == answer(llm, **DRY, n=3, temperature=1.0, seed=5).outputs
