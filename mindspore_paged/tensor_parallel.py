"""How tensor parallelism cuts a decoder: which heads, rows and columns each rank has. Pure arithmetic.

The cut is Megatron's (Shoeybi et al. 2019): what makes heads and the feed-forward's width is cut by output rows, what
takes them in by input columns, so that two sums over ranks a layer suffice; the vocabulary is cut by rows.
"""

from dataclasses import dataclass, replace

from mindspore_paged.errors import ConfigError
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.registry import spec_of
from mindspore_paged.models.spec import SIZES


@dataclass(frozen=True)
class Cut:
    """The part of a tensor that a rank has: from start to stop of one axis, filled up with zeros to `length`."""

    axis: int
    start: int
    stop: int
    length: int


@dataclass(frozen=True)
class TensorParallel:
    """One rank among those that share a model; rank 0 of 1 has all of it."""

    rank: int = 0
    size: int = 1

    def __post_init__(self):
        if self.size < 1:
            raise ConfigError(f"parallel.tensor_parallel_size is {self.size}; it must be at least 1")
        if not 0 <= self.rank < self.size:
            raise ConfigError(
                f"this process is rank {self.rank}, but parallel.tensor_parallel_size is {self.size}; "
                f"ranks 0 to {self.size - 1} are allowed"
            )

    def check(self, config: ModelConfig) -> None:
        """Raise ConfigError unless the model's heads and widths can be shared by so many ranks."""
        kv_heads = config.num_key_value_heads
        for name, value in (
            ("num_attention_heads", config.num_attention_heads),
            ("intermediate_size", config.intermediate_size),
        ):
            if value % self.size:
                raise ConfigError(
                    f"parallel.tensor_parallel_size is {self.size}; it must divide the model's {name}, {value}"
                )
        if kv_heads % self.size and self.size % kv_heads:
            raise ConfigError(
                f"parallel.tensor_parallel_size is {self.size}; it must divide the model's num_key_value_heads, "
                f"{kv_heads}, or be a multiple of it"
            )

    def kv_heads(self, config: ModelConfig) -> range:
        """The KV heads of this rank; with more ranks than KV heads, neighbouring ranks have one and the same."""
        if self.size <= config.num_key_value_heads:
            count = config.num_key_value_heads // self.size
            return range(self.rank * count, (self.rank + 1) * count)
        head = self.rank * config.num_key_value_heads // self.size
        return range(head, head + 1)

    def vocab(self, config: ModelConfig) -> Cut:
        """The rows of the vocabulary of this rank; the last ranks may have fewer than the rest, or none."""
        length = -(-config.vocab_size // self.size)
        start = min(self.rank * length, config.vocab_size)
        return Cut(0, start, min(start + length, config.vocab_size), length)

    def share(self, config: ModelConfig) -> ModelConfig:
        """The model as this rank computes it: its heads, its part of the feed-forward, the whole vocabulary.

        Raises ConfigError as `check` does.
        """
        self.check(config)
        return replace(
            config,
            num_attention_heads=config.num_attention_heads // self.size,
            num_key_value_heads=len(self.kv_heads(config)),
            intermediate_size=config.intermediate_size // self.size,
        )

    def cuts(self, config: ModelConfig) -> "Cuts":
        """Which part of each of the model's tensors this rank has; raises ConfigError as `check` does."""
        self.check(config)
        return Cuts(self, config)


WHOLE = TensorParallel()
"""One rank that has all of the model."""


class Cuts:
    """For a tensor's name in Hugging Face's files, the part that a rank has."""

    def __init__(self, parallel: TensorParallel, config: ModelConfig):
        self.spec = spec_of(config)
        kv_heads, head_dim, hidden = parallel.kv_heads(config), config.head_dim, config.hidden_size
        self._wholes = {size: SIZES[size](config) for size in ("query", "keys", "width", "vocab")}
        of_kv_heads = Cut(0, kv_heads.start * head_dim, kv_heads.stop * head_dim, len(kv_heads) * head_dim)
        self._cuts = {size: _even(0, self._wholes[size], parallel) for size in ("query", "width")}
        self._cuts |= {"keys": of_kv_heads, "vocab": parallel.vocab(config)}
        # What is summed over the ranks gets its bias from the first; the others have zeros.
        self._on_first = Cut(0, 0, 0 if parallel.rank else hidden, hidden)
        self._hidden = hidden

    def of(self, name: str) -> Cut | None:
        """The part of tensor `name`, or None if every rank has the whole of it (the norms)."""
        return self._cut_and_whole(name)[0]

    def whole_length(self, name: str) -> int | None:
        """How long the axis that `of(name)` cuts is in the whole tensor, or None if none is cut."""
        return self._cut_and_whole(name)[1]

    def _cut_and_whole(self, name: str) -> tuple[Cut | None, int | None]:
        weight = self.spec.find(name)
        if weight is None:
            return None, None
        if weight.is_summed:
            return self._on_first, self._hidden
        for axis, size in enumerate(weight.shape):
            if size in self._cuts:
                return replace(self._cuts[size], axis=axis), self._wholes[size]
        return None, None


def _even(axis: int, whole: int, parallel: TensorParallel) -> Cut:
    length = whole // parallel.size
    return Cut(axis, parallel.rank * length, (parallel.rank + 1) * length, length)
