"""A checkpoint's tensors into the Parameters of a step, one at a time."""

from collections.abc import Callable
from functools import partial

import mindspore as ms
import numpy as np
from mindspore import Tensor
from mindspore.common import np_dtype

from mindspore_paged.engine.execution.step import Step
from mindspore_paged.formats.weight_format import BYTES
from mindspore_paged.formats.weight_place import WeightPlace, values_of_parameters
from mindspore_paged.weights.bfloat16 import BFLOAT16
from mindspore_paged.weights.check import WEIGHT_DTYPES, check_weights
from mindspore_paged.weights.checkpoint import Checkpoint
from mindspore_paged.weights.packing import read_packed
from mindspore_paged.weights.weight_memory import WeightMemory


def load_weights(model: Step, checkpoint: Checkpoint, progress: Callable) -> None:
    """Set every weight, one tensor at a time; raises CheckpointError, and sets none, if any misfits."""
    places = model.weight_places()
    of_blocks = any(place.form is BYTES for place in places.values())
    dtypes = (*WEIGHT_DTYPES, BYTES.dtype) if of_blocks else WEIGHT_DTYPES
    check_weights(checkpoint, shapes_of(places), dtypes)
    set_weights(
        model,
        lambda name: read_packed(checkpoint, name, places[name].form),
        partial(progress, desc="Loading weights", unit="tensor"),
    )


def set_weights(model: Step, read: Callable[[str], np.ndarray], progress: Callable = iter) -> None:
    """Give every Parameter of the weights its value; `read`: a weight in its format; `progress` wraps their names."""
    places = model.weight_places()
    on_cpu = ms.get_context("device_target") == "CPU"
    parameters = {id(place.parameter): place.parameter for place in places.values()}.values()
    memory = WeightMemory(each.nbytes for each in parameters) if on_cpu else None
    allocate = memory.allocate if memory else partial(np.zeros, dtype=np.uint8)
    by_name = ((name, places[name]) for name in progress(places))
    for parameter, values in values_of_parameters(by_name, lambda name: model.arranged(name, read(name)), allocate):
        parameter.set_data(_shared_tensor(values) if on_cpu else _tensor(values, parameter.dtype))


def shapes_of(places: dict[str, WeightPlace]) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's weights as a checkpoint has them, however they are held."""
    return {name: place.shape for name, place in places.items()}


def _shared_tensor(values: np.ndarray) -> Tensor:
    # MindSpore knows the bfloat16 of its own alone; the bits are the same.
    return ms.from_numpy(values.view(np_dtype.bfloat16) if values.dtype == BFLOAT16 else values)


def _tensor(values: np.ndarray, dtype) -> Tensor:
    # MindSpore takes no bfloat16 from NumPy but its own; through float32, which holds it exactly.
    return Tensor(values.astype(np.float32) if values.dtype == BFLOAT16 else values, dtype)
