"""Headers of GGUF files: right ones give what the gguf library gives, any other is refused in one line, at once."""

import random
import struct
import time
import tracemalloc

import gguf
import numpy as np
import pytest

from mindspore_paged.errors import CheckpointError
from mindspore_paged.formats.gguf_file import GgufFile
from mindspore_paged.formats.gguf_header import read_header
from tests.formats.gguf_bytes import (
    ARRAY,
    BOOL,
    F32,
    FLOAT32,
    INT32,
    Q4_0,
    STRING,
    UINT8,
    UINT32,
    array,
    entry,
    gguf_bytes,
    string,
    tensor,
    text,
    uint32,
)
from tests.weights import tiny

FLOATS = np.arange(8, dtype=np.float32)
PAIR = (tensor("a", [4], F32, 0), tensor("b", [4], F32, 32))


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "x.gguf"
        path.write_bytes(content)
        return path

    return write


def test_a_header_is_read_as_the_gguf_library_reads_it(tmp_path):
    metadata = {"int": 7, "float": 0.5, "yes": True, "text": "\u00e9\U0001f600", "ints": [3, -1], "words": ["a", ""]}
    quantized = {"lm_head.weight": gguf.GGMLQuantizationType.Q4_0}
    path = tiny.write_gguf(tmp_path / "x.gguf", tiny.make_weights(), tiny.gguf_metadata(**metadata), quantize=quantized)
    file, theirs = GgufFile(path), gguf.GGUFReader(path)
    of_the_file = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert dict(file.metadata) == of_the_file
    assert list(file.tensors) == [tensor.name for tensor in theirs.tensors]
    for expected in theirs.tensors:
        ours = file.tensors[expected.name]
        assert ours.shape == tuple(reversed(expected.shape.tolist()))
        assert ours.tensor_type == expected.tensor_type
        np.testing.assert_array_equal(ours.data, expected.data, strict=True)


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_1, None])
def test_rows_of_a_tensor_are_a_tensor(tmp_path, kind):
    """Files of some families have several weights in one tensor, the rows of one behind those of another."""
    values = np.random.default_rng(3).standard_normal((12, 64)).astype(np.float32)
    stored = values if kind is None else gguf.quantize(values, kind)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "phi3")
    writer.add_tensor("blk.0.attn_qkv.weight", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensor = read_header(tmp_path / "model.gguf").tensors["blk.0.attn_qkv.weight"]
    rows = tensor.rows(5, 9)
    assert (rows.shape, rows.tensor_type, rows.name) == ((4, 64), tensor.tensor_type, tensor.name)
    np.testing.assert_array_equal(rows.data, stored[5:9])


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "u8", "i8", "f8"])
def test_numbers_of_every_kind(written, kind):
    code = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "u8": 10, "i8": 11, "f8": 12}[kind]
    limits = np.finfo(kind) if kind[0] == "f" else np.iinfo(kind)
    values = np.array([limits.min, 0, limits.max], kind)
    one, all_of_them = entry("one", code, values[2:].tobytes()), entry("all", ARRAY, array(code, 3, values.tobytes()))
    metadata = GgufFile(written(gguf_bytes([one, all_of_them]))).metadata
    assert (metadata["one"], metadata["all"]) == (values[2].item(), values.tolist())


def test_any_byte_but_zero_is_true(written):
    flags = entry("flags", ARRAY, array(BOOL, 3, b"\0\x01\x07"))
    metadata = GgufFile(written(gguf_bytes([flags, entry("flag", BOOL, b"\x02")]))).metadata
    assert metadata["flags"] == [False, True, True]
    assert metadata["flag"] is True


def test_text_that_nobody_needs_may_hold_any_bytes(written):
    author, key = string("general.author", b"Jos\xe9"), uint32(b"cl\xe9", 1)
    words = entry("words", ARRAY, array(STRING, 2, text("a") + text(b"\xff")))
    metadata = GgufFile(written(gguf_bytes([author, key, words, uint32("last", 5)]))).metadata
    assert metadata["last"] == 5
    with pytest.raises(CheckpointError, match=r"general.author is b'Jos\\xe9', which is not UTF-8"):
        metadata["general.author"]
    with pytest.raises(CheckpointError, match=r"words holds b'\\xff', which is not UTF-8"):
        metadata["words"]


