"""The configuration of an exported model: that of its export, without what lay on the machine of the export."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import yaml
from pydantic import TypeAdapter

from mindspore_paged.config import EngineConfig, ServerSection, load_config
from mindspore_paged.errors import CheckpointError
from mindspore_paged.files import write_text
from mindspore_paged.key_file import read_key
from mindspore_paged.launch.worker import current_worker
from mindspore_paged.mindir.folder import CONFIG, check_file, folder_of_rank, read_manifest
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.wording import shortened

OF_A_MACHINE = {
    "model": ("tokenizer", "verify_key"),
    "cache": ("page_files", "page_key"),
    "scheduler": ("speculative_model",),
    "runtime": ("event_log", "local_kernels"),
}
"""Keys that say what lies on a machine, or whom its user trusts: no export has them, and none can set them."""


def load_mindir_config(
    path: Path | str,
    overrides: Sequence[str] = (),
    verify_key: Path | str | None = None,
    local_kernels: bool = False,
) -> EngineConfig:
    """The configuration to run an exported model with, changed by `section.key=value` overrides.

    verify_key: the file of a key that must have signed the folder, before anything else of it is read. local_kernels:
    run it with the kernels that are installed here. Under msrun it is the configuration of this worker's rank.
    Raises CheckpointError if `path` holds no exported model, or one that is not signed or reaches out of its folder;
    ConfigError for an override or a key file that cannot be used.
    """
    folder = folder_of_rank(Path(path), current_worker().rank)
    key = None if verify_key is None else read_key(Path(verify_key), "the key to verify with")
    check_file(folder, read_manifest(folder, key), CONFIG)
    _check_own_words(folder, load_config(folder / CONFIG))
    config = load_config(folder / CONFIG, overrides)
    if verify_key is not None:
        config = replace(config, model=replace(config.model, verify_key=Path(verify_key)))
    if local_kernels:
        config = replace(config, runtime=replace(config.runtime, local_kernels=True))
    return config


def _check_own_words(folder: Path, config: EngineConfig) -> None:
    """Raise CheckpointError if the exported file itself, not its user, names what lies outside the folder."""
    if config.model.weights != folder:
        raise CheckpointError(
            f"{folder / CONFIG}: model.weights is {shortened(str(config.model.weights))}; it must be the folder itself"
        )
    for section, keys in OF_A_MACHINE.items():
        for key in keys:
            if getattr(getattr(config, section), key):
                raise CheckpointError(f"{folder / CONFIG}: {section}.{key} is set; only who runs the model may set it")
    if config.sampling.logits_processors:
        raise CheckpointError(
            f"{folder / CONFIG}: sampling.logits_processors is set; only who runs the model may set it"
        )
    if config.server != ServerSection():
        raise CheckpointError(f"{folder / CONFIG}: server has keys; only who runs the model may set them")


def write_config(folder: Path, config: EngineConfig, model_config: ModelConfig, num_blocks: int, **scheduler) -> None:
    """Write the file that `load_mindir_config` reads; scheduler: keys that the export has decided."""
    data = TypeAdapter(EngineConfig).dump_python(config, mode="json", exclude_none=True, exclude={"sampling", "server"})
    sampling = replace(config.sampling, logits_processors=())  # code stays with whoever runs the model
    data["sampling"] = _plain(asdict(sampling) | {"logit_bias": dict(sampling.logit_bias)})
    of_graph = {key: getattr(config.model, key) for key in ("dtype", "weight_dtype")}
    data["model"] = {"weights": ".", **of_graph, "config": _plain(asdict(model_config))}
    if config.model.chat_template_kwargs:
        data["model"]["chat_template_kwargs"] = config.model.chat_template_kwargs
    for section, keys in OF_A_MACHINE.items():
        for key in keys:
            data[section].pop(key, None)
    data["cache"].pop("memory_budget", None)
    data["runtime"].pop("embeddings", None)  # of which the exported graph gives none
    data["cache"] |= {"num_blocks": num_blocks, "kv_cache_dtype": config.kv_cache_dtype}
    data["scheduler"] |= {key: list(value) if isinstance(value, tuple) else value for key, value in scheduler.items()}
    write_text(folder / CONFIG, yaml.safe_dump(data, sort_keys=False))


def _plain(values: dict) -> dict:
    """Without what is None, and lists for tuples: as a YAML file has them."""
    return {
        key: _plain(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
        if value is not None
    }
