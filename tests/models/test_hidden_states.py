"""A step without its head against the float64 reference, over the pages and the weights that the whole step has."""

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest

from mindspore_paged.formats.weight_format import FLOAT32
from mindspore_paged.models.registry import MODEL_CONFIGS
from tests.models.test_llama import BLOCK_SIZE, make_runner, row_tokens, step, table_of
from tests.reference import llama as reference

TINY = MODEL_CONFIGS["tiny"]
CONFIGS = {"tied": TINY, "own head": replace(TINY, tie_word_embeddings=False, num_hidden_layers=1)}


@pytest.fixture(autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})


@pytest.mark.parametrize(
    "formats", [pytest.param(None, id="plain", marks=pytest.mark.slow), pytest.param(lambda _: FLOAT32, id="fused")]
)
@pytest.mark.parametrize("name", CONFIGS)
def test_states_are_those_of_the_reference_and_leave_the_step_as_it_is(name, formats):
    config = CONFIGS[name]
    weights = reference.random_weights(config, seed=1)
    tokens = np.random.default_rng(2).integers(0, config.vocab_size, 40)
    expected = reference.hidden_states(config, weights, tokens)
    runner = make_runner(config, weights, [1, 32], formats=formats, hidden=True)
    runner.warm_up(iter)
    got = []
    for start in range(0, 36, 12):  # all of a chunk, more than there are rows
        table = table_of(2, [17, 3, 9]) if start == 0 else ()
        got.append(runner.run_hidden(step(*row_tokens(2, start, tokens[start : start + 12]), table=table)))
    np.testing.assert_allclose(np.concatenate(got), expected[:36], rtol=0, atol=1e-4)
    # The next token's logits come from the pages that were written so.
    logits = runner.run(step((2, 36, int(tokens[36]))))
    np.testing.assert_allclose(logits[0], reference.logits(config, weights, tokens[:37])[-1], rtol=0, atol=1e-4)
    (state,) = runner.run_hidden(step((2, 37, int(tokens[37]))))
    np.testing.assert_allclose(state, expected[37], rtol=0, atol=1e-4)
    assert runner.compiles_after_warmup == 0
    assert expected.std() > 0.5
    assert 2 * BLOCK_SIZE < 36


def test_states_of_some_tokens_are_those_of_all():
    weights = reference.random_weights(TINY, seed=3)
    runner = make_runner(TINY, weights, [16], formats=lambda _: FLOAT32, hidden=True)
    tokens = row_tokens(1, 0, range(9))
    every = runner.run_hidden(step(*tokens, table=table_of(1, [5])))
    some = runner.run_hidden(step(*tokens, logits=[8, -1, 2]))
    assert np.array_equal(some[[0, 2]], every[[8, 2]])