def test_arrays_of_arrays_are_passed_over(written):
    inner = array(UINT8, 2, b"ab")
    nested = entry("nested", ARRAY, array(ARRAY, 2, inner + inner))
    metadata = GgufFile(written(gguf_bytes([nested, uint32("last", 5)]))).metadata
    assert metadata["last"] == 5
    with pytest.raises(CheckpointError, match="nested holds arrays"):
        metadata["nested"]


@pytest.mark.parametrize("alignment", [1, 8, 32, 256])
def test_data_begins_where_the_alignment_says(written, alignment):
    entries = [uint32("general.alignment", alignment)]
    content = gguf_bytes(entries, [tensor("a", [4, 2], F32, 0)], FLOATS.tobytes(), alignment=alignment)
    np.testing.assert_array_equal(GgufFile(written(content)).tensors["a"].data, FLOATS.reshape(2, 4))


HUGE, MOST = 1 << 40, (1 << 64) - 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gguf_bytes(num_tensors=HUGE), "1099511627776 tensors need"),
        (gguf_bytes(num_entries=MOST), "18446744073709551615 metadata entries need"),
        (gguf_bytes([struct.pack("<Q", HUGE) + b"key" + b"\0" * 16]), "1099511627776 bytes of a key"),
        (gguf_bytes([entry("key", STRING, struct.pack("<Q", MOST))]), "bytes of the text of 'key'"),
        (gguf_bytes([entry("key", ARRAY, array(UINT8, HUGE, b""))]), "1099511627776 numbers of 'key'"),
        (gguf_bytes([entry("key", ARRAY, array(STRING, HUGE, b""))]), "1099511627776 texts of 'key'"),
        (gguf_bytes([entry("key", ARRAY, array(STRING, 2, text("a") + struct.pack("<QQ", MOST, 0)))]), r"'key'\[1\]"),
        (gguf_bytes([entry("key", ARRAY, array(ARRAY, HUGE, b""))]), "1099511627776 arrays of 'key'"),
        (gguf_bytes([entry("key", ARRAY, array(ARRAY, 1, b"") * 9 + array(UINT8, 0, b""))]), "more than 4 deep"),
        (gguf_bytes([entry("key", 13, b"\0" * 8)]), "'key' is of kind 13"),
        (gguf_bytes([entry("key", ARRAY, array(99, 0, b""))]), "'key' is of kind 99"),
        (gguf_bytes([uint32("key", 1), uint32("key", 2)]), "the key 'key' is there twice"),
        (gguf_bytes([uint32("general.alignment", 0)]), "general.alignment is 0"),
        (gguf_bytes([uint32("general.alignment", 24)]), "general.alignment is 24"),
        (gguf_bytes([string("general.alignment", "32")]), "general.alignment is b'32'"),
        (gguf_bytes([uint32("general.alignment", 1 << 31)], PAIR, FLOATS.tobytes() * 2), "behind the end"),
        (gguf_bytes((), [tensor("a", [4], F32, 0)] * 2, FLOATS.tobytes()), "tensor a is there twice"),
        (gguf_bytes((), [tensor("", [4], F32, 0)], FLOATS.tobytes()), "b'' is no name of a tensor"),
        (gguf_bytes((), [tensor("a\nb", [4], F32, 0)], FLOATS.tobytes()), r"b'a\\nb' is no name of a tensor"),
        (gguf_bytes((), [tensor(b"\xe9", [4], F32, 0)], FLOATS.tobytes()), r"b'\\xe9' is no name of a tensor"),
        (gguf_bytes((), [tensor("a" * 9999, [4], F32, 0)], FLOATS.tobytes()), "is no name of a tensor"),
        (gguf_bytes((), [tensor("a", [], F32, 0)], FLOATS.tobytes()), "tensor a has 0 dimensions"),
        (gguf_bytes((), [tensor("a", [1] * 5, F32, 0)], FLOATS.tobytes()), "tensor a has 5 dimensions"),
        (gguf_bytes((), [tensor("a", [4], F32, 0, num_dimensions=1 << 31)], FLOATS.tobytes()), "2147483648 dimensions"),
        (gguf_bytes((), [tensor("a", [4, 0], F32, 0)], FLOATS.tobytes()), r"tensor a has shape \(0, 4\)"),
        (gguf_bytes((), [tensor("a", [33], Q4_0, 0)], b"\0" * 64), "the last a multiple of 32"),
        (gguf_bytes((), [tensor("a", [MOST] * 4, F32, 0)], FLOATS.tobytes()), "behind the end"),
        (gguf_bytes((), [tensor("a", [1 << 32, 1 << 32], F32, 0)], FLOATS.tobytes()), "behind the end"),
        (gguf_bytes((), [tensor("a", [4], 99, 0)], FLOATS.tobytes()), "type 99, which is not known"),
        (gguf_bytes((), [tensor("a", [4], F32, 4)], FLOATS.tobytes()), "begins at 4, which is no multiple of 32"),
        (gguf_bytes((), [tensor("a", [4], F32, MOST - 31)], FLOATS.tobytes()), "behind the end"),
        (gguf_bytes((), [tensor("a", [4], F32, 32)], FLOATS.tobytes()), "behind the end"),
        (gguf_bytes((), [tensor("a", [9], F32, 0), PAIR[1]], FLOATS.tobytes() * 2), "a and b lie over each other"),
        (gguf_bytes((), [tensor("b", [8], F32, 0), tensor("a", [4], F32, 0)], FLOATS.tobytes()), "lie over each other"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_headers_that_cannot_be_are_refused_before_anything_is_allocated(written, content, message):
    path = written(content)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=rf"x.gguf: damaged GGUF file.*{message}") as error:
        read_header(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gguf_bytes(version=1), "GGUF version 1; allowed: 2, 3; it was written in August 2023, convert"),
        (gguf_bytes(version=4), "GGUF version 4; allowed: 2, 3$"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "byte order of big-endian machines"),
        (b"tjgg" + b"\0" * 40, "starts with b'tjgg', as llama.cpp's files did before GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"", "starts with b'' instead of b'GGUF'"),
        (b"GGUF", "goes on behind the end"),
    ],
)
def test_files_of_another_kind_are_named_for_what_they_are(written, content, message):
    with pytest.raises(CheckpointError, match=message):
        read_header(written(content))


