"""Small models that speak, and runs of the command line in this process, for its tests."""

import json
from dataclasses import replace
from pathlib import Path

from tokenizers import pre_tokenizers

from mindspore_paged import cli
from mindspore_paged.tokenizer import load_tokenizer
from tests.reference import llama as reference
from tests.weights import tiny

TINY = ["--config", str(Path(__file__).parents[1] / "configs" / "tiny.yaml")]
SMALL = [
    *("scheduler.max_num_seqs=2", "scheduler.max_num_batched_tokens=8", "scheduler.token_buckets=[8]"),
    *("scheduler.max_model_len=64", "cache.num_blocks=17"),
]
"""Overrides that leave two graphs to compile."""

CHAT_TEMPLATE = "<s>{% for message in messages %}{{ message.content }}|{% endfor %}"
TOKENS = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
CONFIG = replace(tiny.CONFIG, vocab_size=len(TOKENS), bos_token_id=0, eos_token_ids=(1,))
WEIGHTS = reference.random_weights(CONFIG, seed=5)
"""A model whose tokens are single bytes, but for three."""


def run(*arguments) -> int:
    """The exit code of the command; a set-up small enough for a test comes with it."""
    return cli.main([*map(str, arguments), "--set", *SMALL])


def run_to_json(folder, *arguments) -> dict:
    """What a run that goes well writes with --json."""
    path = folder / "answers.json"
    assert run(*arguments, "--json", path) == 0
    return json.loads(path.read_text(encoding="utf-8"))


def write_lines(path, *lines):
    """A prompts file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_gguf(path, positions=tiny.CONFIG.max_position_embeddings, **tokenizer):
    """The model with its tokenizer as one GGUF file."""
    keys = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": TOKENS,
        "token_type": [3, 3] + [1] * (len(TOKENS) - 2),
        "merges": ["a b"],
        "bos_token_id": 0,
        "eos_token_id": 1,
    } | tokenizer
    return tiny.write_gguf(path, WEIGHTS, _metadata(keys) | {"llama.context_length": positions})


def write_gguf_without_tokenizer(path):
    """The model alone as a GGUF file."""
    return tiny.write_gguf(path, WEIGHTS, _metadata({"bos_token_id": 0, "eos_token_id": 1}))


def write_hf_folder(folder, tokenizer_from=None):
    """The model as a Hugging Face folder, with the tokenizer of a GGUF file in Hugging Face's form if one is given."""
    tiny.write_hf_folder(folder, WEIGHTS, vocab_size=len(TOKENS), bos_token_id=0, eos_token_id=1)
    if tokenizer_from is not None:
        load_tokenizer(tokenizer_from).backend.save(str(folder / "tokenizer.json"))
        config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHAT_TEMPLATE}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def _metadata(keys):
    tokenizer = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    return tiny.gguf_metadata() | tokenizer | {"tokenizer.chat_template": CHAT_TEMPLATE}
