"""Adapters of an engine that may be several: every replica has the same ones."""

from mindspore_paged.engine.engine import LLMEngine
from mindspore_paged.engine.replicas.routed_engine import RoutedEngine
from mindspore_paged.weights.lora_adapter import LoraAdapter


def load_lora_adapter(engine: LLMEngine | RoutedEngine, name: str, adapter: LoraAdapter) -> None:
    """Load an adapter in every replica, or in none; raises RequestError as `LoraAdapters.load` does."""
    if isinstance(engine, RoutedEngine):
        engine.on_every_replica(_check, name, adapter)
        engine.on_every_replica(_load, name, adapter)
    else:
        _load(engine, name, adapter)


def unload_lora_adapter(engine: LLMEngine | RoutedEngine, name: str) -> None:
    """Let no further request have an adapter; raises RequestError for one that is not loaded."""
    if isinstance(engine, RoutedEngine):
        engine.on_every_replica(_unload, name)
    else:
        _unload(engine, name)


def _check(engine: LLMEngine, name: str, adapter: LoraAdapter) -> None:
    engine.lora.check(name, adapter)


def _load(engine: LLMEngine, name: str, adapter: LoraAdapter) -> None:
    engine.lora.load(name, adapter)


def _unload(engine: LLMEngine, name: str) -> None:
    engine.lora.unload(name)
