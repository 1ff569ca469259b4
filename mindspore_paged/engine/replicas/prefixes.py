"""Prefixes of an engine that may be several: every replica keeps what is pinned or imported, the first one exports."""

from pathlib import Path

from mindspore_paged.engine import prefix_store
from mindspore_paged.engine.engine import LLMEngine
from mindspore_paged.engine.replicas.routed_engine import RoutedEngine
from mindspore_paged.errors import RequestError


def pin_prefix(engine: LLMEngine | RoutedEngine, prompt: str | list[int]) -> int:
    """As `prefix_store.pin_prefix`, in every replica."""
    if isinstance(engine, RoutedEngine):
        if engine.has_unfinished:  # or those that are idle would keep it alone
            raise RequestError("a prefix can be computed only while no request is under way")
        return engine.on_every_replica(prefix_store.pin_prefix, prompt)[0]
    return prefix_store.pin_prefix(engine, prompt)


def export_prefix(engine: LLMEngine | RoutedEngine, prompt: str | list[int], path: str | Path | None = None) -> bytes:
    """As `prefix_store.export_prefix`, from the replica of this process."""
    return prefix_store.export_prefix(engine.local if isinstance(engine, RoutedEngine) else engine, prompt, path)


def import_prefix(engine: LLMEngine | RoutedEngine, source: bytes | str | Path) -> int:
    """As `prefix_store.import_prefix`, into every replica; a file is read by each."""
    if isinstance(engine, RoutedEngine):
        return engine.on_every_replica(prefix_store.import_prefix, source)[0]
    return prefix_store.import_prefix(engine, source)
