"""What the product makes of a model's files, without an engine: its shape, its tensors, its tokens, its prompts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from mindspore_paged.errors import RequestError
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.tokenizer import Tokenizer, load_tokenizer
from mindspore_paged.weights.checkpoint import open_checkpoint
from mindspore_paged.weights.tensor_source import Checkpoint

TEXTS = ("ab abc b", "c\n<s>abc<|user|>", "")
MESSAGES = [
    {"role": "user", "content": " ab "},
    {"role": "assistant", "content": "c"},
    {"role": "user", "content": "b"},
]


def model_answer(path: Path, model_config: ModelConfig | None = None) -> dict[str, Any]:
    """Parts of the answer: config, tensors, and those of `tokens_of`."""
    checkpoint = open_checkpoint(path, model_config)
    return {
        "config": repr(checkpoint.model_config),
        "tensors": tensors_of(checkpoint),
    } | tokens_of(load_tokenizer(checkpoint.tokenizer_source))


def tensors_of(checkpoint: Checkpoint) -> dict[str, tuple]:
    """Shape, type and checksum of each tensor, read whole, and of a part of it."""
    found = {}
    for name in checkpoint.names():
        whole = checkpoint.read(name)
        part = checkpoint.read_part(name, 0, 0, max(len(whole) // 2, 1)) if whole.ndim and len(whole) else whole
        found[name] = (checkpoint.shape(name), str(checkpoint.dtype(name)), _checksum(whole), _checksum(part))
    return found


def tokens_of(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Ids of some texts, the texts of those and of all ids, the ends of a sequence, and the prompt of a chat."""
    if tokenizer is None:
        return {}
    ids = [_or_refusal(tokenizer.encode, text) for text in TEXTS]
    all_ids = list(range(min(tokenizer.vocab_size, 300)))
    return {
        "ids": ids,
        "texts": [tokenizer.decode(each) for each in (*ids, all_ids) if isinstance(each, list)],
        "ends": (tokenizer.bos_token_id, tokenizer.eos_token_ids),
        "chat": _or_refusal(tokenizer.encode_chat, MESSAGES),
    }


def _or_refusal(encode: Callable[[Any], list[int]], given: Any) -> Any:
    """The ids, or in what words these texts are refused, which is no refusal of the file."""
    try:
        return encode(given)
    except RequestError as error:
        return str(error)


def _checksum(values: np.ndarray) -> int:
    return crc32(np.ascontiguousarray(values).view(np.uint8).tobytes() if values.size else b"")
