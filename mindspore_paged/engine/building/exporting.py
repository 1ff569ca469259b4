"""From a configuration to the folder of an exported model."""

import platform
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from mindspore_paged.config import EngineConfig
from mindspore_paged.custom_ops.backends import BACKENDS, Backend
from mindspore_paged.custom_ops.build import (
    BUILD_COMMAND,
    DEFAULT_OUTPUT_DIR,
    BuildError,
    build_cpu,
    built_levels,
    levels_of_machine,
    sources_digest,
)
from mindspore_paged.custom_ops.targets import library_of
from mindspore_paged.engine.building.context import set_context
from mindspore_paged.engine.building.loading import shapes_of
from mindspore_paged.engine.building.model import build_kv_pool, build_model
from mindspore_paged.engine.building.opening import open_weights, part_of, resolve_model_config
from mindspore_paged.engine.building.plan import make_plan
from mindspore_paged.engine.execution.ranks.collectives import join_group
from mindspore_paged.engine.execution.ranks.place import Place, errors_end_the_job, place_of
from mindspore_paged.errors import ConfigError
from mindspore_paged.files import whole_folder
from mindspore_paged.formats.weight_place import WeightPlace
from mindspore_paged.key_file import read_key
from mindspore_paged.launch.worker import current_worker
from mindspore_paged.mindir.configuration import write_config
from mindspore_paged.mindir.folder import (
    GRAPH,
    KERNELS,
    TOKENIZER,
    WEIGHTS,
    ExportedWeight,
    KernelLibrary,
    sign_manifest,
    write_manifest,
)
from mindspore_paged.mindir.step_graph import export_step
from mindspore_paged.tokenizer import load_tokenizer
from mindspore_paged.weights.check import check_weights
from mindspore_paged.weights.exported_checkpoint import write_weights
from mindspore_paged.weights.packing import read_packed

BLOCKS_IN_THE_FILE, ROWS_IN_THE_FILE = 2, 1
"""Pages and rows of block_table of the exported Parameters, which have no values: loading gives them their numbers."""


def export_model(
    config: EngineConfig,
    output: Path,
    portable_kernels: bool = False,
    show_progress: bool = True,
    sign_key: Path | None = None,
) -> Path:
    """Export the step, weights, tokenizer and kernels to a new folder; returns it.

    Under msrun every rank writes its part to a folder of its own, `output`/rank_N. Nothing is left of an export that
    fails. portable_kernels: for every CPU of this architecture, compiled if need be, and not for those alone whose
    kernels are built here. sign_key: the file of
    a key that signs the manifest, for whoever loads the folder with the same key.
    Raises ConfigError, CheckpointError, and OSError that names the file that cannot be written.
    """
    with errors_end_the_job():
        worker = current_worker()
        place = place_of(worker, config.parallel.resolved_tensor_parallel_size(worker.size))
        _check_exportable(config)
        output = Path(output).expanduser()
        target = output / f"rank_{worker.rank}" if worker.supervised else output
        _check_new(target)
        key = None if sign_key is None else read_key(Path(sign_key), "--sign-key")
        with whole_folder(target) as scratch:
            _export(config, place, scratch, portable_kernels, show_progress and place.is_leader)
            if key is not None:
                sign_manifest(scratch, key)
        return target


def _check_exportable(config: EngineConfig) -> None:
    if config.parallel.data_parallel_size != 1:
        raise ConfigError("parallel.data_parallel_size must be 1 for an export: replicas load the same folder")
    _check_no_adapters(config)
    if config.scheduler.speculative_model is not None:
        raise ConfigError("scheduler.speculative_model must be left out for an export: the folder holds one model")
    if not BACKENDS[config.runtime.ops_backend].infers_shapes:
        raise ConfigError(
            f"runtime.ops_backend is {config.runtime.ops_backend}, whose graphs cannot be loaded for any number of "
            "tokens: MindSpore asks Python for the shapes of its operators; export with cpu or ascend_emulator"
        )


def _check_no_adapters(config: EngineConfig) -> None:
    if config.model.lora_adapters or config.model.max_loras:
        raise ConfigError("model.lora_adapters and model.max_loras must not be set for an export: it has no adapters")


def _check_new(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"--output {target}: already there; give a new folder")


def _export(config: EngineConfig, place: Place, folder: Path, portable_kernels: bool, show_progress: bool) -> None:
    set_context(config)
    checkpoint = open_weights(config, place.parallel)
    model_config = resolve_model_config(config, checkpoint)
    plan = make_plan(config, model_config, place.parallel, checkpoint, report=show_progress)
    tokenizer = load_tokenizer(config.model.tokenizer or checkpoint.tokenizer_source)
    join_group(place)
    kv_pool = build_kv_pool(replace(plan, num_blocks=BLOCKS_IN_THE_FILE, max_num_seqs=ROWS_IN_THE_FILE))
    model = build_model(plan, kv_pool, place)
    own = part_of(checkpoint, plan.parallel, model_config)
    places = model.weight_places()
    check_weights(own, shapes_of(places))

    backend = plan.backend
    export_step(model, library_of(backend.name), folder / GRAPH)
    kernels = _copy_kernels(backend, folder, portable_kernels)
    progress = partial(tqdm, desc="Writing weights", unit="tensor", disable=not show_progress, leave=False)
    write_weights(
        folder / WEIGHTS,
        ((name, read_packed(own, name, places[name].form)) for name in progress(places)),
    )
    if tokenizer is not None:
        tokenizer.save(folder / TOKENIZER)
    buckets = plan.token_buckets
    config = replace(config, cache=replace(config.cache, block_size=plan.block_size))
    write_config(folder, config, model_config, plan.num_blocks, max_model_len=plan.max_model_len, token_buckets=buckets)
    write_manifest(
        folder,
        model=model_config,
        fixed=plan.fixed_in_the_graph(),
        weights={name: _as_exported(place) for name, place in places.items()},
        num_blocks=plan.num_blocks,
        token_buckets=buckets,
        rank=plan.parallel.rank,
        num_ranks=plan.parallel.size,
        kernels=kernels,
        kernel_sources=sources_digest() if backend.is_native else "",
    )


def _as_exported(place: WeightPlace) -> ExportedWeight:
    return ExportedWeight(place.parameter.name, place.form.name, tuple(place.stored_shape), place.offset)


def _copy_kernels(backend: Backend, folder: Path, portable: bool) -> tuple[KernelLibrary, ...]:
    """Put the backend's libraries into the folder; raises ConfigError where there are none, or they do not compile."""
    (folder / KERNELS).mkdir()
    if not backend.is_native:
        copied = _copy(library_of(backend.name), folder)
        return (KernelLibrary(copied, platform.machine(), None),)
    built = built_levels()
    if portable:
        try:
            for level in set(levels_of_machine()) - set(built):
                build_cpu(DEFAULT_OUTPUT_DIR, level)
        except BuildError as error:
            raise ConfigError(f"--portable-kernels: {error}") from None
        built = levels_of_machine()
    if not built:
        raise ConfigError(f"the CPU operators are not those of today's sources; run `{BUILD_COMMAND}`")
    return tuple(
        KernelLibrary(_copy(DEFAULT_OUTPUT_DIR / level.library_name, folder), level.machine, level.name)
        for level in built
    )


def _copy(library: Path, folder: Path) -> str:
    shutil.copy(library, folder / KERNELS)
    return f"{KERNELS}/{library.name}"
