"""MindSpore's graph mode on the device of the configured operators, and what these refuse before anything is opened."""

import mindspore as ms

from mindspore_paged.config import EngineConfig, RuntimeSection
from mindspore_paged.custom_ops.backends import BACKENDS
from mindspore_paged.custom_ops.targets import require_backend
from mindspore_paged.errors import ConfigError
from mindspore_paged.weights.packing import AUTO


def set_context(config: EngineConfig) -> None:
    """Put MindSpore into graph mode on the configured device.

    Raises ConfigError if the operators do not run there, are not built, do not take the pages' type, or the device is
    not there.
    """
    runtime = config.runtime
    _check_device(runtime)
    _check_fused_ops(config)
    _check_cache_dtype(config)
    require_backend(runtime.ops_backend)
    if ms.get_context("device_target") != runtime.device_target:  # MindSpore refuses even the same device once in use
        try:
            ms.set_device(runtime.device_target)
        except RuntimeError as error:
            reason = str(error).partition(". ")[0]  # advice and load errors of many lines follow
            raise ConfigError(
                f"runtime.device_target is {runtime.device_target}, which MindSpore does not have here: {reason}"
            ) from error
    ms.set_context(mode=ms.GRAPH_MODE, jit_config=_jit_config(runtime))
    ms.set_recursion_limit(10_000)  # an unrolled graph of 80 layers is deep


def _jit_config(runtime: RuntimeSection) -> dict[str, str]:
    # The runtime that inference on an NPU is given: less between two launches. MindSpore has it for O0 alone.
    if runtime.device_target == "Ascend" and runtime.jit_level == "O0":
        return {"jit_level": "O0", "infer_boost": "on"}
    return {"jit_level": runtime.jit_level}


def _check_device(runtime: RuntimeSection) -> None:
    device = BACKENDS[runtime.ops_backend].device
    if runtime.device_target != device:
        others = " or ".join(name for name, backend in BACKENDS.items() if backend.device == runtime.device_target)
        raise ConfigError(
            f"runtime.device_target is {runtime.device_target}, but runtime.ops_backend {runtime.ops_backend} "
            f"runs on {device} only; set runtime.device_target to {device}, or runtime.ops_backend to {others}"
        )


def _check_fused_ops(config: EngineConfig) -> None:
    model, runtime = config.model, config.runtime
    backend = BACKENDS[runtime.ops_backend]
    if config.fused_ops and model.dtype not in backend.fused_dtypes:
        raise ConfigError(
            f"runtime.fused_ops is true, which with runtime.ops_backend {backend.name} needs model.dtype "
            f"{' or '.join(backend.fused_dtypes)}; it is {model.dtype}"
        )
    if model.weight_dtype != AUTO and not (config.fused_ops and backend.whole_layers):
        raise ConfigError(
            f"model.weight_dtype is {model.weight_dtype}, which needs fused operators: runtime.ops_backend cpu, "
            f"model.dtype float32, and runtime.fused_ops not false"
        )


def _check_cache_dtype(config: EngineConfig) -> None:
    by_dtype = BACKENDS[config.runtime.ops_backend].cache_dtypes
    if by_dtype is not None and config.kv_cache_dtype not in (allowed := by_dtype[config.model.dtype]):
        auto = "auto, which is " if config.cache.kv_cache_dtype == "auto" else ""
        raise ConfigError(
            f"cache.kv_cache_dtype is {auto}{config.kv_cache_dtype}; with model.dtype {config.model.dtype} and "
            f"runtime.ops_backend {config.runtime.ops_backend} it must be {', '.join(allowed[:-1])} or {allowed[-1]}"
        )
