"""The demo model against Hugging Face transformers (goldens/smollm2_135m.json, made once from the same file)."""

import json
from pathlib import Path

import numpy as np
import pytest

from mindspore_paged import SamplingParams
from tests.e2e.models import make_llm
from tests.e2e.prompt_logprob_goldens import CASES as PROMPT_LOGPROBS
from tests.e2e.prompt_logprob_goldens import check_told

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "smollm2_135m.json").read_text(encoding="utf-8"))
CASES = {case["name"]: case for case in GOLDENS["cases"]}
GREEDY = SamplingParams(max_tokens=48, ignore_eos=True)


def prompt_of(case):
    return case["messages"] if "messages" in case else case["prompt"]


SIZES = {
    "cache": {"num_blocks": 128},
    "scheduler": {"max_num_batched_tokens": 128, "token_buckets": [1, 8, 128], "max_model_len": 512},
}


@pytest.fixture(scope="module")
def llm(demo_model):
    return make_llm(demo_model, **SIZES)


@pytest.fixture(scope="module")
def llm_of_floats(demo_model):
    return make_llm(demo_model, **SIZES, model={"weight_dtype": "float32"})


def test_greedy_tokens_of_a_batch_equal_those_of_transformers(llm):
    outputs = llm.generate([prompt_of(case) for case in CASES.values()], GREEDY)
    for case, output in zip(CASES.values(), outputs):
        assert output.prompt_token_ids == case["prompt_token_ids"], case["name"]
        assert output.outputs[0].token_ids == case["token_ids"], case["name"]
        assert output.outputs[0].text == case["text"], case["name"]
    assert llm.get_statistics()["compiles_after_warmup"] == 0


@pytest.mark.parametrize("name", CASES)
def test_last_logits_equal_those_of_transformers(llm_of_floats, name, monkeypatch):
    check_last_logits(llm_of_floats, name, monkeypatch, 1e-3)


@pytest.mark.parametrize("name", CASES)
def test_last_logits_of_weights_as_they_are_stored(llm, name, monkeypatch):
    """A token's numbers are rounded to 16 bits for them."""
    check_last_logits(llm, name, monkeypatch, 1e-2)


def check_last_logits(llm, name, monkeypatch, bound):
    case, seen = CASES[name], []
    run = llm.engine.runner.run
    monkeypatch.setattr(llm.engine.runner, "run", lambda inputs: seen.append(run(inputs)) or seen[-1])
    llm.generate(prompt_of(case), SamplingParams(max_tokens=1))
    logits, expected = seen[-1][-1], case["last_logits"]
    np.testing.assert_allclose(logits[expected["indices"]], expected["values"], rtol=0, atol=bound)
    assert int(logits.argmax()) == expected["top_ids"][0]


def test_log_probabilities_of_prompts_equal_those_of_transformers(llm_of_floats):
    """Of prompts as long as a chunk or a few; test_prompt_logprobs_of_demo_model.py has a long one."""
    cases = [PROMPT_LOGPROBS[name] for name in ("capital", "unicode")]
    params = SamplingParams(max_tokens=1, prompt_logprobs=1)
    for output, case in zip(llm_of_floats.generate([case["prompt_token_ids"] for case in cases], params), cases):
        check_told(output.prompt_logprobs, case)


def test_a_stream_gives_the_text_of_the_whole(llm):
    case = CASES["unicode"]
    updates = list(llm.stream(case["prompt"], GREEDY))
    assert "".join(update.text for update in updates) == case["text"]
    assert [token for update in updates for token in update.token_ids] == case["token_ids"]
    assert [update.finish_reason for update in updates] == [None] * 47 + ["length"]


def test_a_stop_string_ends_the_text_before_it(llm):
    case = CASES["capital"]
    (output,) = llm.generate(case["prompt"], SamplingParams(max_tokens=48, stop=["answer is", "never seen"]))
    assert output.outputs[0].text == case["text"][: case["text"].index("answer is")]
    assert output.outputs[0].finish_reason == "stop"
    assert len(output.outputs[0].token_ids) < 12


def test_chat_ends_at_the_models_own_end(llm):
    output = llm.chat([{"role": "user", "content": "What is 2 + 2? Answer with one number."}])
    assert output.outputs[0].finish_reason == "stop"
    assert llm.tokenizer.eos_token_ids[0] == output.outputs[0].token_ids[-1]
    assert "<|im_end|>" not in output.outputs[0].text


@pytest.mark.slow
def test_output_is_the_same_under_preemption(demo_model):
    case_list = [case for name, case in CASES.items() if name != "long"]
    small = make_llm(
        demo_model,
        cache={"num_blocks": 9, "enable_prefix_caching": False},
        scheduler={"max_num_batched_tokens": 32, "token_buckets": [1, 4, 32], "max_model_len": 100},
    )
    outputs = small.generate([prompt_of(case) for case in case_list], GREEDY)
    assert small.get_statistics()["num_preemptions"] > 0
    for case, output in zip(case_list, outputs):
        assert output.outputs[0].token_ids == case["token_ids"], case["name"]
