"""Good Hugging Face folders of a few KB: one file or two shards, and a tokenizer whose facts stand in many files."""

import json

import numpy as np
import safetensors.numpy
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from mindspore_paged.model_config import ModelConfig
from tests.fuzz.gguf_samples import TEMPLATE
from tests.fuzz.mutant import Files

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 13,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODEL_CONFIG = ModelConfig(
    vocab_size=13,
    hidden_size=8,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=2,
    max_position_embeddings=64,
)
SHAPES = {
    "model.embed_tokens.weight": (13, 8),
    "model.layers.0.input_layernorm.weight": (8,),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.k_proj.weight": (4, 8),
    "model.layers.0.self_attn.v_proj.weight": (4, 8),
    "model.layers.0.self_attn.o_proj.weight": (8, 8),
    "model.layers.0.post_attention_layernorm.weight": (8,),
    "model.layers.0.mlp.gate_proj.weight": (16, 8),
    "model.layers.0.mlp.up_proj.weight": (16, 8),
    "model.layers.0.mlp.down_proj.weight": (8, 16),
    "model.norm.weight": (8,),
    "lm_head.weight": (13, 8),
}
SPECIAL = ("<s>", "</s>", "<|user|>", "<a>")


def weights(dtype=np.float32) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    return {name: random.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}


def folders() -> list[Files]:
    """The samples."""
    single = {"model.safetensors": safetensors.numpy.save(weights(np.float16), {"format": "pt"})}
    scaled = CONFIG | {"rope_scaling": LLAMA3_SCALING, "eos_token_id": [1, 12]}
    return [_files(CONFIG) | single, _files(scaled, flags=True) | sharded()]


def sharded() -> Files:
    """Two shards and their index."""
    values, weight_map, files = weights(), {}, {}
    for shard, names in enumerate((list(values)[::2], list(values)[1::2]), start=1):
        file = f"model-{shard:05}-of-00002.safetensors"
        files[file] = safetensors.numpy.save({name: values[name] for name in names})
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": sum(value.nbytes for value in values.values())}, "weight_map": weight_map}
    return files | {"model.safetensors.index.json": _json(index)}


def _files(config: dict, flags: bool = False) -> Files:
    tokenizer_config = {
        "tokenizer_class": "LlamaTokenizerFast" if flags else "PreTrainedTokenizerFast",
        "bos_token": {"__type": "AddedToken", "content": "<s>", "normalized": False},
        "eos_token": "</s>",
        "model_max_length": 64,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(index): {"content": text, "special": True, "normalized": False} for index, text in enumerate(SPECIAL)
        },
    }
    tokenizer_config |= {"add_bos_token": True, "add_eos_token": False} if flags else {"chat_template": TEMPLATE}
    files = {
        "config.json": _json(config),
        "generation_config.json": _json({"bos_token_id": 0, "eos_token_id": [1, 12], "temperature": 0.6}),
        "tokenizer.json": _tokenizer().encode(),
        "tokenizer_config.json": _json(tokenizer_config),
        "special_tokens_map.json": _json({"bos_token": "<s>", "eos_token": {"content": "</s>", "special": True}}),
    }
    if flags:
        files |= {"chat_template.jinja": TEMPLATE.encode(), "added_tokens.json": _json({"<|eot|>": 12})}
    return files


def _tokenizer() -> str:
    """A byte-level vocabulary of thirteen tokens."""
    tokens = [*SPECIAL, "a", "b", "c", "\u0120", "ab", "\u0120a", "\u0120ab", "abc"]
    merges = [("a", "b"), ("\u0120", "a"), ("\u0120a", "b"), ("ab", "c")]
    tokenizer = Tokenizer(BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in (*SPECIAL, "<|eot|>")])
    return tokenizer.to_str()


def _json(value) -> bytes:
    return json.dumps(value).encode()
