"""ModelStep over scattered pages against the float64 reference, within 1e-4."""

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest

from mindspore_paged.engine.building.loading import set_weights
from mindspore_paged.engine.execution.kv_pool import KVPagePool
from mindspore_paged.engine.execution.model_runner import ModelRunner
from mindspore_paged.errors import StepError
from mindspore_paged.formats.weight_format import FLOAT32
from mindspore_paged.model_config import ModelConfig, RopeScaling
from mindspore_paged.models.model_step import ModelStep
from mindspore_paged.models.parallel import ONE_RANK
from mindspore_paged.models.registry import MODEL_CONFIGS
from mindspore_paged.step_inputs import StepInputs
from tests.custom_ops.int8_pages import quantize
from tests.e2e.models import poison_pages
from tests.reference import llama as reference

BLOCK_SIZE, NUM_BLOCKS, ROWS, BLOCKS_PER_ROW = 16, 24, 6, 4
UNUSED_ENTRY = (4, 3, 0)  # of block_table, and what it holds: a step states at least one
TINY = MODEL_CONFIGS["tiny"]
ALL_BIASES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def shaped(heads, kv_heads, head_dim, **changes) -> ModelConfig:
    return replace(
        TINY,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        hidden_size=96,
        **changes,
    )


CONFIGS = {
    "grouped": TINY,
    "H equals K, D 64, own lm_head": shaped(2, 2, 64, tie_word_embeddings=False),
    "H is 8K, D 80": shaped(8, 1, 80),
    "H is 4K, D 128, one layer": shaped(8, 2, 128, num_hidden_layers=1),
    "linear rope": replace(TINY, rope_scaling=RopeScaling("linear", factor=4.0)),
    "ntk rope": replace(TINY, rope_scaling=RopeScaling("ntk", factor=4.0)),
    "llama3 rope": replace(
        TINY,
        rope_theta=500000.0,
        rope_scaling=RopeScaling(
            "llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=32,
        ),
    ),
    "biases": replace(TINY, biases=ALL_BIASES),
    "biases of q, k and v": shaped(6, 3, 20, biases=ALL_BIASES[:3]),
    "yarn rope": replace(TINY, rope_scaling=RopeScaling("yarn", 4.0, original_max_position_embeddings=32)),
}


@pytest.fixture(autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})


def make_runner(
    config, weights, buckets, kv_cache_dtype="float32", formats=None, ranks=ONE_RANK, hidden=False
) -> ModelRunner:
    """A runner whose pages hold NaN wherever nothing was written; with `formats` its layers are fused.

    hidden: it gives hidden states, too.
    """
    shape = (ROWS, BLOCKS_PER_ROW)
    pool = KVPagePool.allocate(
        config.num_hidden_layers, NUM_BLOCKS, BLOCK_SIZE, config.num_key_value_heads, config.head_dim,
        kv_cache_dtype, shape, layers_together=formats is not None and ranks is ONE_RANK,
    )  # fmt: skip
    poison_pages(pool)
    model = ModelStep(config, pool, BLOCKS_PER_ROW * BLOCK_SIZE, formats=formats, ranks=ranks)
    hidden_states = model.hidden_states() if hidden else None
    places = model.weight_places()
    set_weights(model, lambda name: places[name].form.pack(weights[name]))
    return ModelRunner(model, pool, buckets, 1, hidden_states)


def step(*tokens, table=(), logits=None) -> StepInputs:
    """A step of (row, position, token id) triples; by default every token's logits are wanted."""
    rows, positions, input_ids = (np.array(column, np.int32) for column in zip(*tokens))
    wanted = np.arange(len(tokens)) if logits is None else np.array(logits)
    entries = np.array(table or [UNUSED_ENTRY], np.int32)
    return StepInputs(input_ids, positions, rows, wanted.astype(np.int32), entries[:, :2], entries[:, 2])


def row_tokens(row, start, token_ids):
    return [(row, start + i, int(token)) for i, token in enumerate(token_ids)]


def table_of(row, blocks):
    return [(row, column, block) for column, block in enumerate(blocks)]


LAYERS = pytest.mark.parametrize("formats", [None, lambda _: FLOAT32], ids=["plain", "fused"])


