"""Weights that come into a model while something else is done: all of them, or a refusal, or the reason at the end."""

import threading

import mindspore as ms
import numpy as np
import pytest

from mindspore_paged.config import config_from_dict
from mindspore_paged.engine.building.loading import load_weights
from mindspore_paged.engine.building.model import build_kv_pool, build_model
from mindspore_paged.engine.building.plan import make_plan
from mindspore_paged.errors import CheckpointError
from mindspore_paged.weights.checkpoint import open_checkpoint
from mindspore_paged.weights.packing import read_packed
from tests.weights import tiny

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module", autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")


@pytest.fixture
def checkpoint(tmp_path):
    return open_checkpoint(tiny.write_gguf(tmp_path / "a.gguf", tiny.make_weights(np.float16)))


def model_of(checkpoint, weight_dtype="stored", fused_ops="auto"):
    config = config_from_dict(
        {
            "model": {"weight_dtype": weight_dtype},
            "runtime": {"fused_ops": fused_ops},
            "cache": {"num_blocks": 4},
            "scheduler": {"max_num_seqs": 1, "max_model_len": 16},
        }
    )
    plan = make_plan(config, checkpoint.model_config, checkpoint=checkpoint)
    return build_model(plan, build_kv_pool(plan))


def shown(names, **_):
    return names


def held(model, name):
    """A weight as the model has it now."""
    place = model.weight_places()[name]
    return place.within(place.parameter.asnumpy().reshape(-1).view(np.uint8))


@pytest.mark.parametrize(
    ("weight_dtype", "fused_ops"),
    [("stored", "auto"), ("float32", "auto"), ("int8", "auto"), ("w16a16", "auto"), ("auto", False)],
)
def test_each_weight_is_there_in_its_order(checkpoint, weight_dtype, fused_ops):
    model = model_of(checkpoint, weight_dtype, fused_ops)
    with load_weights(model, checkpoint, shown):
        pass
    for name, place in model.weight_places().items():
        expected = model.arranged(name, read_packed(checkpoint, name, place.form))
        assert held(model, name).tobytes() == expected.tobytes(), name


def test_parameters_have_their_memory_before_it_is_filled(checkpoint, monkeypatch):
    """A graph that is compiled meanwhile keeps what it finds."""
    model, may_read = model_of(checkpoint), threading.Event()
    read = checkpoint.stored_rows
    monkeypatch.setattr(checkpoint, "stored_rows", lambda name: may_read.wait(30) and read(name))
    with load_weights(model, checkpoint, shown):
        before = {name: held(model, name) for name in model.weight_places()}
        assert not any(weight.any() for weight in before.values())
        may_read.set()
    for name, weight in before.items():
        assert weight.any(), name
        assert np.shares_memory(weight, held(model, name))


def test_what_misfits_is_refused_before_anything_is_set(checkpoint, monkeypatch):
    model, shape = model_of(checkpoint), checkpoint.shape
    monkeypatch.setattr(checkpoint, "shape", lambda name: (1, 64) if name == DOWN else shape(name))
    with pytest.raises(CheckpointError, match="down_proj"), load_weights(model, checkpoint, shown):
        pytest.fail("the block runs")
    assert not held(model, "model.norm.weight").any()


def test_what_is_met_while_they_load_is_raised_at_the_end(checkpoint, monkeypatch):
    model, ran = model_of(checkpoint), []

    def damaged(name):
        raise CheckpointError(f"{name} is damaged")

    monkeypatch.setattr(checkpoint, "stored_rows", damaged)
    with pytest.raises(CheckpointError, match="is damaged"), load_weights(model, checkpoint, shown):
        ran.append(True)
    assert ran


def test_an_error_of_the_block_ends_the_loading(checkpoint, monkeypatch):
    model, began, failed, names = model_of(checkpoint), threading.Event(), threading.Event(), []

    def slow(name):
        names.append(name)
        began.set()
        failed.wait(30)

    def work():
        began.wait(30)
        threading.Timer(0.2, failed.set).start()
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "stored_rows", slow)
    with pytest.raises(KeyboardInterrupt), load_weights(model, checkpoint, shown):
        work()
    assert len(names) == 1
    assert not any(thread.name.startswith("weights") for thread in threading.enumerate())
