"""Turns end at the tokens that llama.cpp ends at: those that a file names, and control tokens by their text."""

import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from mindspore_paged.tokenizer import load_tokenizer
from mindspore_paged.tokenizer.end_of_turn import end_token_ids
from tests.tokenizer.vocabularies import small_bpe, write_vocabulary


def tokenizer_of(folder, texts, kind=3, **changes):
    """A tokenizer whose file has `texts` as its last tokens; their ids too."""
    vocabulary = small_bpe()
    first = len(vocabulary["tokens"])
    tokens = {
        "tokens": [*vocabulary["tokens"], *texts],
        "token_type": [*vocabulary["token_type"], *[kind] * len(texts)],
    }
    path = write_vocabulary(folder / "x.gguf", **vocabulary | tokens | changes)
    return load_tokenizer(path), list(range(first, first + len(texts)))


@pytest.mark.parametrize(
    "text",
    [
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|eom_id|>",
        "<|end_of_text|>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "<|file_sep|>",
    ],
)
def test_a_control_token_ends_a_turn_by_its_text(tmp_path, text):
    tokenizer, (index,) = tokenizer_of(tmp_path, [text])
    assert tokenizer.eos_token_ids == (1, index)


def test_other_control_tokens_end_nothing(tmp_path):
    tokenizer, _ = tokenizer_of(tmp_path, ["<|start_header_id|>", "<|im_start|>", "<|python_tag|>", "<pad>"])
    assert tokenizer.eos_token_ids == (1,)


@pytest.mark.parametrize("name", ["eot", "eom", "fim_pad", "fim_rep", "fim_sep"])
def test_the_ids_that_a_file_names_end_a_turn(tmp_path, name):
    tokenizer, (index,) = tokenizer_of(tmp_path, ["<|anything|>"], **{f"{name}_token_id": 3})
    assert tokenizer.eos_token_ids == (1, 3)
    assert index not in tokenizer.eos_token_ids


@pytest.mark.parametrize("kind", [1, 4], ids=["normal", "user-defined"])
def test_an_end_of_turn_of_the_wrong_type_is_a_control_token(tmp_path, kind):
    """As llama.cpp overrides it: it ends a turn, is one token in a text, and is not shown."""
    tokenizer, (index,) = tokenizer_of(tmp_path, ["<|im_end|>"], kind)
    assert tokenizer.eos_token_ids == (1, index)
    assert tokenizer.encode("abc<|im_end|>")[-1] == index
    assert tokenizer.decode(tokenizer.encode("abc<|im_end|>")) == "abc"


def test_a_word_of_html_ends_nothing(tmp_path):
    vocabulary = small_bpe(token_type=[3, 1, 3, 4] + [1] * (len(small_bpe()["tokens"]) - 4), eos_token_id=0)
    assert load_tokenizer(write_vocabulary(tmp_path / "x.gguf", **vocabulary)).eos_token_ids == (0,)


@pytest.mark.parametrize("others", [["<|return|>", "<|call|>"], ["<|calls|>", "<|flush|>"]])
def test_a_turn_of_several_messages_goes_on_after_each(tmp_path, others):
    tokenizer, (end, *ends) = tokenizer_of(tmp_path, ["<|end|>", *others])
    assert end not in tokenizer.eos_token_ids
    assert set(ends) < set(tokenizer.eos_token_ids)


def test_a_saved_tokenizer_keeps_all_ends(tmp_path):
    tokenizer, (index,) = tokenizer_of(tmp_path, ["<|eot_id|>"])
    tokenizer.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").eos_token_ids == (1, index)


def test_stated_ends_come_first_and_once():
    backend = Backend(BPE({"a": 0}, []))
    backend.add_special_tokens([AddedToken("<|im_end|>"), AddedToken("<|eot_id|>"), AddedToken("</s>")])
    backend.add_tokens([AddedToken("<|endoftext|>")])
    assert end_token_ids(backend, (3, None, 2, 3)) == (3, 2, 1, 4)
