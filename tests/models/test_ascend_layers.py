"""Layers of few launches on the emulated chip: their weights, and whole models against other executions."""

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindspore_paged.engine.building.loading import set_weights
from mindspore_paged.engine.execution.kv_pool import KVPagePool
from mindspore_paged.engine.execution.model_runner import ModelRunner
from mindspore_paged.models.executions.ascend_layers import AscendLayers
from mindspore_paged.models.model_step import ModelStep
from mindspore_paged.models.parallel import ONE_RANK
from mindspore_paged.models.registry import MODEL_CONFIGS, spec_of
from mindspore_paged.tensor_parallel import WHOLE, TensorParallel
from mindspore_paged.weights.checkpoint import open_checkpoint
from tests.e2e.models import make_llm
from tests.models.families import FAMILIES, PROMPT, answer_of, check_near, sections_of, write_folder
from tests.models.test_llama import ALL_BIASES, BLOCK_SIZE, BLOCKS_PER_ROW, NUM_BLOCKS, ROWS, row_tokens, step, table_of
from tests.models.test_parallel import AloneAmongRanks, cut

TINY = MODEL_CONFIGS["tiny"]
EMULATED = {"cache": {"kv_cache_dtype": "float16"}, "runtime": {"ops_backend": "ascend_emulator"}}
FALLS_BACK = ("phi3, as Phi-4-mini",)
"""Of 12 numbers of a head that are rotated."""


def make(config, weights, parallel=WHOLE, ranks=ONE_RANK, dtype=ms.float32):
    """A model with pages of float16 that are NaN where nothing was written, and its pool."""
    share = parallel.share(config)
    pool = KVPagePool.allocate(
        config.num_hidden_layers, NUM_BLOCKS, BLOCK_SIZE, share.num_key_value_heads, config.head_dim, "float16",
        (ROWS, BLOCKS_PER_ROW), backend="ascend_emulator",
    )  # fmt: skip
    for place, cache in enumerate((*pool.key_caches, *pool.value_caches, pool.block_table)):
        cache.name = f"rank{parallel.rank}.{place}"
    for cache in (*pool.key_caches, *pool.value_caches):
        cache.set_data(Tensor(np.full(cache.shape, np.nan, np.float16), cache.dtype))
    model = ModelStep(
        config, pool, BLOCKS_PER_ROW * BLOCK_SIZE, dtype, "ascend_emulator", parallel=parallel, ranks=ranks,
        is_fused=True,
    )  # fmt: skip
    cuts = parallel.cuts(config)
    set_weights(model, lambda name: cut(weights[name], cuts.of(name)).astype(model.format_of(name).dtype))
    return model, pool


def random_weights(config):
    """By Hugging Face's names, every option's too."""
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in spec_of(config).shapes(config).items()}


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize(
    "config",
    [TINY, replace(TINY, biases=ALL_BIASES, qk_norm=True), replace(TINY, biases=("k_proj", "up_proj"))],
    ids=["plain", "all", "some"],
)
def test_every_weight_is_there_on_its_rank(config, size):
    """And what begins at an offset is found there from a device, too."""
    weights = random_weights(config)
    for rank in range(size):
        parallel = TensorParallel(rank, size)
        model, _ = make(config, weights, parallel, AloneAmongRanks())
        places = model.weight_places()
        assert set(places) == set(weights)
        for name, place in places.items():
            expected = cut(weights[name], parallel.cuts(config).of(name))
            np.testing.assert_array_equal(held(place), expected, name)
            for on_host in (False, True):
                assert place.beginning(5, on_host) == expected.reshape(-1)[:5].tobytes()


@pytest.mark.parametrize(
    "together",
    [
        ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
        ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
        ("mlp.gate_proj.bias", "mlp.up_proj.bias"),
    ],
    ids=" and ".join,
)
def test_rows_stand_behind_each_other(together):
    config = replace(TINY, biases=ALL_BIASES)
    weights = random_weights(config)
    places = make(config, weights)[0].weight_places()
    names = [f"model.layers.1.{name}" for name in together]
    parameter = places[names[0]].parameter
    assert all(places[name].parameter is parameter for name in names)
    np.testing.assert_array_equal(parameter.asnumpy(), np.concatenate([weights[name] for name in names]))


