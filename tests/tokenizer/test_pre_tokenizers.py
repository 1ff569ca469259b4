"""Words are cut as llama.cpp cuts them, by every name that its files give a way of cutting."""

import json
from pathlib import Path

import pytest

from mindspore_paged.tokenizer import load_tokenizer
from mindspore_paged.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from tests.tokenizer.vocabularies import small_bpe, write_vocabulary

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "pre_tokenizers.json").read_text(encoding="utf-8"))
OF_ASCII_ALONE = {"\u00c9COLE \u00c9cole", "e\u0301 n\u0303o", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941"} | {
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35"
}
"""llama.cpp has no classes of capitals and marks, and takes those of ASCII where the published patterns have them."""
WIDE_SPACE = {"a\u3000b \u3001c"}
"""llama.cpp takes a space that is not of ASCII for another character, which is in no class of CJK."""
APART = {"tekken": OF_ASCII_ALONE, "gpt-4o": OF_ASCII_ALONE, "deepseek-llm": WIDE_SPACE, "deepseek-coder": WIDE_SPACE}


def words_of(kind, text):
    return [word for word, _ in PRE_TOKENIZERS[kind].build().pre_tokenize_str(text)]


def in_bytes(words):
    """Each word as byte-level BPE writes it."""
    return ["".join(words_of("gpt-2", word)) for word in words]


@pytest.mark.parametrize("kind", GOLDENS["words"])
def test_words_are_those_of_llama_cpp(kind):
    for text, words in zip(GOLDENS["texts"], GOLDENS["words"][kind], strict=True):
        if text not in APART.get(kind, ()):
            assert words_of(kind, text) == words, text


@pytest.mark.parametrize("kind", ["tekken", "gpt-4o"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\u00c9COLE \u00c9cole", ["\u00c9COLE", " \u00c9cole"]),
        ("\u041c\u0438\u0440\u041c\u0438\u0440", ["\u041c\u0438\u0440", "\u041c\u0438\u0440"]),
        ("e\u0301 n\u0303o", ["e\u0301", " n\u0303o"]),
        (
            "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941",
            ["\u0928\u092e\u0938\u094d\u0924\u0947", " \u0926\u0941"],
        ),
    ],
)
def test_capitals_and_marks_of_all_scripts(kind, text, words):
    assert words_of(kind, text) == in_bytes(words)


@pytest.mark.parametrize("kind", ["deepseek-llm", "deepseek-coder"])
def test_a_wide_space_goes_with_chinese(kind):
    assert words_of(kind, "a\u3000b") == in_bytes(["a", "\u3000", "b"])


@pytest.mark.parametrize("kind", PRE_TOKENIZERS)
def test_every_kind_keeps_every_byte(kind):
    for text in GOLDENS["texts"]:
        assert "".join(words_of(kind, text)) == "".join(words_of("gpt-2", text))


WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken")
"""As in llama.cpp, these kinds ignore merges where a whole word is a token, and put BOS before a text."""


@pytest.mark.parametrize("kind", PRE_TOKENIZERS)
def test_whole_words_and_bos_by_kind(tmp_path, kind):
    vocabulary = small_bpe(pre=kind)
    vocabulary |= {"tokens": [*vocabulary["tokens"], "xyz"], "token_type": [*vocabulary["token_type"], 1]}
    ids = load_tokenizer(write_vocabulary(tmp_path / "x.gguf", **vocabulary)).encode("xyz")
    whole_with_bos = [0, len(vocabulary["tokens"]) - 1]
    assert (ids == whole_with_bos) if kind in WHOLE_WORDS else (len(ids) == 3)
