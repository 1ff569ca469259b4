"""Quantized folders answer as transformers does with the same weights as float32 (goldens/quantized.json)."""

import numpy as np
import pytest

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
