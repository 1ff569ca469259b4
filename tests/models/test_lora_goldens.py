"""Adapters answer as in transformers and PEFT (goldens/lora.json), beside a model that answers as without them."""

import numpy as np
import pytest

from mindspore_paged import SamplingParams
from tests.e2e.models import make_llm
from tests.goldens.make_family_goldens import NEW_TOKENS, PROMPT
from tests.models.adapters import ADAPTERS, write_adapter
from tests.models.families import FAMILIES, check_equal, sections_of, write_folder

ROWS = {"scheduler": {"max_num_seqs": 3, "max_num_batched_tokens": 16, "token_buckets": [3, 16], "max_model_len": 64}}


def answer_with(llm, lora_adapter):
    """Greedy tokens after PROMPT, and the logits that they are the largest of, computed alone."""
    rows, run = [], llm.engine.runner.run
    llm.engine.runner.run = lambda step: rows.append(run(step)) or rows[-1]
    params = SamplingParams(max_tokens=NEW_TOKENS + 1, ignore_eos=True)
    tokens = llm.generate([PROMPT], params, lora_adapter=lora_adapter)[0].outputs[0].token_ids
    llm.engine.runner.run = run
    llm.engine.check_integrity()
    return tokens, np.concatenate(rows)[-NEW_TOKENS - 1 :]


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_answers(tmp_path, name, fused):
    """Alone, and then beside the model without the adapter, whose pages it does not find."""
    model_name = ADAPTERS[name]["model"]
    model = {"lora_adapters": {"adapted": str(write_adapter(tmp_path / "adapter", name))}}
    sections = sections_of(write_folder(tmp_path / "model", model_name), **ROWS)
    with make_llm(**sections, model=model, runtime={"fused_ops": fused}) as llm:
        check_equal(FAMILIES[model_name], *answer_with(llm, None))
        check_equal(ADAPTERS[name], *answer_with(llm, "adapted"))
        params = SamplingParams(max_tokens=NEW_TOKENS, ignore_eos=True)
        together = llm.generate([PROMPT] * 3, params, lora_adapter=["adapted", None, "adapted"])
        expected = [ADAPTERS[name]["tokens"], FAMILIES[model_name]["tokens"], ADAPTERS[name]["tokens"]]
        assert [answer.outputs[0].token_ids for answer in together] == expected
        assert llm.engine.runner.compiles_after_warmup == 0


def test_the_emulator_of_the_npu(tmp_path):
    """Within what pages of float16 are off."""
    name = "all projections, with biases"
    model = {"lora_adapters": {"adapted": str(write_adapter(tmp_path / "adapter", name))}}
    sections = sections_of(write_folder(tmp_path / "model", ADAPTERS[name]["model"]), **ROWS)
    sections["cache"] |= {"kv_cache_dtype": "float16"}
    with make_llm(**sections, model=model, runtime={"ops_backend": "ascend_emulator"}) as llm:
        for lora_adapter, golden in (("adapted", ADAPTERS[name]), (None, FAMILIES[ADAPTERS[name]["model"]])):
            _, logits = answer_with(llm, lora_adapter)
            np.testing.assert_allclose(logits[0], golden["first"], rtol=0, atol=0.02 * np.std(golden["first"]))
