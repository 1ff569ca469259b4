"""Vocabularies of GGUF files that others write or damage: special tokens that are none, and values that cannot be."""

import logging
import time

import pytest

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.gguf_file import GgufFile
from mindspore_paged.tokenizer import load_tokenizer
from tests.formats.gguf_bytes import ARRAY, FLOAT32, INT32, STRING, array, entry, gguf_bytes, string, text, uint32
from tests.tokenizer.vocabularies import small_bpe, write_vocabulary

TOKENS = small_bpe()["tokens"]
SIZE = len(TOKENS)


@pytest.fixture
def tokenizer_of(tmp_path):
    return lambda **changes: load_tokenizer(write_vocabulary(tmp_path / "x.gguf", **small_bpe(**changes)))


def sentencepiece(**changes):
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "\u2581a"]
    types = [2, 3, 3, *[6] * 256, 1, 1, 1]
    scores = [0.0] * 259 + [-2.0, -3.0, -1.0]
    return {
        **dict.fromkeys(small_bpe()),
        **{"model": "llama", "tokens": tokens, "token_type": types, "scores": scores},
    } | changes


@pytest.mark.parametrize("name", ["bos", "eos", "eot", "eom", "unknown", "fim_pad"])
@pytest.mark.parametrize("value", [SIZE, 2**32 - 1])
def test_a_special_token_that_is_none_is_named_and_left_out(tokenizer_of, caplog, name, value):
    tokenizer = tokenizer_of(**{f"{name}_token_id": value})
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("mindspore_paged", logging.WARNING)
    assert f"tokenizer.ggml.{name}_token_id is {value}" in record.message
    assert f"a vocabulary of {SIZE}; it is ignored" in record.message
    assert tokenizer.bos_token_id == (None if name == "bos" else 0)
    assert tokenizer.eos_token_ids == (() if name == "eos" else (1,)) or 1 in tokenizer.eos_token_ids
    assert value not in tokenizer.eos_token_ids
    assert len(tokenizer.encode("abc")) == 1


@pytest.mark.parametrize(("name", "default"), [("bos", 1), ("eos", 2), ("unknown", 0)])
def test_the_defaults_of_sentencepiece_take_their_place(tmp_path, caplog, name, default):
    vocabulary = sentencepiece(**{f"{name}_token_id": 9999})
    file = GgufFile(write_vocabulary(tmp_path / "x.gguf", **vocabulary))
    assert load_tokenizer(file).encode("a") == [1, 261]
    assert file.special_token_ids[name] == default
    (record,) = caplog.records
    assert f"{name}_token_id is 9999" in record.message
    assert f"{default} is taken" in record.message


def test_sentencepiece_without_ids_has_the_usual_ones(tmp_path, caplog):
    tokenizer = load_tokenizer(write_vocabulary(tmp_path / "x.gguf", **sentencepiece()))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (1, (2,))
    assert not caplog.records


@pytest.mark.parametrize("key", ["bos_token_id", "eot_token_id"])
def test_a_negative_id_is_none(tmp_path, caplog, key):
    entries = [
        string("tokenizer.ggml.model", "gpt2"),
        entry("tokenizer.ggml.tokens", ARRAY, array(STRING, 2, text("a") + text("b"))),
        entry("tokenizer.ggml.merges", ARRAY, array(STRING, 0, b"")),
        entry(f"tokenizer.ggml.{key}", INT32, b"\xff" * 4),
    ]
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_bytes(entries))
    tokenizer = load_tokenizer(path)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (None, ())
    assert f"{key} is -1, which is no token of a vocabulary of 2" in caplog.text


def test_a_flag_that_asks_for_a_token_that_is_none_is_refused(tokenizer_of):
    with pytest.raises(CheckpointError, match=r"lacks tokenizer.ggml.eos_token_id"):
        tokenizer_of(add_eos_token=True, eos_token_id=SIZE)


@pytest.mark.parametrize("bos", ["$A", "$B:9", "x:y", "bos:1", "eos", "$$", "\n", "<s>:99999999999"])
def test_bos_may_be_any_text(tokenizer_of, bos):
    """A template of the tokenizers library means something by some of these; it once ended in a panic."""
    tokenizer = tokenizer_of(tokens=[bos, *TOKENS[1:]], add_bos_token=True, add_eos_token=True)
    ids = tokenizer.encode("abc")
    assert ids == [0, SIZE - 1, 1]
    assert tokenizer.decode(ids, skip_special_tokens=False) == f"{bos}abc</s>"


