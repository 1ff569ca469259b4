"""Biases of projections, from every format: which a model has is what its files hold, and each is read as it was."""

from dataclasses import replace

import numpy as np
import pytest

from mindspore_paged.config import config_from_dict
from mindspore_paged.errors import CheckpointError, ConfigError
from mindspore_paged.models.registry import num_parameters
from mindspore_paged.tensor_parallel import TensorParallel
from mindspore_paged.weights.check import check_weights
from mindspore_paged.weights.checkpoint import open_checkpoint
from mindspore_paged.weights.random_checkpoint import RandomCheckpoint
from mindspore_paged.weights.sharded_checkpoint import ShardedCheckpoint
from tests.weights import tiny
from tests.weights.parts import SIZES, assert_same, part_by_hand
from tests.weights.test_rank_folders import write_folders

QKV = ("q_proj", "k_proj", "v_proj")
ATTENTION = (*QKV, "o_proj")
ALL = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
HF_KEYS = {"attention_bias": True, "mlp_bias": True}
FORMATS = {
    "gguf": (tiny.write_gguf, ALL),
    "hf": (lambda path, weights: tiny.write_hf_folder(path, weights, **HF_KEYS), ALL),
    "mindformers.ckpt": (tiny.WRITERS["mindformers.ckpt"], ALL),
    "qkv_concat.ckpt": (tiny.WRITERS["qkv_concat.ckpt"], ATTENTION),
    "own-names.ckpt": (tiny.write_ckpt, ALL),
    "mindformers-safetensors": (tiny.write_mindformers_safetensors, ATTENTION),
}


@pytest.fixture(params=FORMATS)
def written(request, tmp_path):
    """A checkpoint, and the tensors that were written."""
    write, projections = FORMATS[request.param]
    weights = tiny.make_weights() | tiny.make_biases(*projections)
    return open_checkpoint(write(tmp_path / request.param, weights), tiny.CONFIG), weights


def test_every_format_yields_the_biases_that_were_written(written):
    """GGUF puts those of q and k in the order of its rows, MindFormers fuses them as its rows."""
    checkpoint, weights = written
    assert sorted(checkpoint.names()) == sorted(weights)
    check_weights(checkpoint, {name: values.shape for name, values in weights.items()})
    for name, values in weights.items():
        assert_same(checkpoint.read(name), values, name)
        for start, stop in ((0, 4), (3, 7), (5, 6)):
            assert_same(checkpoint.read_part(name, 0, start, stop), values[start:stop], name)


def test_each_rank_reads_its_rows_and_what_is_summed_is_the_first_ranks(written):
    checkpoint, weights = written
    for size in SIZES:
        for rank in range(size):
            part = ShardedCheckpoint(checkpoint, TensorParallel(rank, size).cuts(tiny.CONFIG))
            for name in [name for name in weights if name.endswith(".bias")]:
                expected = part_by_hand(name, weights[name], rank, size)
                assert part.shape(name) == expected.shape
                assert_same(part.read(name), expected, f"{name}, rank {rank} of {size}")


@pytest.mark.parametrize("qkv_concat", [False, True])
def test_folders_of_ranks_hold_summed_biases_whole(tmp_path, qkv_concat):
    weights = tiny.make_weights() | tiny.make_biases(*ATTENTION)
    config = replace(tiny.CONFIG, biases=ATTENTION)
    write_folders(tmp_path, 2, weights, qkv_concat=qkv_concat)
    for rank in range(2):
        checkpoint = open_checkpoint(tmp_path, config, TensorParallel(rank, 2))
        assert sorted(checkpoint.names()) == sorted(weights)
        for name, values in weights.items():
            assert_same(checkpoint.read(name), part_by_hand(name, values, rank, 2), f"{name}, rank {rank}")


