"""How the rotary position embeddings of a model are stretched past the context that it was trained on."""

import math
from dataclasses import dataclass, replace

from mindspore_paged.errors import ConfigError

ROPE_TYPES = ("default", "linear", "ntk", "dynamic", "llama3", "yarn", "longrope")
LLAMA3_CONTEXT = 8192
MAX_FACTOR = 1e9
_POSITIVE = ("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor")
_FACTORS_OF_PAIRS = ("divisors", "short_factor", "long_factor")


@dataclass(frozen=True)
class RopeScaling:
    """What is done to the frequencies of the D / 2 pairs of a head, by Hugging Face's names; raises ConfigError.

    type: `linear` divides positions by `factor` (Chen et al. 2023); `ntk` raises the base by factor^(D/(D-2))
    (NTK-aware scaling); `dynamic` does that beyond the trained context only, where no sequence comes here, so it
    changes nothing; `llama3` divides low frequencies by `factor` and blends between two bounds (Llama 3.1); `yarn`
    divides those of pairs that turn less than beta_slow times within the trained context, and blends up to beta_fast
    times (Peng et al. 2023); `longrope` divides each pair's by its number of short_factor, or of long_factor where a
    sequence may become longer than the trained context (Ding et al. 2024). Which of the two is decided once, by
    max_model_len, as vLLM does; transformers does it anew for each step's longest sequence.
    original_max_position_embeddings: the trained context; None is max_position_embeddings, of llama3 8192.
    attention_factor: cosines and sines are multiplied by it; None is what yarn and longrope derive from `factor`.
    truncate: whether yarn's bounds are whole pairs.
    divisors: the frequencies are divided by them before all else, whatever the type; empty: by nothing.
    """

    type: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    divisors: tuple[float, ...] = ()

    def __post_init__(self):
        if self.type not in ROPE_TYPES:
            raise ConfigError(f"rope_scaling.type is {self.type!r}; allowed: {', '.join(ROPE_TYPES)}")
        if not 1.0 <= self.factor <= MAX_FACTOR:
            raise ConfigError(f"rope_scaling.factor is {self.factor}; it must be from 1 to {MAX_FACTOR:g}")
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise ConfigError(f"rope_scaling.{name} is {value}; it must be a positive number")
        for name in _FACTORS_OF_PAIRS:
            for place, value in enumerate(getattr(self, name)):
                if not 0.0 < value < math.inf:
                    raise ConfigError(f"rope_scaling.{name}[{place}] is {value}; it must be a positive number")
        original = self.original_max_position_embeddings
        if original is not None and original < 2:
            raise ConfigError(f"rope_scaling.original_max_position_embeddings is {original}; it must be at least 2")
        if self.type == "llama3" and not self.high_freq_factor > self.low_freq_factor:
            raise ConfigError(
                f"rope_scaling.high_freq_factor {self.high_freq_factor} must be above "
                f"low_freq_factor {self.low_freq_factor}"
            )

    def check(self, head_dim: int, rope_theta: float, max_position_embeddings: int) -> None:
        """Raise ConfigError unless it can be that of such a model."""
        pairs = head_dim // 2
        for name in _FACTORS_OF_PAIRS:
            count, is_needed = len(getattr(self, name)), self.type == "longrope" and name != "divisors"
            if count != pairs and (count or is_needed):
                raise ConfigError(f"rope_scaling.{name} has {count} numbers; a head of {head_dim} needs {pairs}")
        trained = self.trained_context(max_position_embeddings)
        if self.type == "longrope" and trained < 2:
            raise ConfigError(f"max_position_embeddings is {trained}; rope_scaling.type longrope needs at least 2")
        if self.type == "yarn" and rope_theta <= 1.0:
            raise ConfigError(f"rope_theta is {rope_theta}; rope_scaling.type yarn needs more than 1")
        if self.type == "ntk" and head_dim < 4:
            raise ConfigError(f"head_dim is {head_dim}; rope_scaling.type ntk needs at least 4")
        if self.type == "dynamic" and max_position_embeddings > trained:
            raise ConfigError(
                f"max_position_embeddings is {max_position_embeddings}; rope_scaling.type dynamic allows up to "
                f"original_max_position_embeddings, {trained}: beyond, frequencies change with the length"
            )

    def trained_context(self, max_position_embeddings: int) -> int:
        """original_max_position_embeddings, with its default for a model of so many positions."""
        default = LLAMA3_CONTEXT if self.type == "llama3" else max_position_embeddings
        return self.original_max_position_embeddings or default

    def for_length(self, longest: int, max_position_embeddings: int) -> "RopeScaling":
        """The same for sequences of up to `longest` tokens: longrope's factors that are used stand for both."""
        if self.type != "longrope":
            return self
        is_long = longest > self.trained_context(max_position_embeddings)
        used = self.long_factor if is_long else self.short_factor
        return replace(self, short_factor=used, long_factor=used)
