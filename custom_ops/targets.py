"""Where an operator of a name is found: in the library of a backend, or in the NPU's op package."""

from collections.abc import Callable
from pathlib import Path

import mindspore as ms
from mindspore import ops

from mindspore_paged.custom_ops.backends import BACKENDS
from mindspore_paged.custom_ops.build import BuildError
from mindspore_paged.custom_ops.build_ascend import use_ascend_op_package
from mindspore_paged.errors import ConfigError


def _target_in_op_package(function: str) -> str:
    # In a process whose device is Ascend, ops.Custom looks for this name in the op package: the types of the operands
    # in op_impl/…/aic-*-ops-info.json (inputs sorted as text, hence at most 10), those of the C function in
    # op_api/include/aclnn_*.h. From the latter it writes and compiles a wrapper, in ./custom_kernel_meta or
    # $MS_COMPILER_CACHE_PATH. An attribute is an operand behind the tensors, always given: a `float` of the OpDef is a
    # double of the C function, which takes our float32, an `int` takes int64. Elsewhere it checks nothing.
    use_ascend_op_package()
    return f"aclnn{function}Custom"


def require_backend(backend: str) -> None:
    """Check that the operators of a backend are built, and let MindSpore find them; raises ConfigError if not.

    For one without a library this is to be called before MindSpore first touches the device.
    """
    _target("PagedAttention", backend)


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


def writes_caches(op: ops.Custom) -> ops.Custom:
    """Mark an operator that writes into its inputs; returns it.

    Without this, the graph compiler deletes one whose output nobody uses, and may move a read before the write.
    """
    op.add_prim_attr("side_effect_mem", True)
    return op


def cache_writer(function: str, backend: str | Path) -> ops.Custom:
    """Make an operator that writes into the caches, its own output a small dummy."""
    return writes_caches(custom_op(function, backend, out_shape=lambda *_: [1], out_dtype=lambda *_: ms.int32))
