"""Where packed layers have each weight: apart, at the start of lines, as `layout` tells the operator."""

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspore_paged.custom_ops.layer_ops import ABSENT, LAYER_ROLES
from mindspore_paged.formats.weight_format import BF16, FLOAT16, FLOAT32, INT8, Q4_0, Q4_1
from mindspore_paged.formats.weight_place import rooms_of_parameters
from mindspore_paged.models.executions import whole_step
from mindspore_paged.models.executions.whole_step import Held, PackedLayers

NUM_WEIGHTS = len(LAYER_ROLES)
MATRICES = st.tuples(
    st.sampled_from([FLOAT32, FLOAT16, BF16, INT8, Q4_0, Q4_1]),
    st.tuples(st.integers(1, 20), st.sampled_from([32, 96])),
)
NORMS = st.tuples(st.just(FLOAT32), st.tuples(st.integers(1, 50)))
WEIGHTS = st.lists(MATRICES | NORMS | st.none(), min_size=NUM_WEIGHTS, max_size=NUM_WEIGHTS).filter(any)
LAYERS = st.lists(WEIGHTS, min_size=1, max_size=4)


def named(layers):
    """The weights of layers under names of their own."""
    return [
        [each and Held(f"{number}.{role}", *each) for role, each in zip(LAYER_ROLES, layer)]
        for number, layer in enumerate(layers)
    ]


@given(LAYERS, st.sampled_from([1, 20_000, 2**30]), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_every_weight_is_read_back_from_where_the_layout_has_it(layers, pack_bytes, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole_step, "PACK_BYTES", pack_bytes)
        packed = PackedLayers(named(layers), len(layers))
    rng = np.random.default_rng(seed)
    places = packed.places
    stored = {
        name: rng.integers(0, 256, place.nbytes, np.uint8).view(place.form.dtype).reshape(place.stored_shape)
        for name, place in places.items()
    }
    rooms = list(rooms_of_parameters(places, lambda size: np.zeros(size, np.uint8)))
    for room in rooms:
        for name, target in room.weights.items():
            target[...] = stored[name]
    packs = [room.value for room in rooms]
    assert [len(pack) for pack in packs] == [pack.nbytes for pack in packed.packs]
    rows = [row for row in packed.layout.reshape(-1, 5) if tuple(row) != ABSENT]
    for (name, values), (pack, offset, kind, num_rows, num_columns) in zip(stored.items(), rows, strict=True):
        assert offset % 64 == 0
        assert packs[pack][offset : offset + values.nbytes].tobytes() == values.tobytes(), name
        assert (kind, places[name].shape[-1], np.prod(places[name].shape)) == (
            places[name].form.kind,
            num_columns,
            num_rows * num_columns,
        )


def test_a_pack_takes_whole_layers_until_it_is_full(monkeypatch):
    layer = [(FLOAT32, (16,))] * NUM_WEIGHTS  # 64 bytes each
    monkeypatch.setattr(whole_step, "PACK_BYTES", 2 * 64 * NUM_WEIGHTS + 63)
    packed = PackedLayers(named([layer] * 5), 5)
    assert [pack.shape for pack in packed.packs] == [(128 * NUM_WEIGHTS,)] * 2 + [(64 * NUM_WEIGHTS,)]
    assert {pack.dtype for pack in packed.packs} == {ms.uint8}
    assert packed.layout[:, 0, 0].tolist() == [0, 0, 1, 1, 2]


def test_layers_that_share_their_weights():
    packed = PackedLayers(named([[(FLOAT32, (16,))] * NUM_WEIGHTS]), 3)
    assert [pack.nbytes for pack in packed.packs] == [64 * NUM_WEIGHTS]
    assert (packed.layout == packed.layout[0]).all()
    assert len(packed.places) == NUM_WEIGHTS


def test_the_beginning_of_a_weight_is_that_of_its_part():
    packed = PackedLayers(named([[(FLOAT32, (2, 32))] * NUM_WEIGHTS]), 1)
    places = packed.places
    values = {name: np.full((2, 32), number, np.float32) for number, name in enumerate(places)}
    for room in rooms_of_parameters(places, lambda size: np.zeros(size, np.uint8)):
        for name, target in room.weights.items():
            target[...] = values[name]
        room.parameter.set_data(ms.from_numpy(room.value))
    for name, place in places.items():
        assert place.beginning(3) == place.beginning(3, on_host=True) == values[name][0, :3].tobytes()
