"""Quantized folders answer as transformers does with the same weights as float32 (goldens/quantized.json)."""

import numpy as np
import pytest

from mindspore_paged.formats.weight_format import FLOAT32
from mindspore_paged.weights.checkpoint import open_checkpoint
from mindspore_paged.weights.packing import stored_format
from tests.e2e.models import make_llm
from tests.models.families import answer_of, sections_of
from tests.weights.quantized_folders import CASES
from tests.weights.quantized_goldens import MODELS, write_model

IN_DEFAULT_TIER = ("gptq, act-order", "awq", "W4A16, not symmetric", "W8A8", "fp8, as DeepSeek")
"""Each method, and each family: Phi-3 has several weights in one matrix, Qwen2 has biases."""


TIERS = [name if name in IN_DEFAULT_TIER else pytest.param(name, marks=pytest.mark.slow) for name in CASES]


def run(folder, weight_dtype):
    """Tokens and logits of an engine, and how it holds each projection."""
    model = {"weights": str(folder), "weight_dtype": weight_dtype}
    with make_llm(**sections_of(folder, model=model)) as llm:
        places = llm.engine.runner.model.weight_places()
        held = {weight: place.form for weight, place in places.items() if weight.endswith("_proj.weight")}
        return *answer_of(llm), held


@pytest.mark.parametrize("name", TIERS)
def test_answers_are_those_of_the_dequantized_model(tmp_path, name):
    tokens, logits, held = run(write_model(tmp_path / "model", name), "float32")
    assert set(held.values()) == {FLOAT32}
    assert tokens[:-1] == MODELS[name]["tokens"]
    np.testing.assert_allclose(logits[-1], MODELS[name]["last"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", TIERS)
def test_answers_of_weights_held_as_they_are_stored(tmp_path, name):
    """Near those of the dequantized model: tokens are rounded to 16 bits, and floats that no block holds, too."""
    folder, golden = write_model(tmp_path / "model", name), MODELS[name]
    tokens, logits, held = run(folder, "auto")
    checkpoint = open_checkpoint(folder)
    assert held == {weight: stored_format(checkpoint, weight) for weight in held}
    rounded = any(not form.block_bytes and form != FLOAT32 for form in held.values())
    tolerance = (0.05 if rounded else 0.001) * float(np.std(golden["last"]))
    for step, (token, expected) in enumerate(zip(tokens, golden["tokens"])):
        if token != expected:
            assert logits[step, token] - logits[step, expected] < 2 * tolerance
            return
    np.testing.assert_allclose(logits[-1], golden["last"], rtol=0, atol=tolerance)
