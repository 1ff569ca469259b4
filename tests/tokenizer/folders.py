"""Small Hugging Face folders of tokenizers: byte-level BPE, and SentencePiece as Llama 2 has it."""

import io
import json

import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

LINES = [
    "The quick brown fox jumps over the lazy dog.",
    "Hello world, how are you today?",
    "def f(x): return x + 12345",
    "Die Straße ist naß, über Größe",
    "Привет, мир! Как дела сегодня?",
    "你好世界，今天天气很好",
    "こんにちは世界",
    "مرحبا بالعالم",
    "  two  spaces   three",
]
TEXTS = [
    *LINES,
    "",
    " ",
    "\n\n a\tb  c ",
    "Hello world",
    "na\u00efve e\u0301 \U0001f642\u200d\U0001f525 \ufb01",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0939\u093f\u0928\u094d\u0926\u0940",
    "a\0b \x1b[31m",
    "price 12 345.60 <s> x</s>y <tool>z [INST]",
]
SPECIAL = ["<s>", "</s>", "<|user|>", "<|im_end|>"]


def byte_level(special=SPECIAL):
    """A byte-level BPE of 320 tokens, the special ones first."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(LINES * 3, trainer)
    return backend


def sentencepiece_model(**options):
    """The bytes of a tokenizer.model of some 480 tokens: bytes, a user-defined and a control symbol among them."""
    model = io.BytesIO()
    settings = {
        "vocab_size": 480,
        "model_type": "bpe",
        "byte_fallback": True,
        "character_coverage": 0.98,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "split_digits": True,
        "user_defined_symbols": ["<tool>"],
        "control_symbols": ["<|im_end|>"],
        "minloglevel": 2,
    } | options
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(LINES * 6), model_writer=model, **settings)
    return model.getvalue()


def write(folder, **files):
    """Write files, their names with __ for a dot: bytes and texts as they are, others as JSON; returns the folder."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder
