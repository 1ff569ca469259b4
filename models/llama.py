"""LLaMA 1 to 3 (Touvron et al. 2023; Grattafiori et al. 2024), and what others trained in its shape."""

from typing import Any

from pydantic import StrictBool

from mindspore_paged.model_config import ATTENTION_PROJECTIONS, MLP_PROJECTIONS, ModelConfig, sized
from mindspore_paged.models.options import HfOptions
from mindspore_paged.models.spec import ModelSpec
from mindspore_paged.rope_scaling import RopeScaling


class LlamaHfOptions(HfOptions):
    """Biases of attention and of the MLP, which few have."""

    attention_bias: StrictBool = False
    mlp_bias: StrictBool = False

    def options(self) -> dict[str, Any]:
        """The projections that have a bias."""
        return {"biases": ATTENTION_PROJECTIONS * self.attention_bias + MLP_PROJECTIONS * self.mlp_bias}


SPEC = ModelSpec("llama", ("llama",), ("llama",), LlamaHfOptions, gguf_interleaves=True)

_LLAMA2 = {"vocab_size": 32000, "max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_ids": (2,)}
_LLAMA3 = {
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "bos_token_id": 128000,
    "eos_token_ids": (128001, 128009),
}
_LLAMA3_1 = _LLAMA3 | {"max_position_embeddings": 131072, "eos_token_ids": (128001, 128008, 128009)}
_BY_8 = {"rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)}
_BY_32 = {"rope_scaling": RopeScaling("llama3", 32.0, 1.0, 4.0, 8192), "tie_word_embeddings": True}
_SMOLLM2 = {
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_ids": (2,),
}

MODELS: dict[str, ModelConfig] = {
    "llama2-7b": sized(4096, 11008, 32, 32, 32, **_LLAMA2),
    "llama2-13b": sized(5120, 13824, 40, 40, 40, **_LLAMA2),
    "llama2-70b": sized(8192, 28672, 80, 64, 8, **_LLAMA2),
    "llama3-8b": sized(4096, 14336, 32, 32, 8, **_LLAMA3),
    "llama3-70b": sized(8192, 28672, 80, 64, 8, **_LLAMA3),
    "llama3.1-8b": sized(4096, 14336, 32, 32, 8, **_LLAMA3_1, **_BY_8),
    "llama3.1-70b": sized(8192, 28672, 80, 64, 8, **_LLAMA3_1, **_BY_8),
    "llama3.2-1b": sized(2048, 8192, 16, 32, 8, **_LLAMA3_1, **_BY_32),
    "llama3.2-3b": sized(3072, 8192, 28, 24, 8, **_LLAMA3_1, **_BY_32),
    "llama3.3-70b": sized(8192, 28672, 80, 64, 8, **_LLAMA3_1, **_BY_8),
    "smollm2-135m": sized(576, 1536, 30, 9, 3, **_SMOLLM2),
    "tiny": sized(64, 128, 2, 4, 2, vocab_size=256, max_position_embeddings=512, tie_word_embeddings=True),
}
"""Published sizes by the name that `model.name` has; values that differ are those of the models made for chats."""
