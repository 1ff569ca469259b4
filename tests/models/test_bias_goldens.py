"""Models with biases and scaled rotary embeddings against transformers (goldens/biases.json), read from its files."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from mindspore_paged.formats.weight_format import FLOAT32
from mindspore_paged.weights.checkpoint import open_checkpoint
from tests.goldens.make_bias_goldens import CASES, COMMON, PROMPT, make_weights
from tests.models.test_llama import graph_mode, make_runner, row_tokens, step, table_of

__all__ = ["graph_mode"]  # a fixture that every test here uses

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "biases.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "formats", [pytest.param(None, id="plain", marks=pytest.mark.slow), pytest.param(lambda _: FLOAT32, id="fused")]
)
@pytest.mark.parametrize("name", CASES)
def test_tokens_and_logits_are_those_of_transformers(tmp_path, name, formats):
    changes, biases = CASES[name]
    (tmp_path / "config.json").write_text(json.dumps(COMMON | changes))
    safetensors.numpy.save_file(make_weights(biases), tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.model_config.biases == biases
    weights = {tensor: checkpoint.read(tensor) for tensor in checkpoint.names()}
    runner = make_runner(checkpoint.model_config, weights, [1, 16], formats=formats)

    table = table_of(2, [17, 3, 9])
    logits = runner.run(step(*row_tokens(2, 0, PROMPT), table=table, logits=[len(PROMPT) - 1]))[0]
    np.testing.assert_allclose(logits, GOLDENS[name]["logits"]["first"], rtol=0, atol=1e-4)
    tokens = []
    for position in range(len(PROMPT), len(PROMPT) + len(GOLDENS[name]["tokens"])):
        tokens.append(int(logits.argmax()))
        logits = runner.run(step((2, position, tokens[-1])))[0]
    assert tokens == GOLDENS[name]["tokens"]
    np.testing.assert_allclose(logits, GOLDENS[name]["logits"]["last"], rtol=0, atol=1e-4)
