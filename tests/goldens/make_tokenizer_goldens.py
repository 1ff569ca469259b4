"""Make tokenizers.json: what other tokenizers make of texts, for the kinds of GGUF vocabularies.

Run in the environment that make_goldens.py describes:
    python tests/goldens/make_tokenizer_goldens.py

sentencepiece: a small vocabulary trained as LLaMA 2's was (BPE, byte fallback, digits apart), and ids by SentencePiece.
llama3_words: how the pattern by which transformers converts Llama 3's published (tiktoken) vocabulary cuts texts, found
by the engine that tiktoken's patterns are written for. (Its conversion of GGUF files cuts as GPT-2 does.)
"""

import inspect
import io
import json
from pathlib import Path

import regex
import sentencepiece
from make_goldens import LONG_PROMPT, TOKENIZER_TEXTS
from transformers.convert_slow_tokenizer import TikTokenConverter, bytes_to_unicode

SPACES = ["a" + " " * count + "b" for count in range(1, 20)] + [" " * count for count in range(1, 20)]
REPEATS = ["a" * count for count in range(1, 12)] + ["the the the", "thethethe", "lalalala", "ssssh", "-----=====-----"]


def sentencepiece_goldens() -> dict:
    """A vocabulary with its scores and types, and the ids and the decoded text of each test text."""
    corpus = [*LONG_PROMPT.split(". "), *TOKENIZER_TEXTS, *SPACES * 3, *REPEATS * 3]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text for text in corpus if text and "\x00" not in text),
        model_writer=model,
        model_type="bpe",
        vocab_size=900,
        byte_fallback=True,
        split_digits=True,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        character_coverage=0.98,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    kinds = [
        (processor.is_unknown, 2),
        (processor.is_control, 3),
        (processor.is_unused, 5),
        (processor.is_byte, 6),
    ]
    ids = range(processor.vocab_size())
    # SentencePiece knows no special tokens in text; our tokenizers find them, as transformers does.
    texts = [text for text in [*TOKENIZER_TEXTS, *SPACES, *REPEATS, LONG_PROMPT] if "\x00" not in text]
    encoded = [processor.encode(text) for text in texts]
    return {
        "tokens": [processor.id_to_piece(index) for index in ids],
        "scores": [processor.get_score(index) for index in ids],
        "token_type": [next((kind for holds, kind in kinds if holds(index)), 1) for index in ids],
        "texts": [
            {"text": text, "ids": ids, "decoded": processor.decode(ids)}
            for text, ids in zip(texts, encoded, strict=True)
        ],
    }


def llama3_words() -> list[dict]:
    """Each text and its words, in the byte-level alphabet."""
    pattern = inspect.signature(TikTokenConverter).parameters["pattern"].default
    in_bytes = bytes_to_unicode()
    return [
        {
            "text": text,
            "words": ["".join(in_bytes[byte] for byte in word.encode()) for word in regex.findall(pattern, text)],
        }
        for text in TOKENIZER_TEXTS
    ]


def main():
    """Write the goldens beside this script."""
    goldens = {"sentencepiece": sentencepiece_goldens(), "llama3_words": llama3_words()}
    text = json.dumps(goldens, ensure_ascii=True, separators=(",", ":")).replace('{"text"', '\n{"text"')
    Path(__file__).with_name("tokenizers.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
