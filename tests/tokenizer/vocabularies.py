"""Small vocabularies, and GGUF files that hold nothing else."""

import gguf
from tokenizers import pre_tokenizers


def write_vocabulary(path, architecture="llama", **metadata):
    """A GGUF file with nothing but a tokenizer, its keys given without `tokenizer.ggml.`."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        full_key = f"tokenizer.{key}" if key.startswith("chat_template") else f"tokenizer.ggml.{key}"
        kinds = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string, list: writer.add_array}
        if value is not None:
            kinds[type(value)](full_key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ["<s>", "</s>", "<|user|>"]


def small_bpe(**changes):
    """A byte-level vocabulary: three control tokens, one user-defined, the bytes, and two merges."""
    tokens = [*SPECIAL, "<tool>", *BYTES, "ab", "abc"]
    return {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [3] * 3 + [4] + [1] * (len(tokens) - 4),
        "merges": ["a b", "ab c"],
        "bos_token_id": 0,
        "eos_token_id": 1,
    } | changes
