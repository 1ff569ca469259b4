"""A checkpoint's tensors into the Parameters of a step, one at a time, while graphs are compiled."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Event

import mindspore as ms
import numpy as np
from mindspore import Tensor
from mindspore.common import np_dtype

from mindspore_paged.engine.execution.step import Step
from mindspore_paged.formats.weight_format import BYTES
from mindspore_paged.formats.weight_place import Room, WeightPlace, rooms_of_parameters
from mindspore_paged.weights.bfloat16 import BFLOAT16
from mindspore_paged.weights.check import WEIGHT_DTYPES, check_weights
from mindspore_paged.weights.checkpoint import Checkpoint
from mindspore_paged.weights.packing import parts_of
from mindspore_paged.weights.weight_memory import WeightMemory

Fill = Callable[[str, np.ndarray], None]
"""Puts the weight of a name into the memory that the model has for it."""


@contextmanager
def load_weights(model: Step, checkpoint: Checkpoint, progress: Callable) -> Iterator[None]:
    """Set every weight, one tensor at a time; on a CPU while the block runs: at its end they are there.

    The block may compile graphs and run them for no tokens: all Parameters have their memory, which is being filled.
    Raises CheckpointError, before the block and with none set, if any weight misfits; at its end what was met later.
    """
    places = model.weight_places()
    of_blocks = any(place.form is BYTES for place in places.values())
    check_weights(checkpoint, shapes_of(places), (*WEIGHT_DTYPES, BYTES.dtype) if of_blocks else WEIGHT_DTYPES)
    fill = partial(_fill, model, checkpoint, places)
    progress = partial(progress, desc="Loading weights", unit="tensor")
    if not _on_cpu():
        _set_one_by_one(places, fill, progress)
        yield
        return
    ended = Event()
    with ThreadPoolExecutor(1, thread_name_prefix="weights") as thread:
        filled = thread.submit(_fill_rooms, _rooms_on_cpu(places), fill, progress, ended)
        try:
            yield
            filled.result()
        finally:
            ended.set()


def set_weights(model: Step, read: Callable[[str], np.ndarray]) -> None:
    """Give every Parameter of the weights its value; `read`: a weight in its format."""

    def fill(name: str, target: np.ndarray) -> None:
        model.arranged(name, read(name), target=target)

    places = model.weight_places()
    if _on_cpu():
        _fill_rooms(_rooms_on_cpu(places), fill, iter, Event())
    else:
        _set_one_by_one(places, fill, iter)


def shapes_of(places: dict[str, WeightPlace]) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's weights as a checkpoint has them, however they are held."""
    return {name: place.shape for name, place in places.items()}


def _on_cpu() -> bool:
    return ms.get_context("device_target") == "CPU"


def _fill(model: Step, checkpoint: Checkpoint, places: dict[str, WeightPlace], name: str, target: np.ndarray) -> None:
    for part in parts_of(checkpoint, name, places[name].form):
        model.arranged(name, part.stored, order=part.order, target=target[part.rows])


def _rooms_on_cpu(places: dict[str, WeightPlace]) -> list[Room]:
    """Memory for every Parameter in one piece, which they have from now on: what comes into it is theirs."""
    parameters = {id(place.parameter): place.parameter for place in places.values()}.values()
    memory = WeightMemory(each.nbytes for each in parameters)
    rooms = list(rooms_of_parameters(places, memory.allocate))
    for room in rooms:
        room.parameter.set_data(_shared_tensor(room.value))
    return rooms


def _fill_rooms(rooms: list[Room], fill: Fill, progress: Callable, ended: Event) -> None:
    weights = {name: target for room in rooms for name, target in room.weights.items()}
    for name in progress(weights):
        if ended.is_set():  # nobody waits for them any more
            return
        fill(name, weights[name])


def _set_one_by_one(places: dict[str, WeightPlace], fill: Fill, progress: Callable) -> None:
    shown = iter(progress(places))
    for room in rooms_of_parameters(places, partial(np.zeros, dtype=np.uint8)):
        for name, target in room.weights.items():
            next(shown)
            fill(name, target)
        room.parameter.set_data(_tensor(room.value, room.parameter.dtype))
    next(shown, None)  # the end, for whoever shows progress


def _shared_tensor(values: np.ndarray) -> Tensor:
    # MindSpore knows the bfloat16 of its own alone; the bits are the same.
    return ms.from_numpy(values.view(np_dtype.bfloat16) if values.dtype == BFLOAT16 else values)


def _tensor(values: np.ndarray, dtype) -> Tensor:
    # MindSpore takes no bfloat16 from NumPy but its own; through float32, which holds it exactly.
    return Tensor(values.astype(np.float32) if values.dtype == BFLOAT16 else values, dtype)