def test_version_2_is_read_as_version_3_is(written):
    assert GgufFile(written(gguf_bytes([uint32("key", 5)], version=2))).metadata["key"] == 5


def test_a_header_with_any_byte_changed_is_read_or_refused(written):
    """Nothing but CheckpointError ends the reading, and whatever is read lies in the file."""
    words = entry("words", ARRAY, array(STRING, 2, text("ab") + text("c")))
    numbers = entry("numbers", ARRAY, array(INT32, 2, b"\0" * 8))
    entries = [uint32("general.alignment", 32), string("name", "x"), words, numbers, entry("f", FLOAT32, b"\0" * 4)]
    whole = gguf_bytes(entries, PAIR, FLOATS.tobytes() * 2)
    generator = random.Random(1)
    outcomes = {"read": 0, "refused": 0}
    for place in range(len(whole) - 64):
        changed = bytearray(whole)
        changed[place] = generator.choice((0, 1, 255, generator.randrange(256)))
        try:
            for held in GgufFile(written(bytes(changed))).tensors.values():
                assert held.data.nbytes == held.num_bytes
            outcomes["read"] += 1
        except CheckpointError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 50


def test_a_large_vocabulary_is_read_in_a_fraction_of_a_second(written):
    """150,000 tokens and 280,000 merges; the gguf library takes many seconds."""
    tokens, merges = b"".join(text(f"token{i}") for i in range(150_000)), b"".join([text("ab cd")] * 280_000)
    content = [
        entry("tokenizer.ggml.tokens", ARRAY, array(STRING, 150_000, tokens)),
        entry("tokenizer.ggml.merges", ARRAY, array(STRING, 280_000, merges)),
        entry("tokenizer.ggml.token_type", ARRAY, array(UINT32, 150_000, b"\1\0\0\0" * 150_000)),
    ]
    path = written(gguf_bytes(content))
    start = time.process_time()
    metadata = GgufFile(path).metadata
    assert metadata["tokenizer.ggml.tokens"][149_999] == "token149999"
    assert len(metadata["tokenizer.ggml.merges"]) == 280_000
    assert time.process_time() - start < 1.5
