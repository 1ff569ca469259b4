"""Inputs of the layer operators."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mindspore_paged.custom_ops.layer_roles import ACTIVATIONS
from tests.custom_ops import layer_reference as reference
from tests.custom_ops.attention_reference import make_scene
from tests.custom_ops.kernel_calls import attention_roles, feed_forward_roles
from tests.custom_ops.layer_reference import Bounded, Weight, make_weight, weight_of

EPSILON = 1e-5
FLOAT_FORMATS = ("float32", "float16", "bfloat16", "w16a16")
BLOCK_FORMATS = ("int8", "Q4_0", "Q4_1")
ALL_FORMATS = (*FLOAT_FORMATS, *BLOCK_FORMATS)


def make_tokens(rng, num_tokens: int, num_columns: int) -> np.ndarray:
    """float32 [T, K]: of very different sizes, with a few large numbers, 32 zeros in a row, and a token of zeros."""
    x = rng.normal(size=(num_tokens, num_columns)) * 2.0 ** rng.uniform(-4, 4, size=(num_tokens, 1))
    x[rng.random(x.shape) < 0.01] *= 30
    x[::3, 32:64] = 0
    x[3::11] = 0
    return x.astype(np.float32)


def make_norm_weight(rng, num_columns: int) -> np.ndarray:
    """float32 [K] around 1."""
    return (1 + 0.3 * rng.normal(size=num_columns)).astype(np.float32)


def make_feed_forward(
    rng, num_tokens: int, columns: int, width: int, formats: Sequence[str], biases: Sequence[bool] = (False,) * 3
):
    """x, norm_weight and the weights gate, up and down in three formats; biases: which of them have one."""
    gate, up = (make_weight(rng, form, width, columns, there) for form, there in zip(formats[:2], biases))
    down = make_weight(rng, formats[2], columns, width, biases[2])
    return make_tokens(rng, num_tokens, columns), make_norm_weight(rng, columns), (gate, up, down)


@dataclass
class LayerScene:
    """The inputs of one attention_layer call; slots of the pages that hold nothing yet are NaN."""

    x: np.ndarray
    norm_weight: np.ndarray
    weights: tuple[Weight, Weight, Weight, Weight]
    cos_tables: np.ndarray
    sin_tables: np.ndarray
    key_cache: np.ndarray
    value_cache: np.ndarray
    block_table: np.ndarray
    positions: np.ndarray
    rows: np.ndarray
    scale: float
    head_norms: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    output_norm: np.ndarray | None = None
    window: int = 0
    rope_table: int = 0

    def only(self, tokens) -> "LayerScene":
        """Some of the tokens, in that order, on the same pages."""
        return replace(self, x=self.x[tokens], positions=self.positions[tokens], rows=self.rows[tokens])

    def on_copied_pages(self) -> "LayerScene":
        """The same with pages of its own."""
        return replace(self, key_cache=self.key_cache.copy(), value_cache=self.value_cache.copy())

    def run(self, kernels, adds_residual=True) -> np.ndarray:
        """Call the operator, which writes the pages."""
        places = (self.cos_tables, self.sin_tables, self.key_cache, self.value_cache, self.block_table, self.positions)
        return kernels.attention_layer(
            self.x, self.norm_weight, self.weights, self.head_norms, (*places, self.rows), EPSILON, self.scale,
            adds_residual, self.window, self.rope_table,
        )  # fmt: skip

    def slots(self) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """The tokens that are no padding, and where in the pages each belongs."""
        tokens = np.flatnonzero(self.rows >= 0)
        block_size, positions = self.key_cache.shape[1], self.positions[tokens]
        return tokens, (self.block_table[self.rows[tokens], positions // block_size], positions % block_size)

    def projected(self) -> tuple[Bounded, Bounded, Bounded]:
        """Queries [T, H, D], keys and values [T, K, D], normalized and rotated."""
        inputs = reference.normalized(self.x, self.norm_weight, EPSILON)
        head_dim = self.key_cache.shape[3]
        query, key, value = (
            reference.product(inputs, weight).reshape(len(self.x), -1, head_dim) for weight in self.weights[:3]
        )
        query, key = (
            reference.normalized(heads, norm, EPSILON) if norm is not None else heads
            for heads, norm in zip((query, key), self.head_norms)
        )
        if self.rope_table < 0:
            return query, key, value
        cos, sin = (tables[self.rope_table, self.positions] for tables in (self.cos_tables, self.sin_tables))
        return reference.rotated(query, cos, sin), reference.rotated(key, cos, sin), value

    def expected(self) -> Bounded:
        """The result without x, given what the pages hold after the call."""
        query, _, _ = self.projected()
        pages = (self.key_cache, self.value_cache, self.block_table)
        attended = reference.attended(query, *pages, self.rows, self.positions, self.scale, self.window)
        return reference.product(attended.reshape(len(self.x), -1), self.weights[3])


def make_layer_scene(
    rng, contexts, new_tokens, formats, *, heads=4, kv_heads=2, head_dim=16, columns=96, cache_dtype=np.float32,
    padding=0, biases=(False,) * 4, head_norms=(False, False), rotary_dim=None, num_tables=1, window=0, rope_table=0,
):  # fmt: skip
    """Row r has contexts[r] tokens, the last new_tokens[r] of which this call brings; then as many of padding.

    head_norms: whether queries and keys have one.
    """
    pages = make_scene(
        rng, contexts, new_tokens=new_tokens, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
        cache_dtype=cache_dtype,
    )  # fmt: skip
    shapes = [(heads, columns), (kv_heads, columns), (kv_heads, columns)]
    query, key, value = (
        make_weight(rng, form, n * head_dim, k, there) for form, (n, k), there in zip(formats, shapes, biases)
    )
    out = make_weight(rng, formats[3], columns, heads * head_dim, biases[3])
    num_tokens = sum(new_tokens) + padding
    longest = max(contexts) + 2
    scene = LayerScene(
        make_tokens(rng, num_tokens, columns),
        make_norm_weight(rng, columns),
        (query, key, value, out),
        # No angle's cosine and sine, and another number in each half: so that none can stand for another.
        *rng.uniform(-1, 1, size=(2, num_tables, longest, 1, rotary_dim or head_dim)).astype(np.float32),
        pages.key_cache,
        pages.value_cache,
        pages.block_table,
        np.append(pages.context_lens - 1, np.zeros(padding)).astype(np.int32),
        np.append(pages.rows, np.full(padding, -1)).astype(np.int32),
        head_dim**-0.5,
        tuple(make_norm_weight(rng, head_dim) if there else None for there in head_norms),
        None,
        window,
        rope_table,
    )
    _, new_slots = scene.slots()
    for cache in (scene.key_cache, scene.value_cache):
        cache[new_slots] = np.nan
    return scene


@dataclass
class FeedForward:
    """The weights of a layer's feed forward half."""

    norm_weight: np.ndarray
    weights: tuple[Weight, Weight, Weight]
    output_norm: np.ndarray | None = None