@pytest.mark.parametrize("projections", [QKV, ATTENTION, ("o_proj",), ALL, ("gate_proj", "down_proj")])
def test_a_gguf_has_the_biases_that_it_holds(tmp_path, projections):
    path = tiny.write_gguf(tmp_path / "tiny.gguf", tiny.make_weights() | tiny.make_biases(*projections))
    assert open_checkpoint(path).model_config == replace(tiny.CONFIG, biases=projections)


@pytest.mark.parametrize(
    ("keys", "held", "biases"),
    [
        (HF_KEYS, ALL, ALL),
        ({"attention_bias": True}, ATTENTION, ATTENTION),
        ({"mlp_bias": True}, ALL[4:], ALL[4:]),
        ({"attention_bias": True}, QKV, QKV),  # transformers makes an o_proj.bias of zeros
        ({"attention_bias": True, "mlp_bias": None}, ("q_proj",), ("q_proj",)),
    ],
)
def test_a_folder_has_the_biases_that_it_allows_and_holds(tmp_path, keys, held, biases):
    folder = tiny.write_hf_folder(tmp_path / "hf", tiny.make_weights() | tiny.make_biases(*held), **keys)
    assert open_checkpoint(folder).model_config == replace(tiny.CONFIG, biases=biases)


def test_a_bias_of_some_layers_only_is_missing_in_the_others(tmp_path):
    biases = tiny.make_biases(*QKV)
    del biases["model.layers.1.self_attn.k_proj.bias"]
    for kind, write in (("gguf", tiny.write_gguf), ("hf", FORMATS["hf"][0])):
        checkpoint = open_checkpoint(write(tmp_path / kind, tiny.make_weights() | biases))
        assert checkpoint.model_config.biases == QKV
        shapes = {
            name: checkpoint.shape(name)
            for name in (*tiny.make_weights(), *tiny.make_biases(*QKV))
            if "k_proj.bias" not in name
        }
        shapes |= {f"model.layers.{layer}.self_attn.k_proj.bias": (8,) for layer in range(2)}
        with pytest.raises(CheckpointError, match=r"tensor model.layers.1.self_attn.k_proj.bias is missing"):
            check_weights(checkpoint, shapes)


def test_a_bias_that_config_json_does_not_allow_is_named(tmp_path):
    folder = tiny.write_hf_folder(tmp_path / "hf", tiny.make_weights() | tiny.make_biases("q_proj"))
    checkpoint = open_checkpoint(folder)
    assert checkpoint.model_config.biases == ()
    with pytest.raises(CheckpointError, match=r"self_attn.q_proj.bias is not part of the model|2 tensors are not part"):
        check_weights(checkpoint, tiny.expected_shapes())


@pytest.mark.parametrize("keys", [{"attention_bias": "yes"}, {"mlp_bias": 1}, {"attention_bias": []}])
def test_what_is_no_boolean_is_refused(tmp_path, keys):
    with pytest.raises(CheckpointError, match=f"{next(iter(keys))} is "):
        open_checkpoint(tiny.write_hf_folder(tmp_path / "hf", tiny.make_weights(), **keys))


def test_random_weights_have_the_biases_of_the_configuration():
    keys = {"name": "tiny", "weights": "random", "config": {"biases": ["q_proj", "down_proj"]}}
    config = config_from_dict({"model": keys}).model.dimensions()
    checkpoint = RandomCheckpoint(config)
    biases = [name for name in checkpoint.names() if name.endswith(".bias")]
    assert biases == [
        f"model.layers.{i}.{name}.bias" for i in range(2) for name in ("self_attn.q_proj", "mlp.down_proj")
    ]
    assert all(np.ptp(checkpoint.read(name)) > 0 for name in biases)
    assert sum(checkpoint.read(name).size for name in checkpoint.names()) == num_parameters(config)


@pytest.mark.parametrize("biases", [["q"], ["q_proj", "q_proj"], ["lm_head"]])
def test_projections_that_have_no_bias_are_refused(biases):
    with pytest.raises(ConfigError, match="biases has "):
        config_from_dict({"model": {"name": "tiny", "config": {"biases": biases}}})
