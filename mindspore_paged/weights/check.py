"""The check that a checkpoint fits a model, made before anything is loaded."""

import re
from dataclasses import replace

import numpy as np

from mindspore_paged.errors import CheckpointError
from mindspore_paged.models.registry import spec_of, weight_shapes
from mindspore_paged.models.spec import LM_HEAD
from mindspore_paged.weights.bfloat16 import BFLOAT16
from mindspore_paged.weights.tensor_source import Checkpoint
from mindspore_paged.wording import shown

WEIGHT_DTYPES = (np.dtype(np.float32), np.dtype(np.float16), BFLOAT16)
# Left over from training or from older exports; none of it takes part in inference.
_HARMLESS = re.compile(
    r".*rotary_emb\.inv_freq|.*rope\.freqs|blk\.\d+\.attn_rot_embd\.weight"
    r"|(adam_[mv]|exp_avg|exp_avg_sq|accu_grads|moment[12]?)\..*"
    r"|(global_step|epoch_num|step_num|beta[12]_power|learning_rate|loss_scale|scale_sense|current_iterator_step|"
    r"last_overflow_iterator_step)"
)


def check_weights(
    checkpoint: Checkpoint, expected: dict[str, tuple[int, ...]], dtypes: tuple[np.dtype, ...] = WEIGHT_DTYPES
) -> None:
    """Raise CheckpointError unless `checkpoint` holds exactly the tensors `expected`, by name, with those shapes.

    An lm_head that `expected` does not name belongs to a model with tied embeddings, and is ignored; so are rotary
    frequencies and the state of an optimizer. dtypes: of which the weights must be.
    """
    held = set(checkpoint.names())
    _check_held(checkpoint, held, expected)
    for name in expected:
        check_dtype(checkpoint, name, dtypes)
    extra = sorted(name for name in held - expected.keys() if name != LM_HEAD and not _HARMLESS.fullmatch(name))
    if extra:
        raise CheckpointError(f"{checkpoint.path}: {_counted(extra, 'not part of the model')}")


def check_dtype(checkpoint: Checkpoint, name: str, dtypes: tuple[np.dtype, ...] = WEIGHT_DTYPES) -> None:
    """Raise CheckpointError unless the tensor called `name` is of one of the types."""
    dtype = checkpoint.dtype(name)
    if dtype not in dtypes:
        allowed = ", ".join(map(str, dtypes))
        raise CheckpointError(f"{checkpoint.path}: tensor {shown(name)} is of type {dtype}; allowed: {allowed}")


def check_description(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError unless `checkpoint` holds tensors of the sizes, and as many layers, as it says itself.

    For what was written by others: so nothing is allocated by sizes that are nowhere.
    """
    config = checkpoint.model_config
    held = set(checkpoint.names())
    one_layer = replace(config, num_hidden_layers=1, layer_types=(), layers_without_rope=())
    first_of_last, weight = next(spec_of(config).weights_of_layer(config, config.num_hidden_layers - 1))
    _check_held(checkpoint, held, weight_shapes(one_layer) | {first_of_last: weight.sizes(config)})


def _check_held(checkpoint: Checkpoint, held: set[str], expected: dict[str, tuple[int, ...]]) -> None:
    missing = [name for name in expected if name not in held]
    if missing:
        prefix = _common_prefix(held, missing)
        names = f"; its names begin with {shown(prefix)}, which is another model's layout" if prefix else ""
        raise CheckpointError(f"{checkpoint.path}: {_counted(missing, 'missing')}{names}")
    for name, shape in expected.items():
        if checkpoint.shape(name) != tuple(shape):
            raise CheckpointError(
                f"{checkpoint.path}: tensor {name} has shape {checkpoint.shape(name)}; the model needs {tuple(shape)}"
            )


def _common_prefix(held: set[str], missing: list[str]) -> str:
    """What stands before the names of tensors that are missing without it, or an empty text."""
    return next((name.removesuffix(missing[0]) for name in sorted(held) if name.endswith(f".{missing[0]}")), "")


def _counted(names: list[str], what: str) -> str:
    if len(names) == 1:
        return f"tensor {shown(names[0])} is {what}"
    return f"{len(names)} tensors are {what}, the first is {shown(names[0])}"
