"""The model behind an engine: found, described, built over its pages, and filled with weights."""

import math
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor
from mindspore.common import np_dtype
from tqdm import tqdm

from mindspore_paged.cache.block_size import choose_block_size
from mindspore_paged.config import DEMO_WEIGHTS, RANDOM_WEIGHTS, EngineConfig, RuntimeSection
from mindspore_paged.custom_ops.backends import BACKENDS
from mindspore_paged.custom_ops.targets import require_backend
from mindspore_paged.engine.execution.kv_pool import KVPagePool
from mindspore_paged.engine.execution.ranks.collectives import collectives_of
from mindspore_paged.engine.execution.ranks.place import Place
from mindspore_paged.engine.execution.step import Step
from mindspore_paged.errors import CheckpointError, ConfigError
from mindspore_paged.formats.weight_format import BYTES
from mindspore_paged.formats.weight_place import WeightPlace, values_of_parameters
from mindspore_paged.key_file import read_key
from mindspore_paged.mindir.folder import MindIRFolder, is_mindir_folder
from mindspore_paged.mindir.step_graph import MindIRStep, load_step
from mindspore_paged.model_config import ModelConfig, model_config_by_name
from mindspore_paged.tensor_parallel import WHOLE, TensorParallel
from mindspore_paged.weights.bfloat16 import BFLOAT16
from mindspore_paged.weights.check import WEIGHT_DTYPES, check_weights
from mindspore_paged.weights.checkpoint import Checkpoint, open_checkpoint
from mindspore_paged.weights.demo_model import fetch_demo_model
from mindspore_paged.weights.exported_checkpoint import ExportedCheckpoint
from mindspore_paged.weights.packing import AUTO, formats_of, read_packed
from mindspore_paged.weights.random_checkpoint import RandomCheckpoint
from mindspore_paged.weights.sharded_checkpoint import ShardedCheckpoint
from mindspore_paged.weights.weight_memory import WeightMemory

NOT_OF_THE_SHAPE = ("bos_token_id", "eos_token_ids", "max_position_embeddings")
"""Fields in which checkpoints of one model differ: the weights' own values are taken."""


MOST_OF_A_ROW = 1024
"""Numbers of each weight that model_fingerprint takes."""


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
    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": runtime.jit_level})
    ms.set_recursion_limit(10_000)  # an unrolled graph of 80 layers is deep


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
    if config.fused_ops and model.dtype not in BACKENDS[runtime.ops_backend].fused_dtypes:
        raise ConfigError(
            f"runtime.fused_ops is true, which needs runtime.ops_backend cpu and model.dtype float32; they are "
            f"{runtime.ops_backend} and {model.dtype}"
        )
    if model.weight_dtype != AUTO and not config.fused_ops:
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


def with_block_size(config: EngineConfig, model_config: ModelConfig, report: bool) -> EngineConfig:
    """The configuration with `block_size: auto` decided, and if `report` the reason printed."""
    if config.cache.block_size != "auto":
        return config
    expected_len = config.scheduler.max_model_len or model_config.max_position_embeddings
    most_numbers = BACKENDS[config.runtime.ops_backend].numbers_in_a_block
    size, reason = choose_block_size(expected_len, model_config.head_dim, most_numbers)
    if report:
        tqdm.write(f"block_size: {size} ({reason})", file=sys.stderr)
    return replace(config, cache=replace(config.cache, block_size=size))


def build_kv_pool(
    config: EngineConfig, model_config: ModelConfig, num_blocks: int, table_shape, parallel: TensorParallel = WHOLE
) -> KVPagePool:
    """The pages and block_table for a rank's part of a model, allocated.

    Raises ConfigError if the kernels do not take its heads.
    """
    share = parallel.share(model_config)
    _check_heads(config, share)
    return KVPagePool.allocate(
        num_layers=share.num_hidden_layers,
        num_blocks=num_blocks,
        block_size=config.cache.block_size,
        num_kv_heads=share.num_key_value_heads,
        head_dim=share.head_dim,
        dtype=config.kv_cache_dtype,
        table_shape=table_shape,
        backend=config.runtime.ops_backend,
        layers_together=config.fused_ops and parallel.size == 1,  # the whole step is one operator then
    )


