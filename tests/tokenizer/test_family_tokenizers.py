"""Each family's tokenizer out of a GGUF file is transformers' of its folder, on texts of many scripts."""

import pytest

from mindspore_paged.tokenizer import load_tokenizer
from tests.tokenizer.families import BYTE_LEVEL, write_byte_level, write_gemma, write_phi3
from tests.tokenizer.folders import TEXTS

MORE_TEXTS = [
    *("I'm you're we'll they'd it's I'VE DON'T \u017f'\u017f", "1234567890 \u00b2\u00b3 \u00bd \u2167"),
    *("CamelCaseAnd_snake HTTPServer XMLHttp iPhone", "\u00c9COLE \u00c9cole \u01c5 \u02b0a", "e\u0301 n\u0303o"),
    *("\u1100\u1161 \ud55c\uad6d\uc5b4 \uc548\ub155", "\u0663\u0664\u0665 \u05e9\u05dc\u05d5\u05dd"),
    *("\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941", "a\u3000b \u3001c", "\u200b zero\u00a0width"),
    *("x \n\n y\r\n\r\n\tz  ", "....,,,;;;!!!???---///\n/", "\U00010400\U00010428 x", "   indented\n\n\n   more"),
    *("<think>\nhm</think> <|im_end|>\n", "[INST] a [/INST]", "\u212b \u2126 \ufb01 \u1e9b\u0323"),
    *("a  b   c       d", "the  the\n\n\n\n\tend", "<start_of_turn>user\nHi  there<end_of_turn>\n", "<table> x"),
    *("<|user|>\nHello<|end|>\n<|assistant|>\n", "<|user|> \n\n Hello", "a<|endoftext|> b </s> c<s> d", "Hi <|end|> x"),
]  # fmt: skip


def assert_equal(ours, theirs):
    for text in (*TEXTS, *MORE_TEXTS):
        ids = ours.encode(text)
        assert ids == theirs.encode(text), text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("family", BYTE_LEVEL)
def test_byte_level(tmp_path, family):
    from transformers import AutoTokenizer

    folder, file = write_byte_level(tmp_path, family)
    assert_equal(load_tokenizer(file), AutoTokenizer.from_pretrained(folder))


@pytest.mark.parametrize("write", [write_gemma, write_phi3])
def test_sentencepiece(tmp_path, write):
    from transformers import AutoTokenizer

    folder, file = write(tmp_path)
    assert_equal(load_tokenizer(file), AutoTokenizer.from_pretrained(folder))