def test_what_a_layer_lacks_beside_what_it_has_is_zeros():
    config = replace(TINY, biases=("k_proj",))
    weights = random_weights(config)
    name = "model.layers.0.self_attn.k_proj.bias"
    keys = config.num_key_value_heads * config.head_dim
    queries = config.num_attention_heads * config.head_dim
    bias = make(config, weights)[0].weight_places()[name].parameter.asnumpy()
    np.testing.assert_array_equal(bias, np.concatenate([np.zeros(queries), weights[name], np.zeros(keys)]))


def test_nothing_is_held_twice():
    weights = random_weights(TINY)
    model, pool = make(TINY, weights)
    parameters = {id(each): each.nbytes for each in model.get_parameters()}
    of_pages = {id(each): each.nbytes for each in (*pool.key_caches, *pool.value_caches, pool.block_table)}
    assert sum(parameters.values()) == sum(of_pages.values()) + sum(each.nbytes for each in weights.values())


class AllRanks(nn.Cell):
    """AscendLayers of every rank, each with a residual stream and pages of its own, and the sums of a group."""

    def __init__(self, models):
        super().__init__()
        self.ranks = nn.CellList([model.execution for model in models])
        self.first = self.ranks[0]
        self.num_layers = len(self.first.layers)
        self.vocab_size = self.first.head.vocab_size
        # Another number for each rank: streams that are equal in the graph would become one.
        self.lowest = tuple(-1e30 * (1 + rank) for rank in range(len(models)))

    def construct(self, input_ids, positions, rows, logit_indices, table_indices, table_values):
        """As ModelStep."""
        steps, x = (), 0.0
        for its in self.ranks:
            block_table = ops.depend(its.block_table, its.write_table(its.block_table, table_indices, table_values))
            steps += (its.positions(block_table, positions, rows, None),)
            x = x + its.embed_tokens(input_ids)
        x = x * self.first.embedding_scale
        streams = ()
        for lowest in self.lowest:
            streams += (ops.maximum(x, lowest),)
        fed = x
        for index in range(self.num_layers):
            attended, total = 0.0, 0.0
            for its, its_x, its_step in zip(self.ranks, streams, steps):
                caches = its.key_caches[index], its.value_caches[index]
                attended = attended + its.layers[index].attend(its_x, fed, caches[0], caches[1], its_step)
            for its, its_x in zip(self.ranks, streams):
                total = total + its.layers[index].feed_forward(its_x, attended)
            fed = total
        columns, wanted = (), ops.maximum(logit_indices, 0)
        for its, its_x in zip(self.ranks, streams):
            its_x = ops.depend(its_x, fed)
            normed = its.last_norm(its.gather(its_x, wanted, 0), its.gather(fed, wanted, 0))
            columns += (its.head.rows(normed),)
        return ops.concat(columns, 1)[:, : self.vocab_size] * self.first.logit_scale


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama, biases", "qwen3, tied", "granite, biases", "gemma3_text, as 4b"])
def test_two_ranks_compute_a_family(tmp_path, name):
    """Logits of the first step, against transformers, after chunks of the prompt."""
    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})
    checkpoint = open_checkpoint(write_folder(tmp_path, name))
    config, tokens = checkpoint.model_config.for_length(64), np.array(PROMPT)
    weights = {each: checkpoint.read(each) for each in checkpoint.names()}
    ranks = [make(config, weights, TensorParallel(rank, 2), AloneAmongRanks()) for rank in range(2)]
    for rank, (model, _) in enumerate(ranks):
        for weight, place in model.weight_places().items():
            place.parameter.name = f"rank{rank}.{place.shared_as or weight}"
    everyone = AllRanks([model for model, _ in ranks])
    everyone.weight_places, everyone.adapters = dict, None
    runner, table, done = ModelRunner(everyone, ranks[0][1], [8]), table_of(2, [17, 3, 9]), 0
    while done < len(tokens):
        part = tokens[done : done + ROWS]
        got = runner.run(step(*row_tokens(2, done, part), table=table if done == 0 else ()))
        done += len(part)
    expected = np.array(FAMILIES[name]["first"])
    np.testing.assert_allclose(got[-1], expected, rtol=0, atol=2e-2 * np.std(expected))


