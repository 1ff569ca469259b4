"""Weights drawn at random, for tests and benchmarks of a shape whose real weights are not at hand."""

import zlib

import numpy as np

from mindspore_paged.model_config import ModelConfig
from mindspore_paged.weights.tensor_source import along


class RandomCheckpoint:
    """A Checkpoint of `model_config` whose tensors are drawn from `seed`, each on its own; nothing is kept in memory.

    Matrices are normal with deviation fan_in^-0.5, so that activations keep their size; norms are ones.
    """

    path = "random weights"
    tokenizer_source = None

    def __init__(self, model_config: ModelConfig, seed: int = 0):
        self.model_config = model_config
        self._seed = seed
        self._shapes = weight_shapes(model_config)

    def names(self) -> list[str]:
        """The names of all tensors, Hugging Face's."""
        return list(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that `read(name)` returns."""
        return self._shapes[name]

    def dtype(self, name: str) -> np.dtype:
        """The dtype that `read(name)` returns."""
        return np.dtype(np.float32)

    def read(self, name: str) -> np.ndarray:
        """The tensor called `name`, float32; the same at every call."""
        shape = self._shapes[name]
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        generator = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        return generator.standard_normal(shape, np.float32) * np.float32(shape[1] ** -0.5)

    def read_part(self, name: str, axis: int, start: int, stop: int) -> np.ndarray:
        """What `read(name)` has from start to stop of one axis; the whole is drawn, the part is kept."""
        return np.array(self.read(name)[along(axis, start, stop)], order="C")


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a model, by Hugging Face's names."""
    hidden, ffn = config.hidden_size, config.intermediate_size
    query, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    shapes = {"model.embed_tokens.weight": (config.vocab_size, hidden), "model.norm.weight": (hidden,)}
    for layer in range(config.num_hidden_layers):
        of_layer = {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (query, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, query),
            "post_attention_layernorm": (hidden,),
            "mlp.gate_proj": (ffn, hidden),
            "mlp.up_proj": (ffn, hidden),
            "mlp.down_proj": (hidden, ffn),
        }
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in of_layer.items()}
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    return shapes