def _check_heads(config: EngineConfig, model_config: ModelConfig) -> None:
    head_dim, backend = model_config.head_dim, BACKENDS[config.runtime.ops_backend]
    if backend.heads is None:
        return
    group = model_config.num_attention_heads // model_config.num_key_value_heads
    is_int8 = config.kv_cache_dtype == "int8"
    step = backend.heads.int8_step if is_int8 else backend.heads.step
    if head_dim % step or head_dim > backend.heads.most:
        pages = " and cache.kv_cache_dtype int8" if is_int8 else ""
        raise ConfigError(
            f"the model's head_dim is {head_dim}; with runtime.ops_backend {backend.name}{pages} it must be a multiple "
            f"of {step}, at most {backend.heads.most}"
        )
    if group > backend.heads.most_group:
        raise ConfigError(
            f"the model has {group} attention heads for each KV head; with runtime.ops_backend {backend.name} it must be "
            f"at most {backend.heads.most_group}"
        )


def build_model(
    config: EngineConfig,
    model_config: ModelConfig,
    kv_pool: KVPagePool,
    max_model_len: int,
    place: Place | None = None,
    checkpoint: Checkpoint | None = None,
    **kwargs,
) -> Step:
    """A rank's part of the model over the pool, its weights not set yet; without a place, the whole of it.

    checkpoint: needed where model.weight_dtype is `stored`.
    """
    # Here, because an exported model is run without the model's code.
    from mindspore_paged.models.decoder import Decoder
    from mindspore_paged.models.parallel import ONE_RANK

    model = config.model
    return Decoder(
        model_config,
        kv_pool,
        max_model_len,
        getattr(ms, model.dtype),
        config.runtime.ops_backend,
        parallel=place.parallel if place else WHOLE,
        ranks=collectives_of(place) if place else ONE_RANK,
        formats=formats_of(checkpoint, model.weight_dtype, model.dtype) if config.fused_ops else None,
        **kwargs,
    )


def load_exported(
    folder: MindIRFolder, config: EngineConfig, num_blocks: int, max_model_len: int
) -> tuple[MindIRStep, KVPagePool]:
    """The step of an exported model over a new pool, its weights not set yet.

    Raises CheckpointError if the configuration asks for what the graph is not.
    """
    folder.check_fixed(fixed_in_the_graph(config, max_model_len))
    step = load_step(folder, num_blocks, config.scheduler.max_num_seqs)
    kv_pool = KVPagePool(step.key_caches, step.value_caches, step.block_table, folder.kernel_library)
    kv_pool.clear()
    return step, kv_pool


def fixed_in_the_graph(config: EngineConfig, max_model_len: int) -> dict[str, int | str]:
    """The keys of the configuration, beside the model's own, that an exported graph cannot change any more."""
    return {
        "model.dtype": config.model.dtype,
        "model.weight_dtype": config.model.weight_dtype,
        "runtime.fused_ops": config.fused_ops,
        "cache.kv_cache_dtype": config.kv_cache_dtype,
        "cache.block_size": config.cache.block_size,
        "scheduler.max_model_len": max_model_len,
        "runtime.ops_backend": config.runtime.ops_backend,
    }


def part_of(checkpoint: Checkpoint, parallel: TensorParallel, model_config: ModelConfig) -> Checkpoint:
    """The checkpoint as one rank reads it: its part of every tensor."""
    if parallel.size == 1 or isinstance(checkpoint, ShardedCheckpoint | ExportedCheckpoint):  # one rank's part already
        return checkpoint
    return ShardedCheckpoint(checkpoint, parallel.cuts(model_config))


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


