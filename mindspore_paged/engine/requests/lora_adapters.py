"""The adapters that an engine serves beside its model, by name: which are loaded, and where each lies."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mindspore_paged.errors import CheckpointError, RequestError
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.weights.lora_adapter import AdapterSlots, LoraAdapter, read_lora_adapter
from mindspore_paged.wording import is_unicode, shortened

MAX_NAME = 256
"""Characters of an adapter's name."""

_NO_ROOM = "this engine has no room for adapters: model.max_loras says for how many it has"


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter that is loaded. number: its place, as steps are told it. digest: names what it computes."""

    name: str
    number: int
    digest: bytes


class LoraAdapters:
    """Names of adapters, and the places of a step's memory that they have; `load`, `unload`, `hold`, `release` mutate.

    slots: None where the engine has no memory for any. model_config: of the model that they are for.
    One that is unloaded is known no more at once; its place is free when the last request that has it ends. `find` and
    `read` are for any thread, the rest for the engine's.
    """

    def __init__(self, slots: AdapterSlots | None, model_config: ModelConfig | None = None):
        self._slots, self._model_config = slots, model_config
        self._by_name: dict[str, LoadedAdapter] = {}
        self._held: Counter[LoadedAdapter] = Counter()
        self._free = list(range(slots.room.number)) if slots else []

    @property
    def names(self) -> tuple[str, ...]:
        """Of those that requests may ask for, in the order in which they were loaded."""
        return tuple(self._by_name)

    def find(self, name: str | None) -> LoadedAdapter | None:
        """The adapter of this name; None for None. Raises RequestError for one that is not loaded."""
        if name is None:
            return None
        found = self._by_name.get(name) if isinstance(name, str) else None
        if found is None:
            loaded = ", ".join(self._by_name) or "none"
            raise RequestError(f"lora_adapter is {shortened(name)}, which is not loaded; loaded: {loaded}")
        return found

    def read(self, folder: str | Path) -> LoraAdapter:
        """An adapter to be loaded; raises RequestError that says what is wrong with its folder."""
        if self._slots is None:
            raise RequestError(_NO_ROOM)
        try:
            return read_lora_adapter(Path(folder).expanduser(), self._model_config)
        except CheckpointError as error:
            raise RequestError(str(error)) from None

    def load(self, name: str, adapter: LoraAdapter) -> None:
        """Write an adapter into a free place; raises RequestError, and loads nothing, where it does not fit."""
        self.check(name, adapter)
        number = self._free.pop(0)
        self._slots.write(number, adapter)
        self._by_name[name] = LoadedAdapter(name, number, adapter.digest())

    def check(self, name: str, adapter: LoraAdapter) -> None:
        """Raise RequestError unless `load` can take it now."""
        if not (isinstance(name, str) and name.strip() and len(name) <= MAX_NAME and is_unicode(name)):
            raise RequestError(f"lora_name is {shortened(name)}; it must be text of 1 to {MAX_NAME} characters")
        if name in self._by_name:
            raise RequestError(f"lora_name {shortened(name)} is in use by an adapter that is loaded; unload it first")
        if self._slots is None:
            raise RequestError(_NO_ROOM)
        if adapter.rank > self._slots.room.rank:
            raise RequestError(
                f"adapter {shortened(name)} has rank {adapter.rank}; model.max_lora_rank is {self._slots.room.rank}"
            )
        if not self._free:
            raise RequestError(
                f"adapter {shortened(name)} finds no place: model.max_loras is {self._slots.room.number}, and as many "
                "are loaded, or have requests under way still"
            )

    def unload(self, name: str) -> None:
        """Let no further request have this adapter; raises RequestError for one that is not loaded."""
        adapter = self.find(name)
        if adapter is None:
            raise RequestError("lora_name is none; it must be the name of an adapter that is loaded")
        del self._by_name[name]
        self._free_if_unused(adapter)

    def require(self, adapter: LoadedAdapter | None) -> None:
        """Raise RequestError if a request's adapter was unloaded meanwhile."""
        if adapter is not None and self._by_name.get(adapter.name) != adapter:
            raise RequestError(f"lora_adapter {shortened(adapter.name)} was unloaded before the request began")

    def hold(self, adapter: LoadedAdapter | None) -> None:
        """Keep the place of a request's adapter until `release`; raises as `require` does."""
        self.require(adapter)
        if adapter is not None:
            self._held[adapter] += 1

    def release(self, adapter: LoadedAdapter | None) -> None:
        """Give up what `hold` kept, once."""
        if adapter is not None:
            self._held[adapter] -= 1
            self._free_if_unused(adapter)

    def _free_if_unused(self, adapter: LoadedAdapter) -> None:
        if self._by_name.get(adapter.name) != adapter and self._held[adapter] <= 0:
            del self._held[adapter]
            self._free.append(adapter.number)
