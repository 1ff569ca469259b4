"""The configuration of an exported model: that of its export, without what lay on the machine of the export."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import yaml
from pydantic import TypeAdapter

from mindspore_paged.config import EngineConfig, load_config
from mindspore_paged.files import write_text
from mindspore_paged.launch.worker import current_worker
from mindspore_paged.mindir.folder import CONFIG, folder_of_rank
from mindspore_paged.model_config import ModelConfig

PATHS_OF_A_MACHINE = {"cache": ("page_files", "page_key"), "runtime": ("event_log",)}


def load_mindir_config(path: Path | str, overrides: Sequence[str] = ()) -> EngineConfig:
    """The configuration to run an exported model with, changed by `section.key=value` overrides.

    Under msrun it is that of this worker's rank. Raises CheckpointError if `path` holds no exported model, ConfigError
    for an override that cannot be used.
    """
    folder = folder_of_rank(Path(path), current_worker().rank)
    return load_config(folder / CONFIG, overrides)


def write_config(folder: Path, config: EngineConfig, model_config: ModelConfig, num_blocks: int, **scheduler) -> None:
    """Write the file that `load_mindir_config` reads; scheduler: keys that the export has decided."""
    data = TypeAdapter(EngineConfig).dump_python(config, mode="json", exclude_none=True, exclude={"sampling"})
    data["sampling"] = _plain(asdict(config.sampling))
    of_graph = {key: getattr(config.model, key) for key in ("dtype", "weight_dtype")}
    data["model"] = {"weights": ".", **of_graph, "config": _plain(asdict(model_config))}
    for section, keys in PATHS_OF_A_MACHINE.items():
        for key in keys:
            data[section].pop(key, None)
    data["cache"].pop("memory_budget", None)
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
