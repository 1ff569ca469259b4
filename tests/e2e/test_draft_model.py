"""A real draft model beside the tiny one: the same tokens in fewer steps, whatever the draft model is."""

import pytest

from mindspore_paged import SamplingParams
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


@pytest.mark.parametrize(
    ("name", "cache"), [("itself", {}), ("like it", {}), ("another", {}), ("like it", {"num_blocks": 9})]
)
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
