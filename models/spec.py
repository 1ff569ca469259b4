"""A family of decoders as data: its weights, and what the files of others call them and its options.

What computes a model, reads one, or cuts one over ranks asks here: none of them knows a family.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.options import GgufOptions, HfOptions

SIZES: dict[str, Callable[[ModelConfig], int]] = {
    "hidden": lambda config: config.hidden_size,
    "query": lambda config: config.num_attention_heads * config.head_dim,
    "keys": lambda config: config.num_key_value_heads * config.head_dim,
    "head": lambda config: config.head_dim,
    "width": lambda config: config.intermediate_size,
    "vocab": lambda config: config.vocab_size,
}
"""What a weight's axis is as long as: ranks that share a model cut `query`, `keys`, `width` and `vocab`."""

LM_HEAD = "lm_head.weight"
"""The head, which some files have beside embeddings that it is tied to."""

_OF_A_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)", re.ASCII)
_OF_A_BLOCK = re.compile(r"blk\.(\d+)\.(.+)", re.ASCII)


def _always(_config: ModelConfig) -> bool:
    return True


@dataclass(frozen=True)
class WeightSpec:
    """A weight of a decoder, or one that each of its layers has.

    role: what computes with it, as the operators know it. name: Hugging Face's, of a layer's what stands behind
    `model.layers.N.`. shape: names in SIZES, outputs before inputs. gguf: its name in a GGUF file, behind `blk.N.`.
    mindformers: its names there, behind `model.layers.N.`. there: whether a model has it. is_summed: whether it is
    added to products that ranks sum: the first of them adds it.
    """

    role: str
    name: str
    shape: tuple[str, ...]
    gguf: str
    mindformers: tuple[str, ...] = ()
    there: Callable[[ModelConfig], bool] = _always
    is_summed: bool = False

    @property
    def is_norm(self) -> bool:
        """Whether it multiplies what a norm gives."""
        return self.role.endswith("norm")

    @property
    def is_bias(self) -> bool:
        """Whether it is added to a product."""
        return self.role.endswith("bias")

    def sizes(self, config: ModelConfig) -> tuple[int, ...]:
        """Its shape in a model."""
        return tuple(SIZES[size](config) for size in self.shape)


@dataclass(frozen=True)
class Concatenation:
    """Several weights of a layer as one tensor of a file, the rows of one behind those of another.

    name: Hugging Face's; gguf: that of a GGUF file; roles: of its weights, in their order.
    """

    name: str
    gguf: str
    roles: tuple[str, ...]


def _projection(role: str, name: str, shape: tuple[str, str], gguf: str, mindformers: str) -> tuple[WeightSpec, ...]:
    bias_name, outputs = name.rpartition(".")[2], shape[0]
    return (
        WeightSpec(role, f"{name}.weight", shape, f"{gguf}.weight", (f"{mindformers}.weight",)),
        WeightSpec(
            f"{role}_bias", f"{name}.bias", (outputs,), f"{gguf}.bias", (f"{mindformers}.bias",),
            there=lambda config: bias_name in config.biases, is_summed=outputs == "hidden",
        ),
    )  # fmt: skip


def _has_qk_norm(config: ModelConfig) -> bool:
    return config.qk_norm


MODEL_WEIGHTS = (
    WeightSpec(
        "embedding", "model.embed_tokens.weight", ("vocab", "hidden"), "token_embd.weight",
        ("model.tok_embeddings.embedding_weight", "model.tok_embeddings.weight"),
    ),
    WeightSpec("final_norm", "model.norm.weight", ("hidden",), "output_norm.weight", ("model.norm_out.weight",)),
    WeightSpec(
        "head", LM_HEAD, ("vocab", "hidden"), "output.weight",
        there=lambda config: not config.tie_word_embeddings,
    ),
)  # fmt: skip
"""Those of a model beside its layers; the head is the embedding itself where a model ties them."""

LAYER_WEIGHTS = (
    WeightSpec("attention_norm", "input_layernorm.weight", ("hidden",), "attn_norm.weight", ("attention_norm.weight",)),
    *_projection("q", "self_attn.q_proj", ("query", "hidden"), "attn_q", "attention.wq"),
    *_projection("k", "self_attn.k_proj", ("keys", "hidden"), "attn_k", "attention.wk"),
    *_projection("v", "self_attn.v_proj", ("keys", "hidden"), "attn_v", "attention.wv"),
    *_projection("o", "self_attn.o_proj", ("hidden", "query"), "attn_output", "attention.wo"),
    WeightSpec("q_norm", "self_attn.q_norm.weight", ("head",), "attn_q_norm.weight", there=_has_qk_norm),
    WeightSpec("k_norm", "self_attn.k_norm.weight", ("head",), "attn_k_norm.weight", there=_has_qk_norm),
    WeightSpec("mlp_norm", "post_attention_layernorm.weight", ("hidden",), "ffn_norm.weight", ("ffn_norm.weight",)),
    *_projection("gate", "mlp.gate_proj", ("width", "hidden"), "ffn_gate", "feed_forward.w1"),
    *_projection("up", "mlp.up_proj", ("width", "hidden"), "ffn_up", "feed_forward.w3"),
    *_projection("down", "mlp.down_proj", ("hidden", "width"), "ffn_down", "feed_forward.w2"),
)
"""Those of a layer of LLaMA, and of whatever differs in options alone."""


