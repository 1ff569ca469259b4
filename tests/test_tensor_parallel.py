"""The cut of a model over ranks, against numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from mindspore_paged.errors import ConfigError
from mindspore_paged.models.registry import MODEL_CONFIGS
from mindspore_paged.tensor_parallel import WHOLE, Cut, TensorParallel
from mindspore_paged.weights.random_checkpoint import RandomCheckpoint

SMOLLM, LLAMA_70B = MODEL_CONFIGS["smollm2-135m"], MODEL_CONFIGS["llama2-70b"]
TINY = MODEL_CONFIGS["tiny"]


PROJECTIONS = {
    "q_proj": "model.layers.0.self_attn.q_proj.weight",
    "k_proj": "model.layers.0.self_attn.k_proj.weight",
    "v_proj": "model.layers.0.self_attn.v_proj.weight",
    "o_proj": "model.layers.0.self_attn.o_proj.weight",
    "down_proj": "model.layers.0.mlp.down_proj.weight",
    "lm_head": "lm_head.weight",
}


def cut_of(name, rank, size, config):
    return TensorParallel(rank, size).cuts(config).of(PROJECTIONS.get(name, name))


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        # 9 heads and 3 KV heads of 64 rows, 1536 wide, 49152 tokens: rank 1 of 3 has heads 3 to 5 and KV head 1.
        ("model.layers.4.self_attn.q_proj.weight", Cut(0, 192, 384, 192)),
        ("model.layers.4.self_attn.k_proj.weight", Cut(0, 64, 128, 64)),
        ("model.layers.4.self_attn.v_proj.weight", Cut(0, 64, 128, 64)),
        ("model.layers.4.self_attn.o_proj.weight", Cut(1, 192, 384, 192)),
        ("model.layers.4.mlp.gate_proj.weight", Cut(0, 512, 1024, 512)),
        ("model.layers.4.mlp.up_proj.weight", Cut(0, 512, 1024, 512)),
        ("model.layers.4.mlp.down_proj.weight", Cut(1, 512, 1024, 512)),
        ("model.embed_tokens.weight", Cut(0, 16384, 32768, 16384)),
        ("lm_head.weight", Cut(0, 16384, 32768, 16384)),
        ("model.layers.4.input_layernorm.weight", None),
        ("model.layers.4.post_attention_layernorm.weight", None),
        ("model.norm.weight", None),
    ],
)
def test_the_middle_rank_of_three_with_nine_heads(name, cut):
    assert cut_of(name, 1, 3, SMOLLM) == cut


@pytest.mark.parametrize(
    ("size", "query_rows", "kv_rows", "width", "vocab_rows"),
    [
        (1, 8192, 1024, 28672, 32000),
        (2, 4096, 512, 14336, 16000),
        (4, 2048, 256, 7168, 8000),
        (8, 1024, 128, 3584, 4000),
        (16, 512, 128, 1792, 2000),  # 8 KV heads: each stands on two ranks
    ],
)
def test_how_much_of_llama_70b_each_rank_has(size, query_rows, kv_rows, width, vocab_rows):
    for rank in range(size):
        cuts = TensorParallel(rank, size).cuts(LLAMA_70B)
        lengths = {
            name: cuts.of(PROJECTIONS[name]).length for name in ("q_proj", "k_proj", "o_proj", "down_proj", "lm_head")
        }
        assert lengths == {
            "q_proj": query_rows,
            "k_proj": kv_rows,
            "o_proj": query_rows,
            "down_proj": width,
            "lm_head": vocab_rows,
        }
        share = TensorParallel(rank, size).share(LLAMA_70B)
        assert share == replace(
            LLAMA_70B,
            num_attention_heads=query_rows // 128,
            num_key_value_heads=kv_rows // 128,
            intermediate_size=width,
        )
        assert (share.head_dim, share.hidden_size, share.vocab_size) == (128, 8192, 32000)


@pytest.mark.parametrize(
    ("rank", "size", "queries", "keys"),
    [
        (3, 4, Cut(0, 6144, 8192, 2048), Cut(0, 768, 1024, 256)),
        (5, 8, Cut(0, 5120, 6144, 1024), Cut(0, 640, 768, 128)),
        (4, 16, Cut(0, 2048, 2560, 512), Cut(0, 256, 384, 128)),  # heads 16 to 19, of KV head 2
        (5, 16, Cut(0, 2560, 3072, 512), Cut(0, 256, 384, 128)),  # heads 20 to 23, of KV head 2 too
        (63, 64, Cut(0, 8064, 8192, 128), Cut(0, 896, 1024, 128)),
    ],
)
def test_which_heads_of_llama_70b_a_rank_has(rank, size, queries, keys):
    assert cut_of("q_proj", rank, size, LLAMA_70B) == queries
    assert cut_of("k_proj", rank, size, LLAMA_70B) == cut_of("v_proj", rank, size, LLAMA_70B) == keys


@pytest.mark.parametrize(
    ("vocab_size", "parts"),
    [
        (10, [(0, 3), (3, 6), (6, 9), (9, 10)]),
        (5, [(0, 2), (2, 4), (4, 5), (5, 5)]),
        (2, [(0, 1), (1, 2), (2, 2), (2, 2)]),
        (8, [(0, 2), (2, 4), (4, 6), (6, 8)]),
    ],
)
def test_a_vocabulary_that_four_ranks_do_not_divide(vocab_size, parts):
    config, length = replace(TINY, vocab_size=vocab_size), parts[0][1]
    cuts = [TensorParallel(rank, 4).vocab(config) for rank in range(4)]
    assert cuts == [Cut(0, start, stop, length) for start, stop in parts]
    assert [cut_of("model.embed_tokens.weight", rank, 4, config) for rank in range(4)] == cuts


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 32])
def test_all_parts_together_are_each_tensor_once_but_for_shared_kv_heads(size):
    """32 heads, 8 KV heads: with 16 ranks each KV head is there twice, with 32 four times."""
    config = replace(TINY, vocab_size=50, num_attention_heads=32, num_key_value_heads=8)
    times_kv = max(1, size // 8)
    shapes = RandomCheckpoint(config)
    for name in shapes.names():
        shape, covered = shapes.shape(name), np.zeros(shapes.shape(name), int)
        for rank in range(size):
            cuts = TensorParallel(rank, size).cuts(config)
            cut = cuts.of(name)
            if cut is None:
                assert len(shape) == 1, f"{name} is on every rank"
                assert cuts.whole_length(name) is None
                continue
            assert cuts.whole_length(name) == shape[cut.axis]
            assert 0 <= cut.start <= cut.stop <= min(shape[cut.axis], cut.start + cut.length)
            covered[np.s_[cut.start : cut.stop] if cut.axis == 0 else np.s_[:, cut.start : cut.stop]] += 1
        if len(shape) == 2:
            times = times_kv if name.endswith(("k_proj.weight", "v_proj.weight")) else 1
            assert (covered == times).all(), name


@pytest.mark.parametrize("size", [1, 3, 6, 12])
def test_each_query_head_is_where_its_kv_head_is(size):
    """Query head h attends with KV head h // 4, as in Hugging Face's repeat_kv."""
    config = replace(TINY, num_attention_heads=12, num_key_value_heads=3, intermediate_size=24)
    for rank in range(size):
        cut = cut_of("q_proj", rank, size, config)
        kv_heads = TensorParallel(rank, size).kv_heads(config)
        heads = range(cut.start // 16, cut.stop // 16)
        share = TensorParallel(rank, size).share(config)
        assert len(heads) == share.num_attention_heads
        local_group = share.num_attention_heads // share.num_key_value_heads
        for place, head in enumerate(heads):
            assert kv_heads[place // local_group] == head // 4


def test_rank_0_of_1_has_all():
    assert TensorParallel(0, 1) == WHOLE
    assert WHOLE.share(SMOLLM) == SMOLLM
    assert WHOLE.cuts(SMOLLM).of("model.layers.0.mlp.down_proj.weight") == Cut(1, 0, 1536, 1536)
    assert WHOLE.cuts(SMOLLM).of("model.layers.0.self_attn.q_proj.weight") == Cut(0, 0, 576, 576)


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        (SMOLLM, 2, "parallel.tensor_parallel_size is 2; it must divide the model's num_attention_heads, 9"),
        (SMOLLM, 18, "parallel.tensor_parallel_size is 18; it must divide the model's num_attention_heads, 9"),
        (
            replace(SMOLLM, intermediate_size=1000),
            3,
            "parallel.tensor_parallel_size is 3; it must divide the model's intermediate_size, 1000",
        ),
        (
            replace(TINY, num_attention_heads=12, num_key_value_heads=4, intermediate_size=24),
            6,
            "parallel.tensor_parallel_size is 6; it must divide the model's num_key_value_heads, 4, or be a multiple "
            "of it",
        ),
        (
            replace(TINY, num_attention_heads=12, num_key_value_heads=4, intermediate_size=24),
            3,
            "parallel.tensor_parallel_size is 3; it must divide the model's num_key_value_heads, 4, or be a multiple "
            "of it",
        ),
    ],
)
@pytest.mark.parametrize("use", [TensorParallel.check, TensorParallel.cuts, TensorParallel.share])
def test_a_model_that_cannot_be_shared_by_so_many(use, config, size, message):
    with pytest.raises(ConfigError) as error:
        use(TensorParallel(0, size), config)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("rank", "size", "message"),
    [
        (2, 2, "this process is rank 2, but parallel.tensor_parallel_size is 2; ranks 0 to 1 are allowed"),
        (-1, 4, "this process is rank -1, but parallel.tensor_parallel_size is 4; ranks 0 to 3 are allowed"),
        (0, 0, "parallel.tensor_parallel_size is 0; it must be at least 1"),
        (0, -3, "parallel.tensor_parallel_size is -3; it must be at least 1"),
    ],
)
def test_a_rank_that_does_not_exist(rank, size, message):
    with pytest.raises(ConfigError) as error:
        TensorParallel(rank, size)
    assert str(error.value) == message