@LAYERS
@pytest.mark.parametrize("name", CONFIGS)
def test_prefill_and_decode_equal_the_reference(name, formats):
    config = CONFIGS[name]
    weights = reference.random_weights(config, seed=1)
    tokens = np.random.default_rng(2).integers(0, config.vocab_size, 40)
    expected = reference.logits(config, weights, tokens)
    runner = make_runner(config, weights, [1, 32], formats=formats)
    got = []
    for start in range(0, 36, 6):  # chunks of six, of which the third crosses a block's end
        table = table_of(2, [17, 3, 9]) if start == 0 else ()
        got.append(runner.run(step(*row_tokens(2, start, tokens[start : start + 6]), table=table)))
    got += [runner.run(step((2, p, int(tokens[p])))) for p in range(36, 40)]
    np.testing.assert_allclose(np.concatenate(got), expected, rtol=0, atol=1e-4)


@LAYERS
def test_a_mixed_step_equals_each_sequence_alone(formats):
    weights = reference.random_weights(TINY, seed=3)
    generator = np.random.default_rng(4)
    texts = [generator.integers(0, TINY.vocab_size, length) for length in (17, 33, 5)]
    runner = make_runner(TINY, weights, [64], formats=formats)
    tables = table_of(0, [5, 2]) + table_of(3, [11, 7, 1]) + table_of(5, [20])
    first = row_tokens(0, 0, texts[0][:16]) + row_tokens(3, 0, texts[1][:20])
    runner.run(step(*first, table=tables, logits=[0]))
    mixed = row_tokens(3, 20, texts[1][20:]) + row_tokens(0, 16, texts[0][16:]) + row_tokens(5, 0, texts[2])
    got = runner.run(step(*mixed, logits=[12, 13, 18]))
    expected = [reference.logits(TINY, weights, text)[-1] for text in (texts[1], texts[0], texts[2])]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


@LAYERS
@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 5e-3), ("bfloat16", 4e-2)])
def test_narrow_pages_stay_close(dtype, tolerance, formats):
    weights = reference.random_weights(TINY, seed=5)
    tokens = np.random.default_rng(6).integers(0, TINY.vocab_size, 30)
    runner = make_runner(TINY, weights, [32], dtype, formats)
    table = table_of(1, [4, 8])
    got = [runner.run(step(*row_tokens(1, s, tokens[s : s + 6]), table=table)) for s in range(0, 30, 6)]
    error = np.abs(np.concatenate(got) - reference.logits(TINY, weights, tokens)).max()
    assert 1e-6 < error < tolerance  # below the lower bound the pages would not be narrow at all


def test_pages_of_int8_equal_a_reference_that_rounds_keys_and_values_alike(monkeypatch):
    """Within a few numbers that lie so near to a half that float32 and float64 round them apart."""
    weights = reference.random_weights(TINY, seed=5)
    tokens = np.random.default_rng(6).integers(0, TINY.vocab_size, 30)
    exact = reference.logits(TINY, weights, tokens)

    def rounded(vectors):
        values, scales = quantize(vectors)
        return values * scales[..., None].astype(np.float64)

    attention = reference.causal_attention
    monkeypatch.setattr(reference, "causal_attention", lambda q, k, v: attention(q, rounded(k), rounded(v)))
    runner = make_runner(TINY, weights, [32], "int8")
    table = table_of(1, [4, 8])
    got = np.concatenate([runner.run(step(*row_tokens(1, s, tokens[s : s + 6]), table=table)) for s in range(0, 30, 6)])
    error = np.abs(got - reference.logits(TINY, weights, tokens)).max()
    assert error < 1e-2
    assert error < np.abs(got - exact).max() / 5


@LAYERS
def test_more_table_changes_than_a_step_takes_are_written_before_it(formats):
    weights = reference.random_weights(TINY, seed=7)
    runner = make_runner(TINY, weights, [1, 8], formats=formats)
    tokens = [9, 8, 7]
    table = [(row, column, 1 + row) for row in range(ROWS) for column in range(BLOCKS_PER_ROW)]
    assert len(table) > 2 * runner.table_entries_per_step - BLOCKS_PER_ROW
    got = runner.run(step(*row_tokens(5, 0, tokens), table=table))
    np.testing.assert_allclose(got, reference.logits(TINY, weights, tokens), rtol=0, atol=1e-4)
    np.testing.assert_array_equal(runner.kv_pool.block_table.asnumpy()[:, 0], np.arange(ROWS) + 1)


