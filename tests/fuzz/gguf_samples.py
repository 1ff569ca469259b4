"""Good GGUF files of a few KB: the vocabularies of LLaMA 2, GPT-2 and LLaMA 3, floats and blocks, rope divisors."""

from random import Random

import gguf
import numpy as np

from tests.fuzz.gguf_tree import BF16, F16, F32, Q4_0, Q4_1, Q8_0, GgufTree, Tensor, Text, field_of

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|user|>' if message['role'] == 'user' else '<a>' }}"
    "{{ message['content'] | trim }}{% endfor %}{% if add_generation_prompt %}{{ '<a>' }}{% endif %}"
)
TEXT = "ab abc b"
HIDDEN, FEED_FORWARD, HEADS, KV_HEADS = 32, 32, 4, 2


def trees() -> list[GgufTree]:
    """The samples."""
    return [
        _tree(_sentencepiece(), [F32, F16]),
        _tree(_byte_level("gpt-2"), [Q4_0, Q8_0], tied=True),
        _tree(_byte_level("llama-bpe") | {"tokenizer.ggml.add_bos_token": True}, [BF16, Q4_1], scaled=True),
        _tree({}, [F32]),
    ]


def _sentencepiece() -> dict:
    tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "\u2581", "a", "b", "c", "ab", "\u2581a", "\u2581ab", "abc", "<|user|>"]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [float(-index) for index in range(len(tokens))],
        "tokenizer.ggml.token_type": [2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1, 4],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.chat_template": TEMPLATE,
    }


def _byte_level(pre: str) -> dict:
    tokens = [
        "<s>",
        "</s>",
        "<|user|>",
        "<a>",
        "a",
        "b",
        "c",
        "\u0120",
        "ab",
        "\u0120a",
        "\u0120ab",
        "abc",
        "<|eot_id|>",
    ]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 4, 3, *[1] * 8, 3],
        "tokenizer.ggml.merges": ["a b", "\u0120 a", "\u0120a b", "ab c"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.eot_token_id": 12,
        "tokenizer.chat_template": TEMPLATE,
    }


def _tree(tokenizer: dict, kinds: list[int], tied: bool = False, scaled: bool = False) -> GgufTree:
    metadata = {
        "general.architecture": "llama",
        "general.name": "tiny",
        "general.file_type": 1,
        "llama.block_count": 1,
        "llama.context_length": 64,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": FEED_FORWARD,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 500000.0,
        "llama.rope.dimension_count": HIDDEN // HEADS,
        "llama.vocab_size": 13,
    } | tokenizer
    shapes = {
        "token_embd.weight": (13, HIDDEN),
        "blk.0.attn_norm.weight": (HIDDEN,),
        "blk.0.attn_q.weight": (HIDDEN, HIDDEN),
        "blk.0.attn_k.weight": (16, HIDDEN),
        "blk.0.attn_v.weight": (16, HIDDEN),
        "blk.0.attn_output.weight": (HIDDEN, HIDDEN),
        "blk.0.ffn_norm.weight": (HIDDEN,),
        "blk.0.ffn_gate.weight": (FEED_FORWARD, HIDDEN),
        "blk.0.ffn_up.weight": (FEED_FORWARD, HIDDEN),
        "blk.0.ffn_down.weight": (HIDDEN, FEED_FORWARD),
        "output_norm.weight": (HIDDEN,),
    }
    if not tied:
        shapes["output.weight"] = (13, HIDDEN)
    random = Random(len(metadata))
    tensors = [_tensor(name, shape, random, kinds) for name, shape in shapes.items()]
    if scaled:
        tensors.append(_float_tensor("rope_freqs.weight", np.ones(HIDDEN // HEADS // 2, np.float32)))
    return GgufTree([field_of(key, value) for key, value in metadata.items()], tensors)


def _tensor(name: str, shape: tuple[int, ...], random: Random, kinds: list[int]) -> Tensor:
    values = np.random.default_rng(random.randrange(2**32)).standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        return _float_tensor(name, values)
    kind = random.choice(kinds)
    content = gguf.quantize(values, gguf.GGMLQuantizationType(kind)).tobytes()
    return Tensor(Text(name.encode()), list(reversed(shape)), kind, content)


def _float_tensor(name: str, values: np.ndarray) -> Tensor:
    return Tensor(Text(name.encode()), list(reversed(values.shape)), F32, values.tobytes())
