"""ModelStep of fused layers with weights of every form; with float32, test_llama.py has the same cases as plain.

Whatever its form, a weight is computed with as the number that it means, in float32: within 1e-4 of the float64
reference on the same rounded weights, whose logits are about 2. With blocks of weights, a token's numbers are rounded
to 16 bits too: that costs about as much as it costs the reference, 1e-3. The two do not lose the same, for what differs
in the last bits of float32 rounds a few numbers the other way, and more of them in each layer.
"""

from dataclasses import replace

import gguf
import numpy as np
import pytest

from mindspore_paged.errors import CheckpointError, StepError
from mindspore_paged.formats.weight_format import BF16, BLOCK_FORMATS, FLOAT16, FLOAT32, INT8, Q4_0, Q4_1
from mindspore_paged.models.parallel import ONE_RANK, OneRank
from tests.custom_ops.kernel_calls import assert_same_bits
from tests.models.test_llama import CONFIGS, ROWS, TINY, graph_mode, make_runner, row_tokens, step, table_of
from tests.reference import llama as reference

__all__ = ["graph_mode"]  # a fixture that every test here uses

UNTIED = "H equals K, D 64, own lm_head"

FORMS = {form.name: form for form in (FLOAT32, FLOAT16, BF16, INT8, Q4_0, Q4_1)}
"""Those that floats are rounded to; the products of the others are tested with the operators."""


def of(form):
    return lambda _: form


def mixed(name):
    """As files mix them: large matrices in few bits, others in more, the table as bfloat16."""
    if "embed_tokens" in name or "lm_head" in name:
        return BF16
    forms = {"q_proj": Q4_1, "k_proj": INT8, "v_proj": FLOAT16, "o_proj": Q4_0, "gate_proj": INT8, "up_proj": FLOAT32}
    return forms.get(name.split(".")[-2], Q4_1)


def as_held(weights, formats):
    """The weights as float64 of what a model that holds them so computes with."""
    held = {}
    for name, weight in weights.items():
        form = FLOAT32 if "norm" in name or name.endswith(".bias") else formats(name)
        stored = form.pack(weight)
        blocks = form in BLOCK_FORMATS.values()
        held[name] = gguf.dequantize(stored, gguf.GGMLQuantizationType(form.kind)) if blocks else stored
    return {name: weight.astype(np.float64) for name, weight in held.items()}


def rounded(hidden):
    """Whole numbers times a scale, for each 32 of a token."""
    blocks = hidden.reshape(len(hidden), -1, 32)
    steps = np.abs(blocks).max(axis=2, keepdims=True) / 32639
    return (np.rint(blocks / steps) * steps).reshape(hidden.shape)


def run_in_chunks(runner, tokens, chunk, row=2, blocks=(17, 3, 9)):
    """Logits of each token; of a chunk's first, beyond the ROWS that a step gives, NaN."""
    got = np.full((len(tokens), runner.model.weight_places()["model.embed_tokens.weight"].shape[0]), np.nan, np.float32)
    for start in range(0, len(tokens), chunk):
        table = table_of(row, blocks) if start == 0 else ()
        stop = min(start + chunk, len(tokens))
        wanted = np.arange(max(start, stop - ROWS), stop)
        got[wanted] = runner.run(step(*row_tokens(row, start, tokens[start:stop]), table=table, logits=wanted - start))
    return got


BIASED = CONFIGS["biases"]


@pytest.mark.parametrize("config", [BIASED, CONFIGS[UNTIED]], ids=["tied, biases", "untied"])
@pytest.mark.parametrize("formats", [*map(of, FORMS.values()), mixed], ids=[*FORMS, "mixed"])
def test_logits_equal_the_reference(monkeypatch, formats, config):
    weights = reference.random_weights(config, seed=1)
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, 40)
    got = run_in_chunks(make_runner(config, weights, [8], formats=formats), tokens, 6)
    held = as_held(weights, formats)
    exact = reference.logits(config, held, tokens)
    linear = reference.linear
    of_blocks = {id(held[name]) for name in held if held[name].ndim == 2 and formats(name).block_bytes}
    monkeypatch.setattr(
        reference, "linear", lambda x, weight: linear(rounded(x) if id(weight) in of_blocks else x, weight)
    )
    of_rounding = np.abs(reference.logits(config, held, tokens) - exact).max()
    assert (of_rounding > 0) == bool(of_blocks)
    assert np.abs(got - exact).max() < 1e-4 + 1.5 * of_rounding