def model_fingerprint(config: EngineConfig, model_config: ModelConfig, model: Step) -> str:
    """A text that differs between models, weights, and types of pages: only equal ones can exchange pages.

    Of each weight the beginning of the first row counts, of which the first of any number of ranks has as much: whole
    pages are the same however many share the model. A model that was trained further differs there too.
    """
    digest = sha256(repr((model_config, config.model.dtype, config.kv_cache_dtype, config.cache.block_size)).encode())
    most_ranks = math.gcd(model_config.num_attention_heads, model_config.intermediate_size)
    cuts = WHOLE.cuts(model_config)
    for name, place in sorted(model.weight_places().items()):
        cut = cuts.of(name)
        is_cut = cut is not None and cut.axis == len(place.stored_shape) - 1
        num_common = cut.length // most_ranks if is_cut else place.stored_shape[-1]
        digest.update(name.encode() + place.beginning(min(num_common, MOST_OF_A_ROW)))
    return digest.hexdigest()


def open_weights(config: EngineConfig, parallel: TensorParallel = WHOLE) -> Checkpoint:
    """The checkpoint that `model.weights` names, whole, or of ranks' folders that of this rank.

    Raises ConfigError if it names none, CheckpointError for a bad one.
    """
    weights = config.model.weights
    if weights is None:
        raise ConfigError("model.weights is not set; give a file, a folder, `demo` or `random`")
    if weights == RANDOM_WEIGHTS:
        return RandomCheckpoint(config.model.dimensions(), config.model.seed)
    if weights == DEMO_WEIGHTS:
        weights = fetch_demo_model(report=lambda line: None)
    if is_mindir_folder(weights):
        return ExportedCheckpoint(_folder_of(weights, config, parallel))
    for key, is_set in {
        "model.verify_key": config.model.verify_key,
        "runtime.local_kernels": config.runtime.local_kernels,
    }.items():
        if is_set:
            raise ConfigError(f"{key} is set, which is for exported models; {weights} is none")
    return open_checkpoint(weights, config.model.dimensions(), parallel)


def _folder_of(path: Path, config: EngineConfig, parallel: TensorParallel) -> MindIRFolder:
    key_file = config.model.verify_key
    verify_key = None if key_file is None else read_key(key_file, "model.verify_key")
    folder = MindIRFolder(path, verify_key, config.runtime.local_kernels)
    exported = (folder.manifest.rank, folder.manifest.num_ranks)
    if exported != (parallel.rank, parallel.size):
        raise CheckpointError(
            f"{path}: the part of rank {exported[0]} of {exported[1]}; this process is rank {parallel.rank} of "
            f"{parallel.size}"
        )
    return folder


def resolve_model_config(config: EngineConfig, checkpoint: Checkpoint) -> ModelConfig:
    """What the weights say of themselves, or else the YAML, with the keys of model.config on top."""
    described = checkpoint.model_config
    if config.model.name is not None and described is not None:
        _check_name(config, described)
    model_config = config.model.dimensions(described)
    if isinstance(checkpoint, ExportedCheckpoint) and model_config != described:
        raise CheckpointError(f"{checkpoint.path}: the graph is of another model than model.config says; leave it out")
    if model_config is None:
        raise ConfigError(f"{checkpoint.path} does not describe its model; set model.name, or all of model.config")
    return model_config


def _check_name(config: EngineConfig, described: ModelConfig) -> None:
    """Refuse a model.name that the weights contradict: equal shapes with other frequencies give fluent nonsense."""
    named = model_config_by_name(config.model.name)
    for field in fields(ModelConfig):
        ours, theirs = getattr(named, field.name), getattr(described, field.name)
        same = math.isclose(ours, theirs, rel_tol=1e-6) if isinstance(ours, float) else ours == theirs
        if not (same or config.model.overrides(field.name) or field.name in NOT_OF_THE_SHAPE):
            raise ConfigError(
                f"model.name {config.model.name} has {field.name} {ours}, but the weights say {theirs}; "
                "leave model.name out"
            )
