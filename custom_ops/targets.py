"""Where an operator of a name is found: in the library of a backend, or in the NPU's op package."""

from collections.abc import Callable
from pathlib import Path

import mindspore as ms
from mindspore import hal, ops
from mindspore.ops import signature

from mindspore_paged.custom_ops.backends import BACKENDS
from mindspore_paged.custom_ops.build import BuildError
from mindspore_paged.custom_ops.build_ascend import is_package_named, use_ascend_op_package
from mindspore_paged.errors import ConfigError

CACHES = ("key_cache", "value_cache")
"""What writers write into, by its name among their inputs."""


def _target_in_op_package(function: str) -> str:
    # In a process whose device is Ascend, ops.Custom looks for this name in the op package: the types of the operands
    # in op_impl/…/aic-*-ops-info.json (inputs sorted as text, hence at most 10), those of the C function in
    # op_api/include/aclnn_*.h. From the latter it writes and compiles a wrapper, in $MS_COMPILER_CACHE_PATH
    # (process_folder.py). An attribute is an operand behind the tensors, always given: a `float` of the OpDef is a
    # double of the C function, which takes our float32, an `int` takes int64. Elsewhere it checks nothing.
    use_ascend_op_package()
    return f"aclnn{function}Custom"


def require_backend(backend: str) -> None:
    """Check that the operators of a backend are built, and let MindSpore find them; raises ConfigError if not.

    For one without a library this is to be called before MindSpore first touches the device, and is refused after it:
    CANN reads where op packages are once.
    """
    if backend in BACKENDS and BACKENDS[backend].library is None and hal.is_initialized(BACKENDS[backend].device):
        _require_named_package(backend)
    _target("PagedAttention", backend)


def _require_named_package(backend: str) -> None:
    try:
        named = is_package_named()
    except BuildError as error:
        raise ConfigError(str(error)) from error
    if not named:
        raise ConfigError(
            f"the operators of runtime.ops_backend {backend} cannot be found any more: MindSpore has used the device "
            "already; create the LLM before that, or export ASCEND_CUSTOM_OPP_PATH before Python starts"
        )


def _target(function: str, backend: str | Path) -> str:
    """What ops.Custom has to be given to find an operator."""
    if isinstance(backend, Path):
        return f"{backend.resolve()}:{function}"
    if backend not in BACKENDS:
        raise ConfigError(f"unknown ops backend {backend!r}; allowed: {', '.join(BACKENDS)}")
    library = BACKENDS[backend].library
    try:
        return _target_in_op_package(function) if library is None else f"{library()}:{function}"
    except BuildError as error:
        raise ConfigError(str(error)) from error


def library_of(backend: str | Path) -> Path:
    """The library that has a backend's operators; raises ConfigError where there is none."""
    return Path(_target("", backend).rpartition(":")[0])


def custom_op(function: str, backend: str | Path, out_shape: Callable, out_dtype: Callable) -> ops.Custom:
    """The operator that the C function of this name is; raises ConfigError where it is not built."""
    if isinstance(backend, Path) or backend not in BACKENDS or BACKENDS[backend].library is not None:
        return library_op(function, backend)
    # Found by its name: refused unless out_shape is callable.
    return ops.Custom(_target(function, backend), out_shape, out_dtype, func_type="aot")


def library_op(function: str, backend: str | Path) -> ops.Custom:
    """The operator of this name in a backend's library; raises ConfigError where that is not built.

    The library tells shapes and types itself (op/inference.h): a graph loaded from a MindIR has no Python to ask.
    """
    op = ops.Custom(_target(function, backend), func_type="aot")
    op.add_prim_attr("reg_op_name", function)  # MindSpore's C++ inference reads it, and nothing else sets it
    return op


def writes_caches(op: ops.Custom, *inputs: str) -> ops.Custom:
    """Mark an operator that writes into its inputs key_cache and value_cache; returns it.

    inputs: the names of all of them, attributes too, in order; `*` stands for any number at the end. side_effect_mem:
    without it, the graph compiler deletes an operator whose output nobody uses, and may move a read before the write.
    RW_WRITE: MindSpore's passes know of which inputs no copy will do; its own ReshapeAndCache is registered so.
    """
    op.add_prim_attr("side_effect_mem", True)
    op.set_signatures(tuple(_signature_of(name) for name in inputs))
    return op


def _signature_of(name: str) -> signature.Signature:
    if name == "*":
        return signature.make_sig("rest", kind=signature.sig_kind.KIND_VAR_POSITIONAL)
    if name in CACHES:
        return signature.make_sig(name, signature.sig_rw.RW_WRITE)
    return signature.make_sig(name)


def cache_writer(function: str, backend: str | Path, *inputs: str) -> ops.Custom:
    """Make an operator that writes into the caches, its own output a small dummy; inputs: as in writes_caches."""
    op = custom_op(function, backend, out_shape=lambda *_: [1], out_dtype=lambda *_: ms.int32)
    return writes_caches(op, *inputs)
