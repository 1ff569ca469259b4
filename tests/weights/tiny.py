"""One tiny LLaMA with random weights, and writers of it in every format that can be opened."""

import json

import gguf
import ml_dtypes
import numpy as np
import safetensors.numpy

from mindspore_paged.model_config import ModelConfig

CONFIG = ModelConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=4,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    rope_theta=500000.0,
    bos_token_id=1,
    eos_token_ids=(2,),
)
HF_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": None,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LAYER_SHAPES = {
    "input_layernorm": (32,),
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (8, 32),
    "self_attn.v_proj": (8, 32),
    "self_attn.o_proj": (32, 32),
    "post_attention_layernorm": (32,),
    "mlp.gate_proj": (64, 32),
    "mlp.up_proj": (64, 32),
    "mlp.down_proj": (32, 64),
}
GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def expected_shapes():
    shapes = {"model.embed_tokens.weight": (50, 32), "model.norm.weight": (32,), "lm_head.weight": (50, 32)}
    for layer in range(2):
        shapes |= {f"model.layers.{layer}.{part}.weight": shape for part, shape in LAYER_SHAPES.items()}
    return shapes


def make_weights(dtype=np.float32):
    random = np.random.default_rng(7)
    return {name: random.standard_normal(shape).astype(dtype) for name, shape in expected_shapes().items()}


def make_biases(*projections, dtype=np.float32):
    """A bias for each of the projections, of all if none are named, in every layer."""
    random = np.random.default_rng(8)
    cells = [cell for cell in LAYER_SHAPES if "norm" not in cell and (not projections or cell.endswith(projections))]
    return {
        f"model.layers.{layer}.{cell}.bias": random.standard_normal(LAYER_SHAPES[cell][0]).astype(dtype)
        for layer in range(2)
        for cell in cells
    }


def interleave_rows(weights, heads):
    """Rotate-half order to GGUF's: row i of the first half of a head goes to place 2i, of the second to 2i + 1."""
    head_dim = len(weights) // heads
    result = np.empty_like(weights)
    for head in range(heads):
        for row in range(head_dim):
            half, index = divmod(row, head_dim // 2)
            result[head * head_dim + 2 * index + half] = weights[head * head_dim + row]
    return result


def gguf_metadata(**changes):
    metadata = {
        "llama.block_count": 2,
        "llama.context_length": 128,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 64,
        "llama.attention.head_count": 8,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 500000.0,
        "llama.rope.dimension_count": 4,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    metadata |= {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in metadata.items() if value is not None}


def write_gguf(path, weights, metadata=None, architecture="llama", extra=(), quantize=(), split=0):
    """Write `weights` (Hugging Face names and order) as a GGUF file; `quantize` maps names to quantizations.

    split: tensors of a file, where there are to be several, NAME-00001-of-00003.gguf and so on.
    """
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split)
    for key, value in (gguf_metadata() if metadata is None else metadata).items():
        add_value(writer, key, value)
    for name, values in weights.items():
        if name.endswith(("q_proj.weight", "q_proj.bias")):
            values = interleave_rows(values, 8)
        if name.endswith(("k_proj.weight", "k_proj.bias")):
            values = interleave_rows(values, 2)
        add_tensor(writer, gguf_name(name), values, dict(quantize).get(name))
    for name, values in dict(extra).items():
        add_tensor(writer, name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_name(name):
    stem, _, kind = name.rpartition(".")
    if stem in GGUF_NAMES:
        return f"{GGUF_NAMES[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[part]}.{kind}"


def add_tensor(writer, name, values, quantization=None):
    if values.dtype == ml_dtypes.bfloat16:
        writer.add_tensor(name, values.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    elif quantization is not None:
        writer.add_tensor(name, gguf.quantize(values, quantization), raw_dtype=quantization)
    else:
        writer.add_tensor(name, values)


def add_value(writer, key, value):
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def write_hf_folder(folder, weights, shards=1, **config_changes):
    folder.mkdir(exist_ok=True)
    config = {key: value for key, value in (HF_CONFIG | config_changes).items() if value != "absent"}
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        safetensors.numpy.save_file(weights, folder / "model.safetensors")
        return folder
    weight_map = {}
    names = list(weights)
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in names[shard::shards]}
        safetensors.numpy.save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def to_mindformers(weights, qkv_concat):
    """Rename, and fuse where asked, by MindFormers' own code."""
    from mindformers.models.llama.llama import LlamaForCausalLM
    from mindformers.utils.convert_utils import ffn_concat_hf2mg, qkv_concat_hf2mg

    renamed = {LlamaForCausalLM.convert_name(name): values for name, values in weights.items()}
    for layer in range(CONFIG.num_hidden_layers if qkv_concat else 0):
        attention, feed_forward = f"model.layers.{layer}.attention", f"model.layers.{layer}.feed_forward"
        qkv = np.concatenate([renamed.pop(f"{attention}.{part}.weight") for part in ("wq", "wk", "wv")])
        renamed[f"{attention}.w_qkv.weight"] = qkv_concat_hf2mg(qkv, 8, 2, 32)
        if f"{attention}.wq.bias" in renamed:
            bias = np.concatenate([renamed.pop(f"{attention}.{part}.bias") for part in ("wq", "wk", "wv")])
            renamed[f"{attention}.w_qkv.bias"] = qkv_concat_hf2mg(bias, 8, 2, 32)
        gate_up = np.concatenate([renamed.pop(f"{feed_forward}.{part}.weight") for part in ("w1", "w3")])
        renamed[f"{feed_forward}.w_gate_hidden.weight"] = ffn_concat_hf2mg(gate_up, 64)
    return renamed


def write_ckpt(path, weights):
    import mindspore

    data = [
        {"name": name, "data": mindspore.Tensor(np.asarray(values, np.float32), mindspore_type(values))}
        for name, values in weights.items()
    ]
    mindspore.save_checkpoint(data, str(path))
    return path


def mindspore_type(values):
    import mindspore

    return getattr(mindspore, str(values.dtype))


def write_mindformers_safetensors(path, weights):
    path.mkdir()
    renamed = to_mindformers(weights, qkv_concat=True)
    names = sorted(renamed)
    safetensors.numpy.save_file({name: renamed[name] for name in names[::2]}, path / "a.safetensors")
    safetensors.numpy.save_file({name: renamed[name] for name in names[1::2]}, path / "b.safetensors")
    return path


WRITERS = {
    "gguf": write_gguf,
    "hf": write_hf_folder,
    "hf-sharded": lambda path, weights: write_hf_folder(path, weights, shards=3),
    "mindformers.ckpt": lambda path, weights: write_ckpt(path, to_mindformers(weights, qkv_concat=False)),
    "qkv_concat.ckpt": lambda path, weights: write_ckpt(path, to_mindformers(weights, qkv_concat=True)),
    "own-names.ckpt": write_ckpt,
    "mindformers-safetensors": write_mindformers_safetensors,
}
