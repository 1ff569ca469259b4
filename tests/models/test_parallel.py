"""A model cut over ranks, all of them in one process and one graph, against the float64 reference.

The sums over ranks are written out here; on a real group MindSpore's collectives take their place.
"""

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindspore_paged.engine.building.loading import set_weights
from mindspore_paged.engine.execution.kv_pool import KVPagePool
from mindspore_paged.engine.execution.model_runner import ModelRunner
from mindspore_paged.formats.weight_format import FLOAT32
from mindspore_paged.models.model_step import ModelStep
from mindspore_paged.models.parallel import OneRank
from mindspore_paged.models.registry import MODEL_CONFIGS
from mindspore_paged.tensor_parallel import TensorParallel
from mindspore_paged.weights.checkpoint import open_checkpoint
from tests.models.families import FAMILIES, PROMPT, write_folder
from tests.models.test_llama import ALL_BIASES, BLOCK_SIZE, BLOCKS_PER_ROW, NUM_BLOCKS, ROWS, row_tokens, step, table_of
from tests.reference import llama as reference

TINY = MODEL_CONFIGS["tiny"]
DEMO_HEADS = replace(TINY, num_attention_heads=9, num_key_value_heads=3, intermediate_size=96, vocab_size=250)
LLAMA_70B_HEADS = replace(
    TINY,
    num_attention_heads=64,
    num_key_value_heads=8,
    head_dim=16,
    intermediate_size=64,
    num_hidden_layers=4,
    tie_word_embeddings=False,
)
CUTS = {
    "9 heads on 3": (DEMO_HEADS, 3),
    "64 heads on 2": (LLAMA_70B_HEADS, 2),
    "64 heads on 8": (LLAMA_70B_HEADS, 8),
    "biases on 2": (replace(TINY, biases=ALL_BIASES), 2),
    "biases on 4, 2 KV heads": (replace(TINY, biases=ALL_BIASES), 4),
    "8 KV heads on 16": (replace(LLAMA_70B_HEADS, num_hidden_layers=2), 16),
}


class AllRanks(nn.Cell):
    """ModelStep of every rank, each over pages of its own, in step: the sums that a group would exchange."""

    adapters = None

    def __init__(self, models):
        super().__init__()
        self.ranks = nn.CellList([model.execution for model in models])
        self.first = self.ranks[0]
        self.num_layers = len(self.first.layers)
        self.vocab_size = self.first.head.vocab_size
        self.residual_scale = self.first.layers[0].residual_scale

    def construct(self, input_ids, positions, rows, logit_indices, table_indices, table_values):
        """As ModelStep."""
        steps, x = (), 0.0
        for its in self.ranks:
            block_table = ops.depend(its.block_table, its.write_table(its.block_table, table_indices, table_values))
            steps += (its.positions(block_table, positions, rows, None),)
            x = x + its.embed_tokens(input_ids)
        x = x * self.first.embedding_scale
        for index in range(self.num_layers):
            attended, fed = 0.0, 0.0
            for its, its_step in zip(self.ranks, steps):
                caches = its.key_caches[index], its.value_caches[index]
                attended = attended + self.attention_of(its.layers[index], x, caches, its_step)
            x = x + self.first.layers[index].attention_output_norm(attended) * self.residual_scale
            for its in self.ranks:
                fed = fed + self.mlp_of(its.layers[index], x)
            x = x + self.first.layers[index].mlp_output_norm(fed) * self.residual_scale
        columns = ()
        for its in self.ranks:
            columns += (its.head.rows(its.gather(x, ops.maximum(logit_indices, 0), 0)),)
        return ops.concat(columns, 1)[:, : self.vocab_size] * self.first.logit_scale

    def attention_of(self, layer, x, caches, its_step):
        """A rank's part of the sum."""
        return layer.attention(layer.attention_norm(x), caches[0], caches[1], its_step)

    def mlp_of(self, layer, x):
        """A rank's part of the sum."""
        return layer.mlp(layer.mlp_norm(x), ())


class AllFusedRanks(AllRanks):
    """The same of operators that have the norm."""

    def attention_of(self, layer, x, caches, its_step):
        return layer.attention(x, caches[0], caches[1], its_step)

    def mlp_of(self, layer, x):
        return layer.mlp(x)


class AloneAmongRanks(OneRank):
    """A rank of several that is given nothing of the others."""


def cut(tensor, part):
    """One rank's part of a whole tensor, filled up with zeros."""
    if part is None:
        return tensor
    taken = np.take(tensor, np.arange(part.start, part.stop), part.axis)
    fill = [(0, 0)] * tensor.ndim
    fill[part.axis] = (0, part.length - taken.shape[part.axis])
    return np.pad(taken, fill)