@dataclass
class StepScene:
    """The inputs of one decoder_step call: of each layer its attention, all with equal places, and its feed forward.

    What the attentions have as x is what the table has for input_ids.
    """

    input_ids: np.ndarray
    logit_indices: np.ndarray
    table: Weight
    norm_weight: np.ndarray
    head: Weight
    attentions: list[LayerScene]
    feed_forwards: list[FeedForward]
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    activation: str = "silu"

    def on_copied_pages(self) -> "StepScene":
        """The same with pages of its own."""
        return replace(self, attentions=[attention.on_copied_pages() for attention in self.attentions])

    def only(self, tokens) -> "StepScene":
        """Some of the tokens, in that order, on the same pages, with the logits of all of them."""
        attentions = [attention.only(tokens) for attention in self.attentions]
        input_ids = self.input_ids[tokens]
        wanted = np.where(attentions[0].rows < 0, -1, np.arange(len(input_ids))).astype(np.int32)
        return replace(self, input_ids=input_ids, logit_indices=wanted, attentions=attentions)

    def run(self, kernels, entries=(), adapters=None) -> np.ndarray:
        """Call the operator, which writes the pages, and first the entries (row, column, block) of the table.

        adapters: as `decoder_step` takes them.
        """
        first = self.attentions[0]
        table_entries = np.array(entries, np.int32).reshape(-1, 3)
        layers = [
            (
                attention_roles(a.norm_weight, a.weights, a.head_norms, a.output_norm)
                + feed_forward_roles(f.norm_weight, f.weights, f.output_norm),
                (a.key_cache, a.value_cache),
                (a.window, a.rope_table),
            )
            for a, f in zip(self.attentions, self.feed_forwards, strict=True)
        ]
        return kernels.decoder_step(
            (self.input_ids, first.positions, first.rows, self.logit_indices),
            (first.cos_tables, first.sin_tables, first.block_table),
            (np.ascontiguousarray(table_entries[:, :2]), np.ascontiguousarray(table_entries[:, 2])),
            (self.table, self.norm_weight, self.head),
            layers,
            EPSILON,
            first.scale,
            (self.embedding_scale, self.residual_scale, self.logit_scale, ACTIVATIONS.index(self.activation)),
            adapters,
        )

    def run_apart(self, kernels) -> tuple[np.ndarray, list[np.ndarray]]:
        """By an operator for each part: logits of all tokens, and what each part of a layer was given, and the head."""
        x = kernels.embedding(self.input_ids, self.table, len(self.norm_weight)) * np.float32(self.embedding_scale)
        given = []
        for a, f in zip(self.attentions, self.feed_forwards, strict=True):
            given.append(x)
            half = replace(a, x=x).run(kernels, adds_residual=False)
            x = x + normalized_alone(kernels, half, a.output_norm) * np.float32(self.residual_scale)
            given.append(x)
            activation = ACTIVATIONS.index(self.activation)
            half = kernels.feed_forward_layer(x, f.norm_weight, f.weights, EPSILON, False, activation)
            x = x + normalized_alone(kernels, half, f.output_norm) * np.float32(self.residual_scale)
        logits = kernels.norm_linear(x, self.norm_weight, self.head, EPSILON)
        return logits * np.float32(self.logit_scale), [*given, x]