def replaced(weights: tuple[WeightSpec, ...], *others: WeightSpec) -> tuple[WeightSpec, ...]:
    """`weights` with each of `others` in the place of the one of its role, or behind all."""
    by_role = {weight.role: weight for weight in weights} | {weight.role: weight for weight in others}
    return tuple(by_role.values())


@dataclass(frozen=True)
class ModelSpec:
    """A family of decoders.

    name: that of ModelConfig.architecture. hf_types: what config.json calls it (`model_type`); gguf_types: what GGUF
    files do (`general.architecture`). hf_options, gguf_options: how its options are read there. weights, layer: what it
    is made of. concatenations: tensors of files that hold several of the layer's. gguf_interleaves: whether GGUF files
    have the rows of q and k in pairs that are rotated together, (0, 1), (2, 3), …, not half a head apart.
    norm_offset: how much less than what is multiplied with Hugging Face's files say of norms.
    """

    name: str
    hf_types: tuple[str, ...]
    gguf_types: tuple[str, ...]
    hf_options: type[HfOptions] = HfOptions
    gguf_options: type[GgufOptions] = GgufOptions
    weights: tuple[WeightSpec, ...] = MODEL_WEIGHTS
    layer: tuple[WeightSpec, ...] = LAYER_WEIGHTS
    concatenations: tuple[Concatenation, ...] = ()
    gguf_interleaves: bool = False
    norm_offset: float = 0.0

    def weights_of(self, config: ModelConfig) -> Iterator[tuple[str, WeightSpec]]:
        """Every weight of a model, by Hugging Face's name; the layers' one layer after the other."""
        for weight in self.weights:
            if weight.there(config):
                yield weight.name, weight
        for layer in range(config.num_hidden_layers):
            yield from self.weights_of_layer(config, layer)

    def weights_of_layer(self, config: ModelConfig, layer: int) -> Iterator[tuple[str, WeightSpec]]:
        """Those of one layer."""
        for weight in self.layer:
            if weight.there(config):
                yield f"model.layers.{layer}.{weight.name}", weight

    def shapes(self, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """The shape of every weight of a model, by Hugging Face's name."""
        return {name: weight.sizes(config) for name, weight in self.weights_of(config)}

    def weight(self, role: str) -> WeightSpec:
        """The weight of a role."""
        return next(weight for weight in (*self.weights, *self.layer) if weight.role == role)

    def find(self, name: str) -> WeightSpec | None:
        """The weight that Hugging Face's files call `name`; None for another."""
        match = _OF_A_LAYER.fullmatch(name)
        weights, tail = (self.layer, match[2]) if match else (self.weights, name)
        return next((weight for weight in weights if weight.name == tail), None)

    def biased_projections(self, names: Iterable[str]) -> tuple[str, ...]:
        """The projections of layers of which `names`, Hugging Face's, have a bias, in the order of a layer."""
        found = {self.find(name) for name in names}
        return tuple(weight.name.split(".")[-2] for weight in self.layer if weight.is_bias and weight in found)

    def parts(self, config: ModelConfig, name: str) -> dict[str, range]:
        """The rows of each weight in what Hugging Face's files call `name`; empty where it is no concatenation."""
        return self._parts(config, _OF_A_LAYER.fullmatch(name), lambda each: each.name)

    def gguf_parts(self, config: ModelConfig, name: str) -> dict[str, range]:
        """The same of what GGUF files call `name`."""
        return self._parts(config, _OF_A_BLOCK.fullmatch(name), lambda each: each.gguf)

    def from_gguf(self, name: str) -> str:
        """Hugging Face's name of what GGUF files call `name`; an unknown one is returned as it is."""
        match = _OF_A_BLOCK.fullmatch(name)
        weights, tail = (self.layer, match[2]) if match else (self.weights, name)
        found = next((weight.name for weight in weights if weight.gguf == tail), None)
        if found is None:
            return name
        return f"model.layers.{match[1]}.{found}" if match else found

    def from_mindformers(self, name: str) -> str:
        """Hugging Face's name of what MindFormers' files call `name`; any other is returned as it is.

        Source: `convert_name` of mindformers.models.llama.llama.LlamaForCausalLM (MindFormers 1.9).
        """
        match = _OF_A_LAYER.fullmatch(name)
        weights, tail = (self.layer, match[2]) if match else (self.weights, name)
        found = next((weight.name for weight in weights if tail in weight.mindformers), None)
        if found is None:
            return name
        return f"model.layers.{match[1]}.{found}" if match else found

    def _parts(
        self, config: ModelConfig, match: re.Match | None, name_of: Callable[[Concatenation], str]
    ) -> dict[str, range]:
        found = next((each for each in self.concatenations if match and name_of(each) == match[2]), None)
        rows, start = {}, 0
        for weight in map(self.weight, found.roles if found else ()):
            stop = start + weight.sizes(config)[0]
            rows[f"model.layers.{match[1]}.{weight.name}"] = range(start, stop)
            start = stop
        return rows