def held(place):
    """A weight as its Parameter has it."""
    return place.within(place.parameter.asnumpy().reshape(-1).view(np.uint8))


def execution_of(llm):
    return llm.engine.runner.model.execution


def test_a_model_of_many_options(tmp_path):
    """Gemma 3: norms of heads and behind halves, GeGLU, windows, two bases; against transformers."""
    name = "gemma3_text, as 4b"
    with make_llm(**sections_of(write_folder(tmp_path, name), **EMULATED)) as llm:
        assert isinstance(execution_of(llm), AscendLayers)
        tokens, logits = answer_of(llm, 6)
        assert llm.get_statistics()["compiles_after_warmup"] == 0
    np.testing.assert_allclose(logits[0], FAMILIES[name]["first"], rtol=0, atol=2e-2 * np.std(FAMILIES[name]["first"]))
    assert tokens == FAMILIES[name]["tokens"][:6]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_writes_what_it_does_on_the_cpu(tmp_path, name):
    """Greedily, from pages of float16 alike; and what each operator by itself makes of it is the same model."""
    folder = write_folder(tmp_path, name)
    with make_llm(**sections_of(folder, **EMULATED)) as llm:
        assert isinstance(execution_of(llm), AscendLayers) == (name not in FALLS_BACK)
        tokens, logits = answer_of(llm)
    with make_llm(**sections_of(folder, cache={"kv_cache_dtype": "float16"})) as llm:
        expected, expected_logits = answer_of(llm)
    assert tokens == expected
    np.testing.assert_allclose(logits, expected_logits, rtol=0, atol=2e-3 * np.std(expected_logits))
    runtime = EMULATED["runtime"] | {"fused_ops": False}
    with make_llm(**sections_of(folder, **EMULATED | {"runtime": runtime})) as llm:
        assert not isinstance(execution_of(llm), AscendLayers)
        check_near(FAMILIES[name], *answer_of(llm), tolerance=2e-2)
        fingerprint = llm.engine.model_fingerprint
    with make_llm(**sections_of(folder, **EMULATED)) as llm:
        assert llm.engine.model_fingerprint == fingerprint, "pages of one are pages of the other"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3, tied", "llama, biases"])
def test_a_float16_model(tmp_path, name):
    """Within the rounding of float16 of transformers' float32."""
    model = {"dtype": "float16"}
    with make_llm(**sections_of(write_folder(tmp_path, name), **EMULATED, model=model)) as llm:
        assert isinstance(execution_of(llm), AscendLayers)
        check_near(FAMILIES[name], *answer_of(llm), tolerance=4e-2)


@pytest.mark.slow
def test_pages_of_int8(tmp_path):
    sections = EMULATED | {"cache": {"kv_cache_dtype": "int8"}}
    with make_llm(**sections_of(write_folder(tmp_path, "qwen3, tied"), **sections)) as llm:
        assert isinstance(execution_of(llm), AscendLayers)
        check_near(FAMILIES["qwen3, tied"], *answer_of(llm), tolerance=0.2)


def test_checkpoints_keep_their_names(tmp_path):
    """Also those that hold q, k and v, or gate and up, as one tensor themselves."""
    checkpoint = open_checkpoint(write_folder(tmp_path, "phi3, window"))
    weights = {name: checkpoint.read(name) for name in checkpoint.names()}
    model, _ = make(checkpoint.model_config, weights)
    for name, place in model.weight_places().items():
        np.testing.assert_array_equal(held(place), weights[name], name)