def make_rank(config, weights, parallel, formats=None):
    share = parallel.share(config)
    pool = KVPagePool.allocate(
        config.num_hidden_layers, NUM_BLOCKS, BLOCK_SIZE, share.num_key_value_heads, config.head_dim, "float32",
        (ROWS, BLOCKS_PER_ROW),
    )  # fmt: skip
    for place, cache in enumerate((*pool.key_caches, *pool.value_caches, pool.block_table)):
        cache.name = f"rank{parallel.rank}.{place}"
    for cache in (*pool.key_caches, *pool.value_caches):
        cache.set_data(Tensor(np.full(cache.shape, np.nan, np.float32), cache.dtype))
    model = ModelStep(
        config, pool, BLOCKS_PER_ROW * BLOCK_SIZE, parallel=parallel, ranks=AloneAmongRanks(), formats=formats
    )
    cuts = parallel.cuts(config)
    set_weights(model, lambda name: cut(weights[name], cuts.of(name)))
    return model, pool


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize(
    ("config", "size"),
    [pytest.param(*cut, id=name, marks=pytest.mark.slow if cut[1] > 4 else ()) for name, cut in CUTS.items()],
)
def test_all_ranks_together_compute_the_model(config, size, fused):
    weights = reference.random_weights(config, seed=1)
    tokens = np.random.default_rng(2).integers(0, config.vocab_size, 22)
    got = run_all_ranks(config, weights, size, fused, tokens)
    np.testing.assert_allclose(got, reference.logits(config, weights, tokens), rtol=0, atol=1e-4)


AT_ONCE = ("qwen2, tied", "granite, biases", "phi3, as Phi-4-mini", "gemma3_text, as 4b")
"""All options of families among them; the others are for the slow tier."""


@pytest.mark.parametrize("fused", [pytest.param(False, marks=pytest.mark.slow), True], ids=["plain", "fused"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in AT_ONCE else pytest.mark.slow) for name in FAMILIES]
)
def test_two_ranks_compute_every_family(tmp_path, name, fused):
    """Logits of the first step, against transformers."""
    checkpoint = open_checkpoint(write_folder(tmp_path, name))
    weights = {each: checkpoint.read(each) for each in checkpoint.names()}
    got = run_all_ranks(checkpoint.model_config.for_length(64), weights, 2, fused, np.array(PROMPT))
    np.testing.assert_allclose(got[-1], FAMILIES[name]["first"], rtol=0, atol=1e-3)


def run_all_ranks(config, weights, size, fused, tokens):
    """Logits of each token, after chunks of the prompt, of which the first comes alone."""
    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})
    formats = (lambda _: FLOAT32) if fused else None
    ranks = [make_rank(config, weights, TensorParallel(rank, size), formats) for rank in range(size)]
    for rank, (model, _) in enumerate(ranks):
        for name, place in model.weight_places().items():
            place.parameter.name = f"rank{rank}.{name}"
    everyone = (AllFusedRanks if fused else AllRanks)([model for model, _ in ranks])
    everyone.weight_places, everyone.adapters = dict, None
    runner = ModelRunner(everyone, ranks[0][1], [8])
    num_in_chunks = (len(tokens) - 1) // ROWS * ROWS
    chunks = [*tokens[:num_in_chunks].reshape(-1, ROWS), *([token] for token in tokens[num_in_chunks:])]
    got, done = [], 0
    for part in chunks:
        table = table_of(2, [17, 3, 9][: -(-len(tokens) // BLOCK_SIZE)]) if done == 0 else ()
        got.append(runner.run(step(*row_tokens(2, done, part), table=table)))
        done += len(part)
    return np.concatenate(got)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_bytes_of_a_rank(size):
    """Weights fall as 1 / ranks, but for the norms and KV heads that neighbours share; pages as 1 / min(ranks, K)."""
    config = LLAMA_70B_HEADS
    weights = reference.random_weights(config, seed=1)
    model, pool = make_rank(config, weights, TensorParallel(size - 1, size))
    taken = {name: place.nbytes for name, place in model.weight_places().items()}
    whole = {name: weights[name].nbytes for name in taken}
    norms = [name for name in taken if "norm" in name]
    shared = [name for name in taken if "k_proj" in name or "v_proj" in name]
    assert all(taken[name] == whole[name] for name in norms)
    assert all(taken[name] == whole[name] // min(size, 8) for name in shared)
    assert all(taken[name] == whole[name] // size for name in set(taken) - set(norms) - set(shared))
    assert pool.num_bytes == 2 * 4 * NUM_BLOCKS * BLOCK_SIZE * (8 // min(size, 8)) * 16 * 4