@pytest.mark.parametrize("name", FORMS)
def test_a_token_has_the_same_logits_in_a_chunk_and_alone(name):
    """Chunks in other buckets, with padding, after and beside other rows: the same bits."""
    config = CONFIGS[UNTIED]
    weights = reference.random_weights(config, seed=3)
    tokens = np.random.default_rng(4).integers(0, config.vocab_size, 34)
    runner = make_runner(config, weights, [1, 8, 64], formats=of(FORMS[name]))
    alone = run_in_chunks(runner, tokens, 1)
    for chunk in (5, 8, 34):
        got = run_in_chunks(runner, tokens, chunk, row=4, blocks=(5, 21, 2))
        compared = ~np.isnan(got[:, 0])
        assert compared.sum() == {5: 34, 8: 26, 34: ROWS}[chunk]
        assert_same_bits(got[compared], alone[compared], f"chunks of {chunk}")
    other = row_tokens(0, 0, tokens[:3][::-1])
    table = table_of(0, [7]) + table_of(1, [11, 8, 1])
    both = runner.run(step(*other, *row_tokens(1, 0, tokens), table=table, logits=[3, 19, 20, 36]))
    assert_same_bits(both, alone[[0, 16, 17, 33]], "beside another row")


@pytest.mark.parametrize("pages", ["float32", "bfloat16", "int8"])
def test_all_layers_at_once_are_bitwise_what_they_are_one_by_one(pages):
    """As a rank of several has them."""
    weights = reference.random_weights(BIASED, seed=9)
    tokens = np.random.default_rng(9).integers(0, TINY.vocab_size, 30)
    at_once, one_by_one = (
        run_in_chunks(make_runner(BIASED, weights, [1, 8], pages, formats=mixed, ranks=ranks), tokens, 6)
        for ranks in (ONE_RANK, OneRank())
    )
    assert_same_bits(at_once, one_by_one)


def test_norms_and_biases_are_floats_and_the_rest_is_as_asked():
    weights = reference.random_weights(BIASED, seed=5)
    model = make_runner(BIASED, weights, [1], formats=mixed).model
    for name, place in model.weight_places().items():
        assert place.form == (FLOAT32 if weights[name].ndim == 1 else mixed(name))
        assert place.shape == weights[name].shape


def test_names_are_those_of_the_plain_layers():
    for config in (TINY, CONFIGS[UNTIED], CONFIGS["biases of q, k and v"]):
        weights = reference.random_weights(config, seed=6)
        plain, fused = (make_runner(config, weights, [1], formats=formats) for formats in (None, of(FLOAT32)))
        assert fused.model.weight_places().keys() == plain.model.weight_places().keys() == weights.keys()


def test_a_model_whose_rows_are_no_whole_blocks_is_refused():
    config = replace(TINY, intermediate_size=80)
    with pytest.raises(CheckpointError, match=r"\(\d+, 80\) cannot be held as Q4_1: its rows must be a multiple of 32"):
        make_runner(config, reference.random_weights(config, seed=7), [1], formats=of(Q4_1))


def test_a_step_that_a_layer_refuses_says_why_and_the_next_one_runs():
    weights = reference.random_weights(TINY, seed=8)
    runner = make_runner(TINY, weights, [1, 4], formats=of(FLOAT32))
    runner.warm_up(iter)
    for tokens, table, message in (
        (row_tokens(0, 0, [1, 2]), table_of(0, [99]), r"token 0: block 99 at block_table\[0, 0\] is outside \[0, 24\)"),
        (row_tokens(0, 0, [1, 256]), table_of(0, [9]), r"decoder_step: token 1: id 256 is outside \[0, 256\)"),
    ):
        with pytest.raises(StepError, match=message):
            runner.run(step(*tokens, table=table))
        got = runner.run(step(*row_tokens(0, 0, [1, 2]), table=table_of(0, [9])))
        np.testing.assert_allclose(got, reference.logits(TINY, weights, [1, 2]), rtol=0, atol=1e-4)
