"""Pages as bytes that somebody else wrote: the exact page, or a refusal, whatever they say of themselves."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspore_paged.cache.page_format import MOST_HEADER_BYTES, PageFormat, is_finite, page_checksum
from mindspore_paged.errors import DamagedPageError, ForeignPageError, IntegrityError
from tests.cache.hostile import INVENTED_DTYPES, forged_like, forged_page, page_file
from tests.cache.pages import DTYPES, format_of, is_page, make_page, name

KEY, OTHER_KEY = b"k" * 32, b"l" * 32
PAGE = make_page(1)
CONTENT = PAGE.tobytes()


def encoded(key: bytes | None = None, number: int = 1) -> bytes:
    page = make_page(number)
    return format_of(key=key).encode(name(number), page, page_checksum(name(number), page))


def assert_refused(data: bytes, message: str, kind=DamagedPageError, key: bytes | None = None) -> None:
    with pytest.raises(kind, match=message) as error:
        format_of(key=key).decode(name(1), data)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def is_exact_or_refused(data: bytes, key: bytes | None = None) -> bool:
    try:
        page, checksum = format_of(key=key).decode(name(1), data)
    except (DamagedPageError, ForeignPageError) as error:
        return "\n" not in str(error)
    return is_page(page, 1) and checksum == page_checksum(name(1), page)


@pytest.mark.parametrize("dtype", [*INVENTED_DTYPES, "float16", "int32", "x" * 1500])
def test_no_type_is_taken_from_a_file(dtype):
    assert_refused(forged_like(PAGE, name(1), "model", dtype), r"the pages of this pool are float32 \(2, 3, 4\)$")


@pytest.mark.parametrize(
    ("stored", "shape", "content"),
    [
        ("F32", (), CONTENT[:4]),
        ("F32", (24,), CONTENT),
        ("F32", (2, 3, 4, 1), CONTENT),
        ("F32", (1, 3, 4), CONTENT[:48]),  # would fill the page by broadcasting
        ("F32", (2, 3, 0), b""),
        ("F32", (2, 3, 8), CONTENT * 2),
        ("F32", (0,) * 33, b""),
        ("I32", (2, 3, 4), CONTENT),
        ("F16", (2, 3, 4), CONTENT[:48]),
        ("F8_E4M3", (2, 3, 4), CONTENT[:24]),
    ],
)
def test_no_shape_is_taken_from_a_file(stored, shape, content):
    assert_refused(forged_page(name(1), "model", "float32", stored, shape, content), "the pages of this pool are")


@pytest.mark.parametrize(
    "header",
    [
        {"page": {"dtype": "F32", "shape": [2, 3, 4], "data_offsets": [0, 96]}},
        {"__metadata__": None, "page": {"dtype": "F32", "shape": [2, 3, 4], "data_offsets": [0, 96]}},
        {"__metadata__": {"format": "x"}, "page": None},
        [],
        "page",
    ],
)
def test_a_page_that_does_not_say_whose_it_is(header):
    assert_refused(page_file(header, CONTENT), "^page [0-9a-f]{64}: ", (DamagedPageError, ForeignPageError))


def test_a_page_beside_another_tensor():
    good = json.loads(encoded()[8 : -len(CONTENT)])
    more = good | {"more": {"dtype": "U8", "shape": [1], "data_offsets": [96, 97]}}
    assert_refused(page_file(more, CONTENT + b"\0"), "holds 2 tensors; it must be one")


def test_what_is_too_large_is_not_even_parsed(monkeypatch):
    monkeypatch.setattr("mindspore_paged.cache.page_format.deserialize", None)
    assert_refused(encoded() + bytes(MOST_HEADER_BYTES), "a page of this pool has at most")
    assert_refused((MOST_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}", "no header of a page")
    assert_refused(b"\xff" * 8, "no header of a page")


@given(data=st.data())
def test_a_mutant_is_the_exact_page_or_refused(data):
    key = data.draw(st.sampled_from([None, KEY]))
    mutant = bytearray(encoded(key))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(mutant)))
        what = data.draw(st.sampled_from(["flip", "cut", "insert", "copy", "header"]))
        if what == "flip" and place < len(mutant):
            mutant[place] ^= data.draw(st.integers(1, 255))
        elif what == "cut":
            del mutant[place : place + data.draw(st.integers(1, 40))]
        elif what == "insert":
            mutant[place:place] = data.draw(st.binary(min_size=1, max_size=9))
        elif what == "copy":
            mutant[place:place] = mutant[: data.draw(st.integers(1, 64))]
        else:
            mutant[:8] = data.draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little")
    assert is_exact_or_refused(bytes(mutant), key)


PLACES = [
    *[("page", key) for key in ("dtype", "shape", "data_offsets")],
    *[("__metadata__", key) for key in ("format", "model", "dtype", "checksum", "seal")],
]
values = st.sampled_from(
    ["float32", "object", "F32", "I8", "page", "", None, -1, 0, 2**63, 1.5, [], {}, [2, 3, 4], [24]]
)


@given(changes=st.dictionaries(st.sampled_from(PLACES), values, min_size=1))
def test_a_header_of_other_values_is_the_exact_page_or_refused(changes):
    """Each with the checksum that its own type and shape call for: nothing but the comparison can refuse it."""
    dtype, shape = changes.get(("__metadata__", "dtype"), "float32"), changes.get(("page", "shape"), [2, 3, 4])
    forged = forged_page(name(1), "model", dtype, "F32", shape if isinstance(shape, list) else [], CONTENT)
    header = json.loads(forged[8 : -len(CONTENT)])
    for (part, key), value in changes.items():
        header[part][key] = value
    assert is_exact_or_refused(page_file(header, CONTENT))


# Sealed by a key


def test_without_the_seal_nothing_is_read():
    assert is_page(format_of(key=KEY).decode(name(1), encoded(KEY))[0], 1)
    for data in (encoded(), encoded(OTHER_KEY)):
        assert_refused(data, "not sealed with the key", ForeignPageError, KEY)
    for seal in ("", "x", "0" * 64, "é" * 64, "\ud800"):
        forged = forged_page(name(1), "model", "float32", "F32", PAGE.shape, CONTENT, seal=seal)
        assert_refused(forged, "page", (ForeignPageError, DamagedPageError), KEY)


def test_a_seal_is_for_one_name_one_model_and_one_content():
    header = json.loads(encoded(KEY)[8 : -len(CONTENT)])
    seal = header["__metadata__"]["seal"]
    other = make_page(2)
    of_content = forged_page(name(1), "model", "float32", "F32", other.shape, other.tobytes(), seal=seal)
    assert_refused(of_content, "not sealed with the key", ForeignPageError, KEY)
    of_name = forged_page(name(2), "model", "float32", "F32", PAGE.shape, CONTENT, seal=seal)
    with pytest.raises(ForeignPageError, match="not sealed"):
        format_of(key=KEY).decode(name(2), of_name)
    of_model = forged_page(name(1), "other", "float32", "F32", PAGE.shape, CONTENT, seal=seal)
    with pytest.raises(ForeignPageError, match="not sealed"):
        format_of("other", key=KEY).decode(name(1), of_model)


def test_a_sealed_page_is_read_by_those_who_have_no_key():
    assert is_page(format_of().decode(name(1), encoded(KEY))[0], 1)


def test_damage_before_the_seal_is_not_sealed():
    page = make_page(1)
    checksum = page_checksum(name(1), page)
    page.view(np.uint8)[0, 0, 0] ^= 1
    assert_refused(format_of(key=KEY).encode(name(1), page, checksum), "does not have the checksum", key=KEY)


def test_a_page_of_another_form_is_never_written():
    page = PAGE.reshape(3, 2, 4)
    with pytest.raises(IntegrityError, match="among those that are float32"):
        format_of().encode(name(1), page, page_checksum(name(1), page))


# Numbers


@pytest.mark.parametrize("dtype", DTYPES[:3])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_seen(dtype, bad):
    page = np.ones((2, 2, 4, 2, 8), dtype)
    assert is_finite(page)
    page[1, 0, 3, 1, 7] = bad
    assert not is_finite(page)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_of_int8_the_scales_count(bad):
    layers, block_size, heads, head_dim = 2, 4, 2, 8
    values = np.full((layers, 2, block_size * heads * head_dim), -1, np.int8)  # as float32 bits these would be NaN
    scales = np.ones((layers, 2, block_size * heads), np.float32)

    def page():
        joined = np.concatenate([values, scales.view(np.int8)], axis=-1)
        return joined.reshape(layers, 2, block_size, heads, head_dim + 4)

    assert is_finite(page())
    scales[1, 1, -1] = bad
    assert not is_finite(page())
    scales[1, 1, -1], scales[0, 0, 0] = 1, bad
    assert not is_finite(page())


def test_a_format_can_be_told_from_a_page():
    assert PageFormat.of(PAGE, "model") == format_of() == replace(format_of(key=KEY), key=None)
