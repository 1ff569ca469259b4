"""What MindFormers' configuration classes call a model's sizes and options: to read one more, add it to CLASSES."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt

from mindspore_paged.errors import ConfigError
from mindspore_paged.wording import shortened

MODEL = "model.model_config"
"""Where a predict file has the keys of these classes."""

_QKV = ("q_proj", "k_proj", "v_proj")
_SCALING_FACTOR_KEYS: dict[str, set | None] = {
    "NTK": None,
    "PI": None,
    "linear": {"factor"},
    "LLAMA3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
}
_Dtype = Annotated[Literal["float32", "float16", "bfloat16"], BeforeValidator(lambda dtype: str(dtype).lower())]
_YARN_KEYS = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow")


class ModelKeys(BaseModel):
    """The attributes of such a class that have a counterpart here; it does not check them itself.

    neutral: keys that change what is computed, with the values that change nothing; the first is named in refusals.
    """

    model_config = ConfigDict(strict=True, from_attributes=True)
    neutral: ClassVar[dict[str, tuple]] = {}

    batch_size: PositiveInt | None = None
    seq_length: PositiveInt
    hidden_size: PositiveInt
    vocab_size: PositiveInt
    rms_norm_eps: PositiveFloat
    tie_word_embeddings: bool
    bos_token_id: NonNegativeInt | None
    eos_token_id: NonNegativeInt | list[NonNegativeInt] | None
    block_size: PositiveInt
    num_blocks: PositiveInt
    compute_dtype: _Dtype

    @abstractmethod
    def dimensions(self) -> dict[str, Any]:
        """Fields of ModelConfig; raises ConfigError that names the key of a value that cannot be."""

    def _common(self) -> dict[str, Any]:
        ends = self.eos_token_id
        return {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "rms_norm_eps": self.rms_norm_eps,
            "tie_word_embeddings": self.tie_word_embeddings,
            "bos_token_id": self.bos_token_id,
            "eos_token_ids": [ends] if isinstance(ends, int) else ends or [],
        }

    def _head_dim(self, heads_key: str) -> int:
        heads = getattr(self, heads_key)
        if self.hidden_size % heads:
            raise ConfigError(
                f"{MODEL}.hidden_size is {self.hidden_size}; it must be a multiple of {heads_key} ({heads})"
            )
        return self.hidden_size // heads


class LlamaKeys(ModelKeys):
    """LlamaConfig, which ran Qwen2 and 2.5 too, with qkv_has_bias."""

    batch_size: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    n_kv_heads: PositiveInt | None
    max_position_embedding: PositiveInt
    intermediate_size: PositiveInt | None
    multiple_of: PositiveInt
    ffn_dim_multiplier: PositiveFloat | None
    theta: PositiveFloat
    extend_method: str | None
    scaling_factor: PositiveFloat | dict[str, Any]
    qkv_has_bias: bool
    attn_proj_has_bias: bool
    do_sample: bool

    def dimensions(self) -> dict[str, Any]:
        """Fields of ModelConfig."""
        theta, rope_scaling = self._rope()
        return self._common() | {
            "intermediate_size": self._intermediate_size(),
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.n_kv_heads or self.num_heads,
            "head_dim": self._head_dim("num_heads"),
            "max_position_embeddings": max(self.seq_length, self.max_position_embedding),
            "rope_theta": theta,
            "rope_scaling": rope_scaling,
            "biases": [*_QKV * self.qkv_has_bias, *("o_proj",) * self.attn_proj_has_bias],
        }

    def _intermediate_size(self) -> int:
        """Width of the feed-forward layer, by the arithmetic of mindformers.models.llama.llama_layer."""
        if self.intermediate_size is not None:
            return self.intermediate_size
        width = 4 * self.hidden_size
        if self.ffn_dim_multiplier is not None:
            width = int((self.ffn_dim_multiplier + 0.01) * width)
        width = int(2 * width / 3)
        return self.multiple_of * -(-width // self.multiple_of)

    def _rope(self) -> tuple[float, dict]:
        """The base and the scaling that give the angles of mindformers.modules.layers.FreqsMgr.

        Its NTK multiplies the base by the factor itself: it is no `ntk` of ours, which raises the factor to D/(D-2).
        """
        method, factor = self.extend_method or "None", self.scaling_factor
        if method == "None":
            return self.theta, {}
        if method not in _SCALING_FACTOR_KEYS:
            allowed = ", ".join(["None", *_SCALING_FACTOR_KEYS])
            raise ConfigError(f"{MODEL}.extend_method is {shortened(method)}; supported: {allowed}")
        needed = _SCALING_FACTOR_KEYS[method]
        if (set(factor) if isinstance(factor, dict) else None) != needed:
            kind = f"a mapping of {', '.join(sorted(needed))}" if needed else "a number"
            raise ConfigError(
                f"{MODEL}.scaling_factor is {shortened(factor)}; for extend_method {method} it must be {kind}"
            )
        if method == "NTK":
            return self.theta * factor, {}
        if method == "PI":
            return self.theta, {"type": "linear", "factor": factor}
        return self.theta, {"type": method.lower(), **factor}


class Qwen2Keys(ModelKeys):
    """Qwen2Config, by Hugging Face's names. Windows are no concern of MindFormers, and off in all published models."""

    neutral: ClassVar[dict[str, tuple]] = {
        "normalization": ("RMSNorm",),
        "add_bias_linear": (False,),
        "gated_linear_unit": (True,),
        "hidden_act": ("silu", "swiglu", "fusedswiglu"),
        "position_embedding_type": ("rope",),
        "add_qkv_bias": (True,),
    }

    compute_dtype: _Dtype = "bfloat16"
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    intermediate_size: PositiveInt
    max_position_embeddings: PositiveInt
    rope_theta: PositiveFloat
    rope_scaling: dict[str, Any] | None

    def dimensions(self) -> dict[str, Any]:
        """Fields of ModelConfig."""
        return self._common() | {
            "architecture": "qwen2",
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self._head_dim("num_attention_heads"),
            "max_position_embeddings": self.max_position_embeddings,
            "rope_theta": self.rope_theta,
            "rope_scaling": self._rope_scaling(),
            "biases": _QKV,
        }

    def _rope_scaling(self) -> dict:
        written = self.rope_scaling or {}
        kind = written.get("rope_type") or written.get("type") or "default"
        if kind == "default":
            return {}
        scaling = {key: value for key, value in written.items() if key not in ("type", "rope_type")}
        if kind != "yarn" or not set(_YARN_KEYS[:2]) <= set(scaling) <= set(_YARN_KEYS):
            raise ConfigError(
                f"{MODEL}.rope_scaling is {shortened(written)}; it must be null, or of rope_type yarn with "
                f"{' and '.join(_YARN_KEYS[:2])} (allowed: {', '.join(_YARN_KEYS[2:])})"
            )
        return {"type": kind, **scaling}