def test_an_empty_token_keeps_its_place(tokenizer_of):
    vocabulary = small_bpe()
    tokens = [*vocabulary["tokens"], "", "xyz", ""]
    tokenizer = tokenizer_of(tokens=tokens, token_type=[*vocabulary["token_type"], 3, 3, 1])
    assert tokenizer.vocab_size == len(tokens)
    assert tokenizer.encode("abcxyz")[-1] == len(tokens) - 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": []}, "tokenizer.ggml.tokens is empty|lacks tokenizer.ggml.tokens"),
        ({"tokens": [1, 2, 3]}, r"tokenizer.ggml.tokens\[0\] is 1; it must be a valid string"),
        ({"tokens": "abc"}, "tokenizer.ggml.tokens is 'abc'; it must be a valid list"),
        ({"tokens": [*TOKENS[:-1], "ab"]}, f"tokens {SIZE - 2} and {SIZE - 1} are both 'ab'"),
        ({"tokens": [*TOKENS[:-1], "x" * 2000]}, "has 2000 characters; allowed: 1024"),
        ({"token_type": [0.5] * SIZE}, r"tokenizer.ggml.token_type\[0\] is 0.5; it must be a valid integer"),
        ({"token_type": ["normal"] * SIZE}, r"tokenizer.ggml.token_type\[0\] is 'normal'"),
        ({"token_type": 3}, "tokenizer.ggml.token_type is 3; it must be a valid list"),
        ({"token_type": [1] * (SIZE + 1)}, f"{SIZE} tokens but {SIZE + 1} token types"),
        ({"merges": ["ab"]}, "merge 'ab' joins or makes a token that the vocabulary lacks"),
        ({"merges": [" "]}, "merge ' ' joins"),
        ({"merges": ["a b c"]}, "merge 'a b c' joins"),
        ({"merges": [1, 2]}, r"tokenizer.ggml.merges\[0\] is 1; it must be a valid string"),
        ({"merges": "a b"}, "tokenizer.ggml.merges is 'a b'; it must be a valid list"),
        ({"pre": 5}, "tokenizer.ggml.pre is 5; it must be a valid string"),
        ({"pre": "x" * 9999}, "allowed: default"),
        ({"model": 5}, "tokenizer.ggml.model is 5; it must be a valid string"),
        ({"add_bos_token": 1}, "tokenizer.ggml.add_bos_token is 1; it must be a valid boolean"),
        ({"eos_token_id": "two"}, "tokenizer.ggml.eos_token_id is a str"),
        ({"eos_token_id": True}, "tokenizer.ggml.eos_token_id is a bool"),
        ({"chat_template": 7}, "tokenizer.chat_template is a int"),
        (sentencepiece(scores=[1, 2]), "tokens but 2 scores"),
        (sentencepiece(scores=["high"] * 262), r"tokenizer.ggml.scores\[0\] is 'high'"),
        (sentencepiece(scores=[float("nan")] * 262), "holds what is no number"),
        (sentencepiece(tokens=["\u2581" * 900] * 262), "tokens 0 and 1 are both"),
    ],
)
def test_values_that_cannot_be(tokenizer_of, changes, message):
    with pytest.raises(CheckpointError, match=message) as error:
        tokenizer_of(**changes)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 900


@pytest.mark.parametrize("key", ["tokens", "merges"])
def test_text_that_is_not_utf8(tmp_path, key):
    texts = {"tokens": text("a") + text("b"), "merges": text("a b") + text("b a")}
    texts[key] = text("a") + text(b"\xe9")
    entries = [entry(f"tokenizer.ggml.{name}", ARRAY, array(STRING, 2, of)) for name, of in texts.items()]
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_bytes([string("tokenizer.ggml.model", "gpt2"), *entries]))
    with pytest.raises(CheckpointError, match=rf"tokenizer.ggml.{key} holds b'\\xe9', which is not UTF-8"):
        load_tokenizer(path)


def test_many_long_tokens_take_no_longer_than_their_bytes(tmp_path):
    """Tokens as long as they may be, each a beginning of the others: every cut of each is a merge."""
    tokens = ["a" * length for length in range(1, 301)]
    entries = [
        string("tokenizer.ggml.model", "llama"),
        entry("tokenizer.ggml.tokens", ARRAY, array(STRING, 300, b"".join(map(text, tokens)))),
        entry("tokenizer.ggml.scores", ARRAY, array(FLOAT32, 300, b"\0" * 1200)),
        uint32("tokenizer.ggml.unknown_token_id", 0),
    ]
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_bytes(entries))
    start = time.process_time()
    load_tokenizer(path)
    assert time.process_time() - start < 2
