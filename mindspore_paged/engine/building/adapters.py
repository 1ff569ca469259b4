"""The adapters that a configuration names: read before the model is built, which has room for them, and then loaded."""

from mindspore_paged.config import EngineConfig
from mindspore_paged.engine.engine import LLMEngine
from mindspore_paged.errors import ConfigError, RequestError
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.weights.lora_adapter import AdapterRoom, LoraAdapter, read_lora_adapter

DEFAULT_RANK = 16
"""Of adapters that are loaded later, where no adapter is named that says how large they are."""


def read_adapters(config: EngineConfig, model_config: ModelConfig) -> dict[str, LoraAdapter]:
    """Those of model.lora_adapters, by name; raises CheckpointError for one that cannot be read."""
    return {name: read_lora_adapter(path, model_config) for name, path in config.model.lora_adapters.items()}


def adapter_room(config: EngineConfig, adapters: dict[str, LoraAdapter]) -> AdapterRoom | None:
    """Room for model.max_loras adapters of model.max_lora_rank; None where there are none.

    Raises ConfigError where those that are named do not fit.
    """
    of_model = config.model
    number = len(adapters) if of_model.max_loras is None else of_model.max_loras
    if len(adapters) > number:
        raise ConfigError(f"model.max_loras is {number}; model.lora_adapters names {len(adapters)}")
    if number == 0:
        return None
    ranks = {name: adapter.rank for name, adapter in adapters.items()}
    largest = max(ranks, key=ranks.get, default=None)
    rank = of_model.max_lora_rank or ranks.get(largest, DEFAULT_RANK)
    if largest is not None and ranks[largest] > rank:
        raise ConfigError(f"model.max_lora_rank is {rank}; the adapter {largest!r} has rank {ranks[largest]}")
    return AdapterRoom(number, rank)


def load_adapters(engine: LLMEngine, adapters: dict[str, LoraAdapter]) -> None:
    """Load them into the engine; closes it and raises ConfigError for a name that none can have."""
    for name, adapter in adapters.items():
        try:
            engine.lora.load(name, adapter)
        except RequestError as error:
            engine.close()
            raise ConfigError(f"model.lora_adapters: {error}") from None