@LAYERS
def test_copied_pages_serve_another_row_and_later_writes_stay_apart(formats):
    weights = reference.random_weights(TINY, seed=8)
    runner = make_runner(TINY, weights, [1, 32], formats=formats)
    tokens = [3, 1, 4, 1, 5, 9]
    runner.run(step(*row_tokens(0, 0, tokens), table=table_of(0, [6])))
    runner.copy_blocks([(6, 13)])
    for row, block, token in ((0, 6, 20), (1, 13, 30)):
        got = runner.run(step((row, 6, token), table=table_of(row, [block])))
        np.testing.assert_allclose(got[0], reference.logits(TINY, weights, [*tokens, token])[-1], rtol=0, atol=1e-4)


@LAYERS
@pytest.mark.parametrize(
    "dtype", ["float32", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("float16", "bfloat16")), "int8"]
)
def test_pages_that_were_read_out_serve_again_elsewhere(dtype, formats):
    weights = reference.random_weights(TINY, seed=13)
    runner = make_runner(TINY, weights, [1, 32], dtype, formats)
    tokens = np.random.default_rng(14).integers(0, TINY.vocab_size, 33)
    runner.run(step(*row_tokens(0, 0, tokens[:32]), table=table_of(0, [6, 3, 1]), logits=[31]))
    stayed = runner.run(step((0, 32, int(tokens[32]))))
    pages = runner.read_pages([6, 3])
    np.testing.assert_array_equal(runner.read_pages([3])[0], pages[1])  # one page goes through a graph of its own
    nothing = -1 if dtype == "int8" else np.nan
    runner.write_pages([6, 3], [np.full_like(page, nothing) for page in pages])
    runner.write_pages([20, 7], pages)
    runner.write_pages([11], pages[1:])
    moved = runner.run(step((1, 32, int(tokens[32])), table=table_of(1, [20, 11, 2])))
    np.testing.assert_array_equal(moved, stayed)


@LAYERS
def test_nothing_compiles_after_warm_up(formats):
    runner = make_runner(TINY, reference.random_weights(TINY, seed=9), [1, 2, 8], formats=formats)
    runner.warm_up(iter)
    for length in (1, 2, 3, 8):
        runner.run(step(*row_tokens(0, 0, range(length)), table=table_of(0, [1]), logits=[length - 1]))
    runner.copy_blocks([(1, 2)] * 40)
    for blocks in ([1], [1, 2], [1, 2] * 10):
        runner.write_pages(blocks, runner.read_pages(blocks))
    assert runner.num_compiles == 3 + 1 + 2 * 2  # steps; pages copied; one and several read and written
    assert runner.compiles_after_warmup == 0


def test_a_shape_that_slips_through_is_counted():
    runner = make_runner(TINY, reference.random_weights(TINY, seed=9), [1, 2])
    runner.warm_up(iter)
    runner.token_buckets = (1, 2, 4)
    runner.run(step(*row_tokens(0, 0, [1, 2, 3]), table=table_of(0, [1])))
    assert runner.compiles_after_warmup == 1


@pytest.mark.slow
def test_a_step_that_an_operator_refuses_says_why_and_the_next_one_runs():
    weights = reference.random_weights(TINY, seed=12)
    runner = make_runner(TINY, weights, [1, 4])
    runner.warm_up(iter)
    with pytest.raises(StepError, match=r"^reshape_and_cache: token 0: slot 1584 is outside \[-1, 384\)$"):
        runner.run(step(*row_tokens(0, 0, [1, 2]), table=table_of(0, [99])))
    got = runner.run(step(*row_tokens(0, 0, [1, 2]), table=table_of(0, [9])))
    np.testing.assert_allclose(got, reference.logits(TINY, weights, [1, 2]), rtol=0, atol=1e-4)
    assert runner.compiles_after_warmup == 1
    with pytest.raises(StepError, match=r"^copy_blocks: pair 0: source block 99 is outside \[0, 24\)$"):
        runner.copy_blocks([(99, 1)])
    runner.copy_blocks([(9, 1)])


@pytest.mark.slow
@LAYERS
def test_a_full_width_layer_of_llama_70b_equals_the_reference(formats):
    full = MODEL_CONFIGS["llama2-70b"]
    config = replace(full, num_hidden_layers=1, vocab_size=64)
    weights = reference.random_weights(config, seed=10)
    tokens = [5, 60, 33, 7]
    runner = make_runner(config, weights, [1, 4], formats=formats)
    got = [runner.run(step(*row_tokens(0, 0, tokens[:3]), table=table_of(0, [2])))]
    got.append(runner.run(step((0, 3, tokens[3]))))
    np.testing.assert_allclose(np.concatenate(got), reference.logits(config, weights, tokens), rtol=0, atol=1e-4)
