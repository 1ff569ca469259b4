"""Options of layers that LLaMA lacks: against float64, and a whole step bitwise as the operators of its parts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.custom_ops import layer_reference as reference
from tests.custom_ops.kernel_calls import OpRefusedError, assert_same_bits
from tests.custom_ops.layer_reference import assert_within, weight_of
from tests.custom_ops.layer_scenes import (
    ALL_FORMATS,
    EPSILON,
    FLOAT_FORMATS,
    make_feed_forward,
    make_layer_scene,
    make_norm_weight,
    make_step_scene,
)
from tests.custom_ops.test_layer_ops import check_attention_layer

OPTIONS = {
    "norms of heads": {"head_norms": (True, True)},
    "norm of queries": {"head_norms": (True, False)},
    "norm of keys": {"head_norms": (False, True)},
    "part of a head": {"rotary_dim": 6},
    "a pair of a head": {"rotary_dim": 2},
    "a second table": {"num_tables": 3, "rope_table": 1},
    "no rotation": {"num_tables": 2, "rope_table": -1},
    "no rotation, norms": {"rope_table": -1, "head_norms": (True, True)},
    "window of a token": {"window": 1},
    "window": {"window": 9},
    "window of pages": {"window": 33},
    "window beyond all": {"window": 2**40},
    "all": {"head_norms": (True, True), "num_tables": 2, "rope_table": 1, "rotary_dim": 8, "window": 20},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(("form", "head_dim"), [("float32", 20), ("bfloat16", 10), ("Q4_1", 32)])
def test_attention(kernels, form, head_dim, options):
    """Also of heads that are no whole vectors; prefill, a chunk, decode and padding in one call."""
    scene = make_layer_scene(
        np.random.default_rng(0), [40, 65, 16, 1], [40, 7, 1, 1], (form,) * 4, heads=6, kv_heads=3, head_dim=head_dim,
        padding=2, **options,
    )  # fmt: skip
    check_attention_layer(kernels, scene)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_attention_of_any_options(kernels, seed, data):
    contexts = data.draw(st.lists(st.integers(1, 70), min_size=1, max_size=3))
    num_tables, head_dim = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([2, 6, 16, 64, 80]))
    scene = make_layer_scene(
        np.random.default_rng(seed),
        contexts,
        [data.draw(st.integers(1, context)) for context in contexts],
        (data.draw(st.sampled_from(FLOAT_FORMATS)),) * 4,
        heads=4,
        head_dim=head_dim,
        head_norms=data.draw(st.tuples(st.booleans(), st.booleans())),
        rotary_dim=2 * data.draw(st.integers(1, head_dim // 2)),
        num_tables=num_tables,
        rope_table=data.draw(st.integers(-1, num_tables - 1)),
        window=data.draw(st.integers(0, 80)),
    )
    check_attention_layer(kernels, scene)


@pytest.mark.parametrize("form", ALL_FORMATS)
def test_feed_forward_with_gelu(kernels, form):
    rng = np.random.default_rng(1)
    for num_tokens, columns, width in ((1, 32, 64), (7, 64, 96), (97, 32, 32), (9, 64, 1568)):
        x, norm_weight, weights = make_feed_forward(rng, num_tokens, columns, width, (form,) * 3, (True, False, True))
        output = kernels.feed_forward_layer(x, norm_weight, weights, EPSILON, activation=1)
        assert_within(output, reference.feed_forward(x, norm_weight, weights, EPSILON, "gelu_pytorch_tanh").plus(x))


def test_gelu_of_gates_of_any_size(kernels):
    """Where its cube or the exponential overflows, vanishes, or is 1."""
    sizes = np.concatenate([[0.0], 10.0 ** np.arange(-38, 39, 4), np.linspace(0.1, 12, 40)])
    gates = np.concatenate([sizes, -sizes]).astype(np.float32)
    gate, up = weight_of(gates[:, None], "float32"), weight_of(np.ones((len(gates), 1), np.float32), "float32")
    x, ones = np.ones((1, 1), np.float32), np.ones(1, np.float32)
    for index in range(len(gates)):
        down = weight_of(np.eye(len(gates), dtype=np.float32)[index : index + 1], "float32")
        output = kernels.feed_forward_layer(x, ones, (gate, up, down), 0.0, False, activation=1)
        expected = reference.feed_forward(x, ones, (gate, up, down), 0.0, "gelu_pytorch_tanh")
        assert_within(output, expected)


SCALES = {"embedding_scale": 7.5, "residual_scale": 0.22, "logit_scale": 0.0625}
NORMS = {"attention": (True, False), "feed forward": (False, True), "both": (True, True), "none": (False, False)}


def make_scene_with_options(rng, formats=("float32", "Q4_1", "bfloat16"), norms=(True, True), contexts=(40, 65, 16, 1)):
    """A layer of each format: with windows, rotations and norms of heads of their own, scales and GELU for all.

    norms: whether there are norms of what attention puts out, and of what the feed forward does.
    """
    scene = make_step_scene(
        rng, list(contexts), [min(7, context) for context in contexts],
        [((form,) * 4, (form,) * 3) for form in formats], has_biases=True, padding=3, num_tables=2, rotary_dim=12,
        head_norms=(True, True),
    )  # fmt: skip
    of_layers = [{"window": 9}, {"rope_table": 1, "head_norms": (None, None)}, {"window": 20, "rope_table": -1}]
    output_norms = [
        [make_norm_weight(rng, len(scene.norm_weight)) if there else None for there in norms] for _ in formats
    ]
    return replace(
        scene,
        attentions=[
            replace(attention, **own, output_norm=norm)
            for attention, own, (norm, _) in zip(scene.attentions, of_layers, output_norms)
        ],
        feed_forwards=[replace(half, output_norm=norm) for half, (_, norm) in zip(scene.feed_forwards, output_norms)],
        activation="gelu_pytorch_tanh",
        **SCALES,
    )


def half_expected(half, output_norm, before):
    """x plus what half a layer makes of it."""
    out = half if output_norm is None else reference.normalized(half, output_norm, EPSILON)
    return out.times(SCALES["residual_scale"]).plus(before)


@pytest.mark.parametrize("norms", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("formats", [("float32",) * 3, ("int8", "Q4_0", "Q4_1"), ("float32", "Q4_1", "bfloat16")])
def test_a_step_is_bitwise_the_operators_of_its_parts(kernels, formats, norms):
    """Of which those of the last layer, given what they were given, are near float64."""
    together = make_scene_with_options(np.random.default_rng(2), formats, norms)
    apart = together.on_copied_pages()
    logits = together.run(kernels)
    expected, given = apart.run_apart(kernels)
    assert_same_bits(logits, expected[:-3])
    for one, two in zip(together.attentions, apart.attentions):
        assert_same_bits(one.key_cache, two.key_cache)
        assert_same_bits(one.value_cache, two.value_cache)
    before, between, after = given[-3:]
    attention, feed_forward = replace(together.attentions[-1], x=before), together.feed_forwards[-1]
    assert_within(between, half_expected(attention.expected(), attention.output_norm, before))
    half = reference.feed_forward(between, feed_forward.norm_weight, feed_forward.weights, EPSILON, together.activation)
    assert_within(after, half_expected(half, feed_forward.output_norm, between))


@pytest.mark.parametrize("name", SCALES)
def test_a_scale_of_one_changes_no_bit_and_another_does(kernels, name):
    scene = replace(
        make_scene_with_options(np.random.default_rng(3)), embedding_scale=1, residual_scale=1, logit_scale=1
    )
    plain, apart = scene.on_copied_pages().run(kernels), scene.on_copied_pages().run_apart(kernels)[0]
    assert_same_bits(plain, apart[:-3])
    assert not np.allclose(replace(scene.on_copied_pages(), **{name: SCALES[name]}).run(kernels), plain, rtol=1e-3)


@pytest.mark.parametrize("formats", [("float32",) * 3, ("Q4_1", "int8", "bfloat16")])
def test_a_token_has_the_same_bits_in_any_chunk_and_for_any_threads(kernels, set_threads, formats):
    together = make_scene_with_options(np.random.default_rng(4), formats, contexts=(90, 40, 65, 5))
    fresh = together.on_copied_pages()
    set_threads(1)
    whole = together.run(kernels)
    num_tokens = len(whole)
    for threads in (1, 2, 5):
        set_threads(threads)
        for chunk in (1, 5, num_tokens):
            scene = fresh.on_copied_pages()
            parts = [scene.only(slice(i, min(i + chunk, num_tokens))).run(kernels) for i in range(0, num_tokens, chunk)]
            assert_same_bits(np.concatenate(parts), whole, f"{threads} threads, chunks of {chunk}")
            for one, two in zip(scene.attentions, together.attentions):
                assert_same_bits(one.key_cache, two.key_cache)


def test_so_many_tokens_that_threads_share_what_is_done_to_each(kernels, set_threads):
    scene = make_scene_with_options(np.random.default_rng(6), ("float32",), contexts=[7] * 210)
    alone = scene.on_copied_pages()
    set_threads(1)
    parts = [alone.only(slice(i, i + 70)).run(kernels) for i in range(0, 1470, 70)]
    set_threads(3)
    together = scene.run(kernels)
    assert len(scene.input_ids) * len(scene.norm_weight) > 128 * 1024
    assert_same_bits(together, np.concatenate(parts))


def test_blocks_that_are_behind_the_windows_of_all_layers_are_not_looked_at(kernels):
    """One layer without a window, or with a longer one, looks at them."""
    scene = make_step_scene(np.random.default_rng(5), [60], [1], [(("float32",) * 4, ("float32",) * 3)] * 2)

    def run(*windows):
        attentions = [replace(a, window=w) for a, w in zip(scene.attentions, windows, strict=True)]
        return replace(scene, attentions=attentions).on_copied_pages().run(kernels)

    expected = run(12, 28)
    scene.attentions[0].block_table[0, :2] = 99  # positions 0 to 31, of which 59 sees those from 32 on
    assert_same_bits(run(12, 28), expected)
    for windows in ((12, 29), (29, 12), (12, 0), (0, 12)):
        with pytest.raises(OpRefusedError, match="block 99 at block_table"):
            run(*windows)
