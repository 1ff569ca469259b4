"""Adapters of low rank in decoder_step: as if a token's were merged into the weights, and nothing for who has none."""

from dataclasses import replace

import numpy as np
import pytest

from mindspore_paged.custom_ops.layer_roles import ADAPTED_ROLES
from tests.custom_ops.kernel_calls import OpRefusedError, assert_same_bits
from tests.custom_ops.layer_reference import weight_of
from tests.custom_ops.layer_scenes import ALL_FORMATS, make_step_scene

RANK = 8
NONE = -1
CONTEXTS, NEW_TOKENS = [3, 40, 18, 21], [3, 1, 18, 2]
ROWS = sum(NEW_TOKENS)
OPTIONS = {"embedding_scale": 1.5, "residual_scale": 0.7, "logit_scale": 2.0, "activation": "gelu_pytorch_tanh"}


def make_scene(rng, form="float32", columns=96, **shape):
    """Two layers; four sequences, of which some decode and some are in their prompts."""
    formats = [((form,) * 4, (form,) * 3)] * 2
    return make_step_scene(rng, CONTEXTS, NEW_TOKENS, formats, (form, form), columns=columns, **shape)


def shapes_of(scene):
    """Of each layer the rows and columns of ADAPTED_ROLES."""
    return [
        [weight.values.shape for weight in (*attention.weights, *mlp.weights)]
        for attention, mlp in zip(scene.attentions, scene.feed_forwards)
    ]


def make_adapters(rng, scene, number, rank=RANK):
    """Of each adapter, layer and role A [rank, columns] and B [rows, rank]."""
    return [
        [
            [
                (rng.normal(size=(rank, columns)) / np.sqrt(columns), rng.normal(size=(rows, rank)) / np.sqrt(rank))
                for rows, columns in shapes
            ]
            for shapes in shapes_of(scene)
        ]
        for _ in range(number)
    ]


