"""Quantized folders answer as transformers does with the same weights as float32 (goldens/quantized.json)."""

import numpy as np
import pytest

from mindspore_paged.weights.checkpoint import open_checkpoint
from mindspore_paged.weights.packing import stored_format
from tests.e2e.models import make_llm
from tests.models.families import answer_of, sections_of
from tests.weights.quantized_folders import CASES
from tests.weights.quantized_goldens import MODELS, write_model

IN_DEFAULT_TIER = ("gptq, act-order", "awq", "W4A16, not symmetric", "W8A8", "fp8, as DeepSeek")
"""Each method, and each family: Phi-3 has several weights in one matrix, Qwen2 has biases."""


def check(folder, name, **sections):
    with make_llm(**sections_of(folder, **sections)) as llm:
        tokens, logits = answer_of(llm)
    assert tokens[:-1] == MODELS[name]["tokens"]
    np.testing.assert_allclose(logits[-1], MODELS[name]["last"], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "name", [name if name in IN_DEFAULT_TIER else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_answers_are_those_of_the_dequantized_model(tmp_path, name):
    check(write_model(tmp_path / "model", name), name)


@pytest.mark.parametrize(
    "name", [name if name in IN_DEFAULT_TIER else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_answers_of_weights_held_as_they_are_stored(tmp_path, name):
    """Near those of the dequantized model, and the same tokens until two are nearly as good."""
    folder, golden = write_model(tmp_path / "model", name), MODELS[name]
    checkpoint = open_checkpoint(folder)
    with make_llm(**sections_of(folder, model={"weights": str(folder), "weight_dtype": "stored"})) as llm:
        places = llm.engine.runner.model.weight_places()
        for weight in places:
            if "_proj.weight" in weight:
                assert places[weight].form == stored_format(checkpoint, weight)
        tokens, logits = answer_of(llm)
    tolerance = 0.05 * float(np.std(golden["last"]))
    for step, (token, expected) in enumerate(zip(tokens, golden["tokens"])):
        if token != expected:
            assert logits[step, token] - logits[step, expected] < 2 * tolerance
            return
    np.testing.assert_allclose(logits[-1], golden["last"], rtol=0, atol=tolerance)
