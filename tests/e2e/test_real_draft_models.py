"""A real draft model beside the tiny one: the same tokens in fewer steps, whatever the draft model is."""

import pytest

from mindspore_paged import SamplingParams
from mindspore_paged.models.registry import model_config_by_name
from tests.adapter_files import write_adapter
from tests.e2e.draft_models import write_draft
from tests.e2e.models import make_llm
from tests.e2e.test_invariance import PROMPTS

SCHEDULER = {"max_num_batched_tokens": 32, "max_num_seqs": 8, "max_model_len": 128, "token_buckets": [8, 32]}
PARAMS = [
    SamplingParams(max_tokens=30),
    SamplingParams(max_tokens=30, temperature=0.3, top_p=0.9, seed=3, n=2),
    SamplingParams(max_tokens=30, repetition_penalty=1.05, logprobs=2),
]


def make_drafting_llm(draft, cache=None, scheduler=None, **sections):
    """An LLM of the tiny model, both models' unwritten pages NaN."""
    speculation = {"num_speculative_tokens": 3, "speculative_model": str(draft), "adaptive_speculation": False}
    return make_llm(
        cache={"num_blocks": 64} | (cache or {}),
        scheduler=SCHEDULER | speculation | (scheduler or {}),
        **sections,
    )


def tokens_of(llm, params) -> list[list[int]]:
    return [completion.token_ids for output in llm.generate(PROMPTS, params) for completion in output.outputs]


@pytest.fixture(scope="module")
def plain():
    llm = make_llm(cache={"num_blocks": 64}, scheduler=SCHEDULER)
    return [tokens_of(llm, params) for params in PARAMS]


@pytest.fixture(scope="module")
def drafts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drafts")
    return {
        "itself": write_draft(folder / "itself"),
        "like it": write_draft(folder / "like", noise=0.05),
        "another": write_draft(folder / "another", num_hidden_layers=1, num_key_value_heads=1, head_dim=32),
    }


@pytest.mark.parametrize(("name", "cache"), [("itself", {}), ("another", {}), ("like it", {"num_blocks": 9})])
def test_tokens_are_those_without_a_draft_model(plain, drafts, name, cache):
    llm = make_drafting_llm(drafts[name], cache)
    assert [tokens_of(llm, params) for params in PARAMS] == plain
    statistics = llm.get_statistics()
    assert statistics["compiles_after_warmup"] == 0
    assert (statistics["num_preemptions"] > 0) == bool(cache)
    if name == "itself":
        assert statistics["num_accepted_tokens"] == statistics["num_draft_tokens"] > 0
        assert statistics["tokens_per_sequence_step"] > 3
    if name == "like it":
        assert 0.2 < statistics["draft_acceptance_rate"] < 1
    llm.engine.check_integrity()


@pytest.mark.slow
@pytest.mark.parametrize("adapts", [False, True])
def test_the_demo_model_writes_with_itself_in_fewer_bits_what_it_writes_alone(demo_model, adapts):
    def run(**scheduler):
        options = {"max_num_batched_tokens": 128, "token_buckets": [1, 5, 20, 128], "max_model_len": 256}
        model = {"weight_dtype": "bfloat16"}
        with make_llm(demo_model, cache={"num_blocks": 128}, scheduler=options | scheduler, model=model) as llm:
            texts = ["Why is the sky blue?", "Write a short story about a fox.", "What is the capital of France?"]
            chosen = SamplingParams(max_tokens=60), SamplingParams(max_tokens=60, temperature=0.8, top_p=0.95, seed=1)
            requests = [
                llm.make_request([{"role": "user", "content": text}], params) for params in chosen for text in texts
            ]
            return [output.outputs[0].token_ids for output in llm.run(requests)], llm.get_statistics()

    plain, _ = run()
    draft = {"speculative_model": str(demo_model), "speculative_weight_dtype": "int8", "num_speculative_tokens": 4}
    drafted, statistics = run(**draft, adaptive_speculation=adapts)
    assert drafted == plain
    assert statistics["compiles_after_warmup"] == 0
    assert statistics["draft_acceptance_rate"] > 0.6 or adapts


def test_adapters_of_the_model_are_not_the_draft_models(drafts, tmp_path):
    """Which guesses for the model alone, and is wrong more often; the tokens are those without it."""
    folder = write_adapter(tmp_path / "adapter", model_config_by_name("tiny"), seed=1)
    model = {"lora_adapters": {"own": folder}}
    names = [None, "own"] * (len(PROMPTS) // 2) + [None] * (len(PROMPTS) % 2)

    def run(llm):
        with llm:
            answers = llm.generate(PROMPTS, PARAMS[0], lora_adapter=names)
            llm.engine.check_integrity()
            return [answer.outputs[0].token_ids for answer in answers], llm.get_statistics()

    plain, _ = run(make_llm(cache={"num_blocks": 64}, scheduler=SCHEDULER, model=model))
    drafted, statistics = run(make_drafting_llm(drafts["itself"], model=model))
    assert drafted == plain
    assert 0 < statistics["num_accepted_tokens"] < statistics["num_draft_tokens"]