def packed_adapters(adapters):
    """As the operator takes them: float32 [adapters, numbers]."""

    def in_lines(numbers):
        numbers = numbers.astype(np.float32).reshape(-1)
        return np.append(numbers, np.full(-len(numbers) % 16, np.nan, np.float32))

    def in_panels(up):
        rows, rank = up.shape
        filled = np.zeros((-(-rows // 16) * 16, rank))
        filled[:rows] = up
        return filled.reshape(-1, 16, rank).transpose(0, 2, 1)

    each = [
        np.concatenate([in_lines(part) for layer in adapter for a, b in layer for part in (a, in_panels(b))])
        for adapter in adapters
    ]
    return np.stack(each)


def merged(scene, adapter):
    """The scene with an adapter's products in its weights, all float32."""

    def with_product(weight, product):
        down, up = product
        return replace(weight_of((weight.values + up @ down).astype(np.float32), "float32"), bias=weight.bias)

    attentions, mlps = [], []
    for attention, mlp, products in zip(scene.attentions, scene.feed_forwards, adapter, strict=True):
        attentions.append(replace(attention, weights=tuple(map(with_product, attention.weights, products[:4]))))
        mlps.append(replace(mlp, weights=tuple(map(with_product, mlp.weights, products[4:]))))
    return replace(scene, attentions=attentions, feed_forwards=mlps).on_copied_pages()


def of_rows(rows, adapter_of_row):
    """Each token's adapter; padding has none."""
    return np.where(rows < 0, NONE, np.take(adapter_of_row, rows)).astype(np.int32)


def run_with(kernels, scene, numbers, packed):
    return scene.on_copied_pages().run(kernels, adapters=(numbers, packed, RANK))


@pytest.mark.parametrize("form", ALL_FORMATS)
@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["plain", "scaled"])
def test_each_token_has_its_own(kernels, form, options):
    """By float32 weights with the products in them. Blocks round activations, to a 65,000th; w16a16 to a 256th."""
    rng = np.random.default_rng(0)
    scene = replace(make_scene(rng, form, padding=2, has_biases=bool(options)), **options)
    adapters = make_adapters(rng, scene, 2)
    numbers = of_rows(scene.attentions[0].rows, [1, NONE, 0, 1])
    result = run_with(kernels, scene, numbers, packed_adapters(adapters))
    alone = scene.on_copied_pages().run(kernels)
    of_adapters = [merged(scene, adapter).run(kernels) for adapter in adapters]
    tolerance = {"w16a16": 0.05, "float32": 1e-5}.get(form, 2e-3) * np.std(alone)
    for token, number in enumerate(numbers[:ROWS]):
        if number == NONE:
            assert_same_bits(result[token], alone[token])
        else:
            np.testing.assert_allclose(result[token], of_adapters[number][token], rtol=0, atol=tolerance)
            assert np.abs(result[token] - alone[token]).max() > 3 * tolerance


def test_shapes_that_fill_no_line(kernels):
    """Columns that no vector divides; heads of 16 make 112 rows of q: seven panels."""
    rng = np.random.default_rng(1)
    scene = make_scene(rng, columns=97, heads=7, kv_heads=1)
    adapters = make_adapters(rng, scene, 1)
    numbers = np.zeros(ROWS, np.int32)
    result = run_with(kernels, scene, numbers, packed_adapters(adapters))
    np.testing.assert_allclose(result, merged(scene, adapters[0]).run(kernels), rtol=0, atol=1e-5 * np.std(result))


@pytest.mark.parametrize("form", ["float32", "Q4_0"])
def test_bits_do_not_depend_on_the_batch(kernels, set_threads, form):
    """Sequences in another order, beside others or none, by any number of threads."""
    rng = np.random.default_rng(2)
    scene = make_scene(rng, form)
    packed, rows = packed_adapters(make_adapters(rng, scene, 3)), scene.attentions[0].rows
    numbers = of_rows(rows, [2, 0, 1, 2])
    set_threads(1)
    whole = run_with(kernels, scene, numbers, packed)
    for threads in (1, 2, 5):
        set_threads(threads)
        for order in ([0], [1], [2], [3], [3, 1], [2, 0, 3, 1]):
            tokens = np.concatenate([np.flatnonzero(rows == row) for row in order])
            assert_same_bits(run_with(kernels, scene.only(tokens), numbers[tokens], packed), whole[tokens])


def test_nobody_has_one(kernels):
    rng = np.random.default_rng(3)
    scene = make_scene(rng)
    packed = np.full_like(packed_adapters(make_adapters(rng, scene, 1)), np.nan)
    result = run_with(kernels, scene, np.full(ROWS, NONE, np.int32), packed)
    assert_same_bits(result, scene.on_copied_pages().run(kernels))


def refused(kernels, numbers, packed, rank, message):
    scene = make_scene(np.random.default_rng(4))
    with pytest.raises(OpRefusedError) as refusal:
        scene.on_copied_pages().run(kernels, adapters=(numbers, packed, rank))
    assert str(refusal.value) == f"decoder_step: {message}"


def test_refusals(kernels):
    scene = make_scene(np.random.default_rng(4))
    packed = packed_adapters(make_adapters(np.random.default_rng(4), scene, 2))
    nobody = np.full(ROWS, NONE, np.int32)
    beyond, below = nobody.copy(), nobody.copy()
    beyond[5], below[7] = 2, -2
    size = packed.shape[1]
    refused(kernels, beyond, packed, RANK, "token 5: adapter 2 is outside [-1, 2)")
    refused(kernels, below, packed, RANK, "token 7: adapter -2 is outside [-1, 2)")
    refused(kernels, nobody, packed, 6, "adapter_rank is 6, it must be a multiple of 4, or 0, which is no adapters")
    refused(kernels, nobody, packed, -4, "adapter_rank is -4, it must be a multiple of 4, or 0, which is no adapters")
    refused(kernels, nobody[1:], packed, RANK, f"adapters has shape [{ROWS - 1}], it must be [{ROWS}]")
    for other in (packed[:, 16:].copy(), np.pad(packed, ((0, 0), (0, 16))), packed[:, :0].copy()):
        of_layer = "" if other.shape[1] > size else "layer 0: " if other.size == 0 else "layer 1: "
        refused(
            kernels, nobody, other, RANK,
            f"{of_layer}adapter_weights has {other.shape[1]} numbers an adapter, which the layers' shapes do not "
            "make up",
        )  # fmt: skip
    refused(kernels, nobody, packed[0], RANK, f"adapter_weights has shape [{size}], its rank must be 2")


def test_roles_are_those_of_the_operator():
    assert ADAPTED_ROLES == ("q", "k", "v", "o", "gate", "up", "down")
