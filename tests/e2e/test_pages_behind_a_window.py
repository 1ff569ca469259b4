"""A model whose layers all slide, its pages given back behind the window, against the same model that keeps them."""

from unittest.mock import patch

import pytest

from mindspore_paged import SamplingParams
from mindspore_paged.model_config import ModelConfig
from tests.e2e.models import make_llm
from tests.models.families import write_folder

PROMPTS = [[(seed * place) % 61 + 2 for place in range(1, length)] for seed, length in ((3, 85), (5, 20), (7, 60))]
"""Of which the window of 16 tokens is the smaller part."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("mistral"), "mistral, as v0.1")


def answers(folder, num_blocks, **cache) -> list:
    """Tokens, and log-probabilities to the last bit."""
    scheduler = {"max_num_seqs": 3, "max_num_batched_tokens": 16, "token_buckets": [1, 3, 16], "max_model_len": 125}
    with make_llm(str(folder), cache={"num_blocks": num_blocks, "block_size": 16, **cache}, scheduler=scheduler) as llm:
        params = SamplingParams(max_tokens=40, ignore_eos=True, logprobs=2)
        outputs = [output.outputs[0] for output in llm.generate([{"prompt_token_ids": p} for p in PROMPTS], params)]
        llm.engine.check_integrity()
        return [(output.token_ids, output.logprobs) for output in outputs]


@pytest.fixture(scope="module")
def of_all_pages(folder):
    """What comes out where every page is kept."""
    with patch.object(ModelConfig, "cache_window", 0):
        return answers(folder, 40)


@pytest.mark.parametrize("caching", [True, False])
def test_answers_are_those_of_an_engine_that_keeps_all_pages(folder, of_all_pages, caching):
    """Bit for bit, in a pool of 6 pages, where one sequence alone would fill 8."""
    assert len(PROMPTS[0]) + 40 > 6 * 16
    assert answers(folder, 7, enable_prefix_caching=caching) == of_all_pages
