"""What a decoder is, as data."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from mindspore_paged.errors import ConfigError
from mindspore_paged.rope_scaling import RopeScaling

ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class ModelConfig:
    """A decoder's dimensions and options, by Hugging Face's names; raises ConfigError where they contradict each other.

    architecture: the family, a key of `models.registry`. biases: the projections that have a bias, in every layer.
    hidden_act: what the gate of the MLP goes through: silu, or gelu in its tanh form. qk_norm: whether each head of
    queries and keys goes through an RMSNorm before it is rotated. output_norms: whether what attention and MLP put out
    goes through one before it is added. attention_scale: of scores; None is head_dim ** -0.5. embedding_scale,
    residual_scale, logit_scale: what embeddings, what attention and MLP add, and logits are multiplied by.
    sliding_window: the tokens that a token of a sliding layer attends to, itself included. layer_types: of each layer
    full_attention or sliding_attention; where none is given all slide if there is a window. layers_without_rope: the
    layers, from 0 on, whose queries and keys are not rotated. local_rope_theta: the base of the rotation of sliding
    layers, unscaled, where it is another. rotary_dim: how many numbers of a head are rotated, the first ones; None is
    all of them.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    tie_word_embeddings: bool = False
    biases: tuple[str, ...] = ()
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    architecture: str = "llama"
    hidden_act: str = "silu"
    qk_norm: bool = False
    output_norms: bool = False
    attention_scale: float | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    sliding_window: int | None = None
    layer_types: tuple[str, ...] = ()
    layers_without_rope: tuple[int, ...] = ()
    local_rope_theta: float | None = None
    rotary_dim: int | None = None

    def __post_init__(self):
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"model: {name} is {getattr(self, name)}; it must be at least 1")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"model: num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ConfigError(f"model: head_dim is {self.head_dim}; rotary embeddings need an even one")
        if not 0 < self.rope_theta < math.inf:
            raise ConfigError(f"model: rope_theta is {self.rope_theta}; it must be positive")
        projections = ATTENTION_PROJECTIONS + MLP_PROJECTIONS
        for name in self.biases:
            if name not in projections or self.biases.count(name) > 1:
                raise ConfigError(f"model: biases has {name!r}; allowed: each once, of {', '.join(projections)}")
        self.rope_scaling.check(self.rotated, self.rope_theta, self.max_position_embeddings)
        self._check_options()

    def _check_options(self) -> None:
        if self.hidden_act not in ACTIVATIONS:
            raise ConfigError(f"model: hidden_act is {self.hidden_act!r}; allowed: {', '.join(ACTIVATIONS)}")
        for name in ("attention_scale", "embedding_scale", "residual_scale", "logit_scale", "local_rope_theta"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"model: {name} is {value}; it must be positive")
        if self.rotary_dim is not None and not (2 <= self.rotary_dim <= self.head_dim and self.rotary_dim % 2 == 0):
            raise ConfigError(
                f"model: rotary_dim is {self.rotary_dim}; it must be even, from 2 to head_dim, {self.head_dim}"
            )
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ConfigError(f"model: sliding_window is {self.sliding_window}; it must be at least 1")
        if self.layer_types and len(self.layer_types) != self.num_hidden_layers:
            raise ConfigError(
                f"model: layer_types has {len(self.layer_types)} entries for {self.num_hidden_layers} layers"
            )
        for kind in self.layer_types:
            if kind not in (FULL, SLIDING):
                raise ConfigError(f"model: layer_types has {kind!r}; allowed: {FULL}, {SLIDING}")
        if SLIDING in self.layer_types and self.sliding_window is None:
            raise ConfigError(f"model: layer_types has {SLIDING}, but there is no sliding_window")
        for layer in self.layers_without_rope:
            if not 0 <= layer < self.num_hidden_layers:
                raise ConfigError(f"model: layers_without_rope has {layer}; allowed: 0 to {self.num_hidden_layers - 1}")

    @property
    def score_scale(self) -> float:
        """What scores of attention are multiplied by."""
        return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

    @property
    def rotated(self) -> int:
        """How many numbers of a head are rotated."""
        return self.head_dim if self.rotary_dim is None else self.rotary_dim

    def is_sliding(self, layer: int) -> bool:
        """Whether the layer attends to the last `sliding_window` tokens alone."""
        return self.layer_types[layer] == SLIDING if self.layer_types else self.sliding_window is not None

    def window_of(self, layer: int) -> int:
        """The tokens that a token of the layer attends to, itself included; 0 for all."""
        return self.sliding_window if self.is_sliding(layer) else 0

    @property
    def cache_window(self) -> int:
        """The tokens whose keys and values a later token may need: the window where all layers slide; else 0, all."""
        windows = [self.window_of(layer) for layer in range(self.num_hidden_layers)]
        return max(windows) if all(windows) else 0

    def rope_table_of(self, layer: int) -> int:
        """Which table rotates the layer's queries and keys: 0, or 1 for that of local_rope_theta; -1 for none."""
        if layer in self.layers_without_rope:
            return -1
        return int(self.local_rope_theta is not None and self.is_sliding(layer))

    def for_length(self, longest: int) -> "ModelConfig":
        """The model for sequences of up to `longest` tokens, with what depends on that decided."""
        return replace(self, rope_scaling=self.rope_scaling.for_length(longest, self.max_position_embeddings))

    def kv_bytes_per_token(self, itemsize: int, scale_bytes: int = 0) -> int:
        """Bytes that one token's keys and values take over all layers, at `itemsize` an element and a scale a head."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * (self.head_dim * itemsize + scale_bytes)


def sized(
    hidden_size: int, intermediate_size: int, num_hidden_layers: int, heads: int, kv_heads: int, **others: Any
) -> ModelConfig:
    """A model of these sizes, `others` being further fields; heads share hidden_size unless head_dim is one of them."""
    return ModelConfig(
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        **{"head_dim": hidden_size // heads, **others},
    )
