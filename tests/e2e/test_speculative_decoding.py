"""Speculation on real models: the same tokens in fewer steps, and nothing is compiled for it after start."""

import pytest

from mindspore_paged import SamplingParams
from tests.e2e.models import make_llm
from tests.e2e.test_invariance import PROMPTS

TINY = {"max_num_batched_tokens": 32, "max_num_seqs": 8, "max_model_len": 128}
PARAMS = [
    SamplingParams(max_tokens=50),
    SamplingParams(max_tokens=50, temperature=0.3, top_p=0.9, seed=3, n=2),
    SamplingParams(max_tokens=50, repetition_penalty=1.05, logprobs=2),
]

REPEAT = [
    "Repeat the following list exactly as it is:\n- apples, 3 kg, red\n- bananas, 2 kg, ripe\n- carrots, 1 kg, fresh\n"
    "- dates, 500 g, dried\n- eggplants, 2 pieces, small\n- figs, 12 pieces, fresh\n- grapes, 1 kg, white",
    "Correct the spelling of the following text and repeat the whole text, changing nothing else:\n\nThe city council "
    "met on Tuesday evening to discuss the new bicycle lanes along the river. Several residents spoke in favour of "
    "the plan, saying that the raod is dangerous for children on their way to school.",
]


def tokens_of(llm, prompts, params) -> list[list[int]]:
    return [completion.token_ids for output in llm.generate(prompts, params) for completion in output.outputs]


@pytest.fixture(scope="module")
def plain():
    llm = make_llm(cache={"num_blocks": 64}, scheduler=TINY)
    return [tokens_of(llm, PROMPTS, params) for params in PARAMS]


@pytest.mark.parametrize("num_blocks", [64, 9])
def test_tokens_are_those_without_speculation_in_fewer_steps(plain, num_blocks):
    llm = make_llm(cache={"num_blocks": num_blocks}, scheduler=TINY | {"num_speculative_tokens": 3})
    assert [tokens_of(llm, PROMPTS, params) for params in PARAMS] == plain
    statistics = llm.get_statistics()
    assert statistics["compiles_after_warmup"] == 0
    assert statistics["num_accepted_tokens"] > 0
    assert statistics["tokens_per_sequence_step"] > 1
    assert (statistics["num_preemptions"] > 0) == (num_blocks == 9)
    llm.engine.check_integrity()


@pytest.mark.slow
def test_the_demo_model_repeats_a_prompt_several_tokens_a_step(demo_model):
    def run(**scheduler):
        options = {"max_num_batched_tokens": 128, "token_buckets": [1, 5, 10, 128], "max_model_len": 512}
        llm = make_llm(demo_model, cache={"num_blocks": 128}, scheduler=options | scheduler)
        requests = [llm.make_request([{"role": "user", "content": text}], SamplingParams()) for text in REPEAT]
        answers = [output.outputs[0].token_ids for output in llm.run(requests)]
        return answers, llm.get_statistics()

    plain, _ = run()
    speculative, statistics = run(num_speculative_tokens=4)
    assert speculative == plain
    assert statistics["tokens_per_sequence_step"] > 2
    assert statistics["compiles_after_warmup"] == 0