def normalized_alone(kernels, x, norm_weight) -> np.ndarray:
    """A norm by the operator that has one: times an identity, which changes no bit of a number."""
    if norm_weight is None:
        return x
    return kernels.norm_linear(x, norm_weight, weight_of(np.eye(x.shape[1], dtype=np.float32), "float32"), EPSILON)


def make_step_scene(
    rng, contexts, new_tokens, formats, ends=("float32", "float32"), has_biases=False, **shape
) -> StepScene:
    """A layer for each of `formats`, those of its attention and of its feed forward of 160 columns; ends: table, head.

    A vocabulary of 50 for lookup, 37 for the head; logits of all tokens that are no padding.
    """
    shape |= {"biases": (has_biases,) * 4}
    attentions = [make_layer_scene(rng, contexts, new_tokens, of_attention, **shape) for of_attention, _ in formats]
    first = attentions[0]
    shared = {name: getattr(first, name) for name in ("cos_tables", "sin_tables", "block_table", "positions", "rows")}
    _, new_slots = first.slots()
    for attention in attentions[1:]:  # its NaN stand where its own block table had them
        for cache in (attention.key_cache, attention.value_cache):
            cache[...] = rng.normal(size=cache.shape)
            cache[new_slots] = np.nan
    columns = first.x.shape[1]
    feed_forwards = [make_feed_forward(rng, 1, columns, 160, of_mlp, (has_biases,) * 3)[1:] for _, of_mlp in formats]
    return StepScene(
        rng.integers(0, 50, len(first.rows)).astype(np.int32),
        np.flatnonzero(first.rows >= 0).astype(np.int32),
        make_weight(rng, ends[0], 50, columns),
        make_norm_weight(rng, columns),
        make_weight(rng, ends[1], 37, columns),
        [replace(attention, **shared) for attention in attentions],
        [FeedForward(*parts) for parts in feed_forwards],
    )
