"""The engine's configuration: dataclasses read from YAML, ours or MindFormers', checked before anything is built."""

from mindspore_paged.config.loading import config_from_dict, load_config
from mindspore_paged.config.sections import (
    DEMO_WEIGHTS,
    RANDOM_WEIGHTS,
    CacheSection,
    EngineConfig,
    ModelSection,
    ParallelSection,
    RuntimeSection,
    SchedulerSection,
)
from mindspore_paged.config.server_section import ServerSection

__all__ = [
    "DEMO_WEIGHTS",
    "RANDOM_WEIGHTS",
    "CacheSection",
    "EngineConfig",
    "ModelSection",
    "ParallelSection",
    "RuntimeSection",
    "SchedulerSection",
    "ServerSection",
    "config_from_dict",
    "load_config",
]