class Qwen3Keys(Qwen2Keys):
    """Qwen3Config."""

    neutral: ClassVar[dict[str, tuple]] = Qwen2Keys.neutral | {"add_qkv_bias": (False,)}

    head_dim: PositiveInt
    attention_bias: bool

    def dimensions(self) -> dict[str, Any]:
        """Fields of ModelConfig; MindFormers gives the bias to q, k and v alone."""
        return super().dimensions() | {
            "architecture": "qwen3",
            "qk_norm": True,
            "head_dim": self.head_dim,
            "biases": _QKV * self.attention_bias,
        }

    def _head_dim(self, heads_key: str) -> int:
        return self.head_dim


@dataclass(frozen=True)
class ConfigClass:
    """A configuration class of MindFormers 1.9.

    name: its own, which model.model_config.type has. module: where it is. architecture: what model.arch.type may be
    with it. model_type: what files with use_legacy: False may say instead. keys: what is read of it.
    """

    name: str
    module: str
    architecture: str
    model_type: str
    keys: type[ModelKeys]


CLASSES: dict[str, ConfigClass] = {
    kind.name: kind
    for kind in (
        ConfigClass("LlamaConfig", "mindformers.models.llama.llama_config", "LlamaForCausalLM", "llama", LlamaKeys),
        ConfigClass(
            "Qwen2Config", "mindformers.models.qwen2.configuration_qwen2", "Qwen2ForCausalLM", "qwen2", Qwen2Keys
        ),
        ConfigClass(
            "Qwen3Config", "mindformers.models.qwen3.configuration_qwen3", "Qwen3ForCausalLM", "qwen3", Qwen3Keys
        ),
    )
}
"""By `model.model_config.type`."""


def given_dimensions(keys: ModelKeys, given: Mapping[str, Any]) -> dict[str, Any]:
    """Of `keys.dimensions()` those that a file itself gives, where a folder says the others."""
    sources = {"eos_token_ids": "eos_token_id", "biases": "attention_bias"}
    return {name: value for name, value in keys.dimensions().items() if sources.get(name, name) in given}
