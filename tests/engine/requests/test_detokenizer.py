from itertools import chain

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mindspore_paged.engine.requests.detokenizer import IncrementalDetokenizer

TEXT = "Hello world, hello paged world. ¿Qué tal? 日本語 🙂🚀 naïve café"


def byte_level_tokenizer() -> Tokenizer:
    """As Llama 3: tokens are pieces of bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["hello world, the paged world. "] * 5, trainer)
    tokenizer.add_tokens(["<tool🔧>"])
    return tokenizer


def sentencepiece_tokenizer() -> Tokenizer:
    """As Llama 2: a space is part of the token, rare characters are spelt in byte tokens."""
    pieces = ["</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdefghijklmnopqrstuvwxyz.", "▁hello", "▁a"]
    tokenizer = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token="</s>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


BYTE_LEVEL = byte_level_tokenizer()
SENTENCEPIECE = sentencepiece_tokenizer()
END = BYTE_LEVEL.token_to_id("<|end|>")


def byte_tokens(data: bytes) -> list[int]:
    """One byte-level token for each byte."""
    alphabet = [chr(byte) for byte in range(256)]
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    for place, byte in enumerate(byte for byte in range(256) if byte not in printable):
        alphabet[byte] = chr(256 + place)
    return [BYTE_LEVEL.token_to_id(alphabet[byte]) for byte in data]


def pieces(*tokens: str) -> list[int]:
    return [SENTENCEPIECE.token_to_id(token) for token in tokens]


def spelt(text: str) -> list[int]:
    return pieces(*(f"<0x{byte:02X}>" for byte in text.encode()))


def stream(tokenizer, token_ids, stop=(), prompt=(), **options):
    """All that was given out, piece by piece, the end last; the text must be their sum at every moment."""
    detokenizer = IncrementalDetokenizer(tokenizer, stop, prompt, **options)
    given_out = []
    for token in token_ids:
        given_out.append(detokenizer.append(token))
        assert detokenizer.text == "".join(given_out)
    given_out.append(detokenizer.finish())
    assert detokenizer.text == "".join(given_out)
    return given_out, detokenizer


def cut_at_first_stop(text, stop):
    """The definition: read a character at a time until the text ends with a stop string, the longest that fits."""
    for end in range(len(text) + 1):
        found = [string for string in stop if text[:end].endswith(string)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


def flat(parts) -> list[int]:
    return list(chain.from_iterable(parts))


any_token = st.integers(0, BYTE_LEVEL.get_vocab_size() - 1)
encoded_text = st.text(max_size=12).map(lambda text: BYTE_LEVEL.encode(text).ids)
token_streams = st.lists(st.lists(any_token, max_size=6) | encoded_text, max_size=8).map(flat)

whole_characters = st.lists(
    st.sampled_from(["▁", "a", "z", ".", "▁hello", "</s>"]).map(pieces) | st.text(max_size=4).map(spelt), max_size=12
).map(flat)


class TestText:
    def test_every_character_comes_as_soon_as_it_is_complete(self):
        ids = BYTE_LEVEL.encode(TEXT).ids
        given_out, _ = stream(BYTE_LEVEL, ids)
        for count in range(len(ids)):
            complete = BYTE_LEVEL.decode(ids[: count + 1]).rstrip("\ufffd")
            assert "".join(given_out[: count + 1]) == complete
        assert "".join(given_out) == TEXT

    def test_an_emoji_in_four_tokens_comes_whole(self):
        assert stream(BYTE_LEVEL, byte_tokens("a🙂b".encode()))[0] == ["a", "", "", "", "🙂", "b", ""]

    def test_an_incomplete_end_is_given_out_at_last(self):
        assert stream(BYTE_LEVEL, byte_tokens(b"a\xf0\x9f"))[0] == ["a", "", "", "\ufffd"]

    def test_bytes_that_are_no_utf8_do_not_stop_what_follows(self):
        assert stream(BYTE_LEVEL, byte_tokens(b"\xff\xe2\x82a"))[0] == ["", "", "", "\ufffd\ufffda", ""]

    def test_special_tokens_are_left_out_also_inside_a_character(self):
        first, *rest = byte_tokens("é".encode())
        assert "".join(stream(BYTE_LEVEL, [END, first, END, END, END, END, *rest, END])[0]) == "é"

    @given(token_streams, st.booleans())
    @example([END, *byte_tokens(b"a"), END], False)
    def test_any_tokens_add_up_to_decoding_at_once(self, token_ids, skip):
        expected = BYTE_LEVEL.decode(token_ids, skip_special_tokens=skip)
        assert "".join(stream(BYTE_LEVEL, token_ids, skip_special_tokens=skip)[0]) == expected

    @given(token_streams, token_streams)
    @example(byte_tokens(b"\xac!"), byte_tokens(b"a\xe2\x82"))
    @example(byte_tokens(b"\x92!"), byte_tokens(b"\xf0\x9f"))
    def test_no_prompt_changes_it_even_one_that_breaks_off_inside_a_character(self, token_ids, prompt):
        assert "".join(stream(BYTE_LEVEL, token_ids, prompt=prompt)[0]) == BYTE_LEVEL.decode(token_ids)

    def test_finish_twice_gives_nothing_more(self):
        _, detokenizer = stream(BYTE_LEVEL, byte_tokens(b"a\xf0"))
        assert detokenizer.finish() == ""

    def test_without_a_tokenizer_there_is_no_text(self):
        assert stream(None, [1, 2, 3], prompt=[4])[0] == ["", "", "", ""]


class TestSentencePiece:
    def test_the_space_at_the_start_is_stripped_once(self):
        token_ids = pieces("▁hello", "▁a", "▁", "▁", "b")
        assert stream(SENTENCEPIECE, token_ids)[0] == ["hello", " a", "", "  ", "b", ""]

    def test_the_space_behind_a_prompt_is_kept(self):
        assert stream(SENTENCEPIECE, pieces("▁hello"), prompt=pieces("▁a"))[0] == [" hello", ""]

    def test_a_prompt_of_special_tokens_is_a_start(self):
        assert stream(SENTENCEPIECE, pieces("▁hello"), prompt=pieces("</s>"))[0] == ["hello", ""]

    @pytest.mark.parametrize("text", ["日本語", "é", "🙂", "日🙂é語"])
    @pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 30])
    def test_the_space_behind_a_prompt_of_byte_tokens_is_kept(self, text, count):
        assert stream(SENTENCEPIECE, pieces("▁hello"), prompt=spelt(text * count))[0] == [" hello", ""]

    @pytest.mark.parametrize("end", [spelt("日")[:2], pieces("<0xFF>") * 9, pieces("</s>") * 12, spelt("\ufffd") * 5])
    def test_nor_does_it_matter_how_the_prompt_ends(self, end):
        assert stream(SENTENCEPIECE, pieces("▁hello"), prompt=[*pieces("▁a"), *end])[0] == [" hello", ""]

    @given(whole_characters, whole_characters)
    @settings(max_examples=50)
    @example(spelt("日本語"), pieces("▁hello"))
    @example(pieces("▁"), pieces("▁hello"))
    def test_behind_any_prompt_it_is_what_decoding_both_adds(self, prompt, token_ids):
        expected = SENTENCEPIECE.decode([*prompt, *token_ids])[len(SENTENCEPIECE.decode(prompt)) :]
        assert "".join(stream(SENTENCEPIECE, token_ids, prompt=prompt)[0]) == expected

    def test_the_space_after_a_special_token_is_kept(self):
        token_ids = pieces("▁hello", "</s>", "▁a")
        assert "".join(stream(SENTENCEPIECE, token_ids)[0]) == SENTENCEPIECE.decode(token_ids) == "hello a"

    def test_characters_spelt_in_bytes_come_one_by_one(self):
        assert stream(SENTENCEPIECE, spelt("日本é"))[0] == ["", "", "日", "", "", "本", "", "é", ""]

    @given(whole_characters)
    def test_whole_characters_add_up_to_decoding_at_once(self, token_ids):
        assert "".join(stream(SENTENCEPIECE, token_ids)[0]) == SENTENCEPIECE.decode(token_ids)

    def test_bad_bytes_take_nothing_back(self):
        token_ids = [*spelt("é"), *pieces("<0xFF>", "a")]
        assert SENTENCEPIECE.decode(token_ids) == "\ufffd\ufffd\ufffda"
        assert stream(SENTENCEPIECE, token_ids)[0] == ["", "é", "", "\ufffda", ""]


class TestStop:
    def test_split_over_tokens_is_held_back_and_found(self):
        given_out, detokenizer = stream(BYTE_LEVEL, byte_tokens(b"one END two"), stop=("END",))
        assert "".join(given_out) == "one "
        assert given_out[4:7] == ["", "", ""]
        assert detokenizer.stopped_by == "END"

    def test_what_turns_out_not_to_be_one_is_given_out(self):
        given_out, detokenizer = stream(BYTE_LEVEL, byte_tokens(b"aENEND"), stop=("ENDS",))
        assert given_out == ["a", "", "", "EN", "", "", "END"]
        assert detokenizer.stopped_by is None

    def test_text_after_it_in_the_same_token_is_dropped(self):
        hello = BYTE_LEVEL.token_to_id("hello")
        assert hello is not None
        given_out, detokenizer = stream(BYTE_LEVEL, [hello, hello], stop=("ell",))
        assert given_out == ["h", "", ""]
        assert detokenizer.stopped_by == "ell"

    def test_the_first_to_be_complete_wins(self):
        _, detokenizer = stream(BYTE_LEVEL, byte_tokens(b"x, y. z"), stop=(".", ","))
        assert (detokenizer.text, detokenizer.stopped_by) == ("x", ",")

    def test_of_two_that_end_together_the_longest_wins(self):
        _, detokenizer = stream(BYTE_LEVEL, byte_tokens(b"abc"), stop=("c", "bc"))
        assert (detokenizer.text, detokenizer.stopped_by) == ("a", "bc")

    def test_found_in_what_was_held_back_to_the_end(self):
        _, detokenizer = stream(BYTE_LEVEL, byte_tokens(b"a\xff"), stop=("\ufffd",))
        assert (detokenizer.text, detokenizer.stopped_by) == ("a", "\ufffd")

    def test_not_found_in_the_prompt(self):
        _, detokenizer = stream(BYTE_LEVEL, byte_tokens(b"Db"), stop=("END",), prompt=byte_tokens(b"EN"))
        assert (detokenizer.text, detokenizer.stopped_by) == ("Db", None)

    @given(
        st.lists(st.sampled_from(["hello", " world", "l", "o", "🙂"]), max_size=8).map("".join),
        st.lists(st.text("helo w🙂", min_size=1, max_size=5), max_size=4),
        st.booleans(),
    )
    @example("hello", ["hello", "el"], False)
    def test_any_text_is_cut_where_the_definition_says(self, text, stop, in_bytes):
        token_ids = byte_tokens(text.encode()) if in_bytes else BYTE_LEVEL.encode(text).ids
        _, detokenizer = stream(BYTE_LEVEL, token_ids, stop=tuple(stop))
        assert (detokenizer.text, detokenizer.stopped_by) == cut_at_first_stop(text, stop)

    @given(token_streams, st.lists(st.text(" \ufffdelowrd", min_size=1, max_size=3), max_size=3))
    def test_any_tokens_are_cut_where_the_definition_says(self, token_ids, stop):
        _, detokenizer = stream(BYTE_LEVEL, token_ids, stop=tuple(stop))
        expected = cut_at_first_stop(BYTE_LEVEL.decode(token_ids), stop)
        assert (detokenizer.text, detokenizer.stopped_by) == expected


class CountingDecoder:
    """Counts the tokens that are decoded."""

    def __init__(self):
        self.tokens = 0

    def decode(self, ids, skip_special_tokens=True):
        self.tokens += len(ids)
        return BYTE_LEVEL.decode(ids, skip_special_tokens)


@pytest.mark.parametrize("token_ids", [byte_tokens(b"a"), byte_tokens(b"\xff"), [END], byte_tokens("🙂".encode())])
def test_the_work_grows_with_the_tokens_not_their_square(token_ids):
    decoder, count = CountingDecoder(), 2000
    stream_ids = token_ids * (count // len(token_ids))
    detokenizer = IncrementalDetokenizer(decoder)
    for token in stream_ids:
        detokenizer.append(token)
    detokenizer.finish()
    assert detokenizer.text == BYTE_LEVEL.decode(stream_ids)
    assert decoder.tokens < 10 * count


def joined_by_words(tokens: list[str], added: list[str], **options) -> list[str]:
    """What each token gives out, of a decoder that puts spaces between words, as BERT's."""
    vocabulary = Tokenizer(models.WordLevel({word: place for place, word in enumerate(("a", "b"))}, unk_token="a"))
    vocabulary.add_special_tokens(added)
    texts = {token.content: token_id for token_id, token in vocabulary.get_added_tokens_decoder().items()}
    joined = {token_id: text for text, token_id in texts.items()}
    detokenizer = IncrementalDetokenizer(vocabulary, joined_tokens=joined, **options)
    return [detokenizer.append(vocabulary.token_to_id(token)) for token in tokens] + [detokenizer.finish()]


def test_added_tokens_behind_each_other_are_joined():
    tokens, added = ["a", "<x>", "<y>", "<y>", "b", "<x>", "a"], ["<x>", "<y>"]
    told = joined_by_words(tokens, added, skip_special_tokens=False)
    assert told == ["a", " <x>", "<y>", "<y>", " b", " <x>", " a", ""]
    assert "".join(joined_by_words(tokens, added, skip_special_tokens=True)) == "a b a"


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCEPIECE], ids=["byte level", "sentencepiece"])
def test_decoders_without_spaces_between_tokens_have_none_to_leave_out(tokenizer):
    added = {token_id: token.content for token_id, token in tokenizer.get_added_tokens_decoder().items()}
    first = next(iter(added))
    tokens = [5, first, first, 9, first, 30]
    plain = IncrementalDetokenizer(tokenizer, skip_special_tokens=False)
    joined = IncrementalDetokenizer(tokenizer, skip_special_tokens=False, joined_tokens=added)
    assert [joined.append(token) for token in tokens] == [plain.append(token) for token in tokens]
