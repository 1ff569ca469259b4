"""The step as MindIR: written without values and without a machine's paths, loaded as a Cell for every token bucket.

One graph serves all buckets: its token count is left open, and MindSpore infers the shapes anew for each count that it
is called with. So every bucket is a static graph, and all share the Cell's Parameters. Two Cells would not.
"""

from collections.abc import Mapping
from pathlib import Path

import mindspore as ms
import numpy as np
from google.protobuf.message import DecodeError
from mindspore import Parameter, Tensor, nn
from mindspore.train.mind_ir_pb2 import ModelProto

from mindspore_paged.custom_ops.panels import arrange_panels
from mindspore_paged.errors import CheckpointError
from mindspore_paged.files import scratch_folder, write_bytes
from mindspore_paged.formats.weight_format import BYTES
from mindspore_paged.formats.weight_place import WeightPlace, put
from mindspore_paged.mindir.folder import MANIFEST, ExportedWeight, MindIRFolder
from mindspore_paged.step_inputs import STEP_INPUTS
from mindspore_paged.wording import one_line, shortened

LIBRARY = "@kernel_library@"
"""What the graph has for the path of its operators' library."""

OPEN = None
"""A dimension that is known when the graph is called."""


class MindIRStep(nn.GraphCell):
    """The step of a loaded model; called as ModelStep is.

    weights: as the folder's manifest has them. library: of operators that read matrices in panels, in its own order;
    None: they take rows.
    key_caches, value_caches, block_table: Parameters as KVPagePool has them. Their values, and those of
    `weight_places()`, are still to be set.
    """

    adapters = None

    def __init__(self, graph, weights: Mapping[str, ExportedWeight], library: Path | None = None):
        super().__init__(graph)
        self._weights, self._library = weights, library

    def weight_places(self) -> dict[str, WeightPlace]:
        """Where each weight is, by Hugging Face's names; those of blocks as the bytes that the folder has."""
        return {
            name: WeightPlace(
                self._params[weight.parameter],
                BYTES if weight.form.block_bytes else weight.form,
                weight.shape,
                weight.offset,
            )
            for name, weight in self._weights.items()
        }

    def arranged(self, name: str, weight: np.ndarray, order=None, target=None) -> np.ndarray:
        """A weight of the folder in the order in which the operators read it: rows of a matrix in panels, or as is."""
        if weight.ndim == 1 or self._library is None:
            return put(weight, order, target)
        form = self._weights[name].form
        return arrange_panels(weight, form.kind, form.logical_shape(weight.shape)[1], self._library, order, target)

    @property
    def key_caches(self) -> list[Parameter]:
        """Keys of each layer, or of all."""
        return self._caches("key_cache")

    @property
    def value_caches(self) -> list[Parameter]:
        """Values of each layer, or of all."""
        return self._caches("value_cache")

    @property
    def block_table(self) -> Parameter:
        """Blocks of each row."""
        return self._params["block_table"]

    def _caches(self, kind: str) -> list[Parameter]:
        by_layer = {int(name.split(".")[-2]): self._params[name] for name in self._params if name.endswith(f".{kind}")}
        return [by_layer[layer] for layer in sorted(by_layer)]


def export_step(model: nn.Cell, library: Path, target: Path) -> None:
    """Write the graph of `model` to `target`, for any number of tokens, without the values of its Parameters.

    library: the path of the operators' library that the graph was built with.
    """
    inputs = [
        Tensor(shape=[size if isinstance(size, int) else OPEN for size in each.shape], dtype=ms.int32)
        for each in STEP_INPUTS.values()
    ]

    def take(graph: ModelProto) -> None:
        _replace_in_operators(graph, str(library), LIBRARY)
        for parameter in graph.graph.parameter:
            parameter.ClearField("raw_data")
        write_bytes(target, graph.SerializeToString())
        del graph.graph.parameter[:]  # what MindSpore itself writes, values and all, is not wanted

    with scratch_folder() as scratch:
        ms.export(model, *inputs, file_name=str(scratch / "step"), file_format="MINDIR", custom_func=take)


def load_step(folder: MindIRFolder, num_blocks: int, max_num_seqs: int) -> MindIRStep:
    """The exported step with a pool of `num_blocks` pages and `max_num_seqs` rows, its operators the folder's."""
    graph = ModelProto()
    try:
        graph.ParseFromString(folder.read_graph())
        for parameter in graph.graph.parameter:
            if parameter.name.endswith(("key_cache", "value_cache")):
                parameter.dims[-4] = num_blocks  # behind layers, where these are together
            elif parameter.name.endswith("block_table"):
                parameter.dims[0] = max_num_seqs
    except (DecodeError, IndexError) as error:
        raise CheckpointError(f"{folder.graph}: not the graph of a step ({one_line(error)})") from None
    _check_operators(folder.graph, graph)
    _replace_in_operators(graph, LIBRARY, str(folder.kernel_library.resolve()))
    with scratch_folder() as scratch:  # the exported folder may be read-only
        adapted = scratch / folder.graph.name
        write_bytes(adapted, graph.SerializeToString())
        try:
            library = folder.kernel_library if folder.arranges_weights else None
            step = MindIRStep(ms.load(str(adapted)), folder.manifest.weights, library)
        except (RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(f"{folder.graph}: MindSpore cannot load it: {one_line(error)}") from None
    _check_step(folder, step)
    return step


def _check_operators(path: Path, graph: ModelProto) -> None:
    """Raise CheckpointError for a custom operator that is not of the kernel library: it could be of any other file."""
    for primitive in graph.primitives:
        functions = [attribute.s for attribute in primitive.attribute if attribute.name == "func_name"]
        kinds = [attribute.s for attribute in primitive.attribute if attribute.name == "func_type"]
        is_ours = kinds == [b"aot"] and len(functions) == 1 and functions[0].startswith(f"{LIBRARY}:".encode())
        if (functions or kinds or primitive.op_type == "Custom") and not is_ours:
            raise CheckpointError(f"{path}: calls {shortened(functions)}, which is not of its kernel library")


def _check_step(folder: MindIRFolder, step: MindIRStep) -> None:
    """Raise CheckpointError unless the graph has the Parameters that the manifest speaks of."""
    try:
        parameters = {parameter.name for parameter in (*step.key_caches, *step.value_caches, step.block_table)}
        fit = bool(parameters) and all(map(_lies_within, step.weight_places().values()))
    except (KeyError, IndexError, ValueError):
        fit = False
    if not fit:
        raise CheckpointError(f"{folder.path}: the graph has not the Parameters that {MANIFEST} speaks of")


def _lies_within(place: WeightPlace) -> bool:
    if place.is_alone:
        return True
    is_typed = place.is_among_equals and place.offset % place.form.dtype.itemsize == 0
    return (is_typed or place.parameter.ndim == 1) and place.offset + place.nbytes <= place.parameter.nbytes


def _replace_in_operators(graph: ModelProto, old: str, new: str) -> None:
    for primitive in graph.primitives:
        for attribute in primitive.attribute:
            if old.encode() in attribute.s:
                attribute.s = attribute.s.replace(old.encode(), new.encode())
