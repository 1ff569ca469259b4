"""MindSpore's `.ckpt` files: their frame is read within its bounds, and values only when they are used."""

import random
import subprocess
import sys

import numpy as np
import pytest

from mindspore_paged.errors import CheckpointError
from mindspore_paged.weights.check import check_weights
from mindspore_paged.weights.checkpoint import open_checkpoint
from mindspore_paged.weights.ckpt_file import CkptFile
from mindspore_paged.weights.mindspore_files import MindSporeFiles
from tests.weights import tiny


def varint(number):
    number %= 2**64
    parts = []
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def field(number, content):
    """A field of a protobuf message: bytes, or a number."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def value(name, dims, kind, content):
    dims = b"".join(field(1, size) for size in dims)
    tensor = dims + field(2, kind.encode()) + field(3, content)
    return field(1, field(1, name if isinstance(name, bytes) else name.encode()) + field(2, tensor))


def values_of(array, name, kind="Float32", slices=1):
    parts = np.array_split(array, slices)
    return b"".join(value(name, array.shape, kind, part.tobytes()) for part in parts)


def write(tmp_path, content):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    return path


A, B = np.arange(12, dtype=np.float32).reshape(3, 4), np.arange(5, dtype=np.float16)


@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("tail", [b"", b"crc_num" + bytes(10)])
def test_parameters_in_one_piece_and_in_several(tmp_path, slices, tail):
    """MindSpore cuts large parameters into pieces, and may put a checksum at the end."""
    content = values_of(A, "a", slices=slices) + values_of(B, "b", "Float16") + tail
    content += b"" if tail else value("step", [0], "Int32", b"\x07\0\0\0") + value("note", [1], "str", b"x\0\0\0")
    files = MindSporeFiles([write(tmp_path, content)])
    np.testing.assert_array_equal(files.read("a"), A)
    np.testing.assert_array_equal(files.read_part("a", 1, 1, 3), A[:, 1:3])
    np.testing.assert_array_equal(files.read("b"), B)
    assert (files.shape("a"), files.dtype("b")) == ((3, 4), np.float16)
    if not tail:
        assert (files.shape("step"), files.read("step")) == ((), 7)
        with pytest.raises(CheckpointError, match="parameter note is of type 'str', which is not read"):
            files.dtype("note")


def test_it_is_read_without_mindspore(tmp_path):
    weights = tiny.make_weights()
    path = write(tmp_path, b"".join(values_of(values, name) for name, values in weights.items()))
    checkpoint = open_checkpoint(path, tiny.CONFIG)
    check_weights(checkpoint, tiny.expected_shapes())
    np.testing.assert_array_equal(checkpoint.read("lm_head.weight"), weights["lm_head.weight"])
    program = (
        "import sys\n"
        "from mindspore_paged.weights.mindspore_files import MindSporeFiles\n"
        "from pathlib import Path\n"
        "print(len(MindSporeFiles([Path(sys.argv[1])]).names()), 'mindspore' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == f"{len(weights)} False\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (value("a", [3, 4], "Float32", bytes(40)), "parameter a has 40 bytes, its shape is .3, 4. of Float32"),
        (value("a", [2**40, 2**40], "Float32", bytes(40)), "parameter a has 40 bytes, its shape is"),
        (value("a", [-3, -4], "Float32", bytes(48)), "parameter a has 48 bytes, its shape is"),
        (value("a", [1] * 9, "Float32", bytes(4)), "too many dimensions"),
        (values_of(A, "a") + values_of(B, "b", "Float16") + values_of(A, "a"), "parameter a is there twice"),
        (values_of(A, "a") + values_of(A.T, "a"), "parameter a is there twice"),
        (values_of(A, "a") + values_of(A, "a"), "parameter a has 96 bytes"),
        (values_of(A, "a")[:-1], "cut short"),
        (values_of(A, b"\xff\xfe"), "a name that is not UTF-8"),
        (values_of(A, "x" * 5000), "a name that is no text, or too long"),
        (values_of(A, "a\n\x1b[31m")[:-9] + b"\xff" * 9, None),
        (field(1, b""), "lacks its name or its tensor"),
        (field(1, field(1, b"a")), "lacks its name or its tensor"),
        (field(1, field(1, b"a") + field(2, b"")), "a tensor without values"),
        (field(1, field(1, b"a") + field(2, field(3, 7))), "a tensor without values"),
        (field(1, field(1, 7) + field(2, field(3, b""))), "a name that is no text"),
        (field(9, b"x"), "something else than parameters"),
        (b"\x0a" + b"\xff" * 9 + b"\x01", "cut short"),
        (b"\x0a" + b"\xff" * 20, "no number at byte"),
        (b"\x0b" * 9, "no message at byte"),
        (b"PK\x03\x04" + bytes(300), "a ZIP archive or a PyTorch file"),
        (b"\x80\x02}q\x00.", "a Python pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    ],
    ids=range(24),
)
def test_files_that_are_none(tmp_path, content, message):
    path = write(tmp_path, content)
    if message is None:
        assert list(CkptFile(path).parameters) == ["a\n\x1b[31m"]
        return
    with pytest.raises(CheckpointError, match=message) as error:
        MindSporeFiles([path])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path):
    generator = random.Random(5)
    good = values_of(A, "a", slices=2) + values_of(B, "b", "Float16") + value("c", [2], "BFloat16", bytes(4))
    outcomes = set()
    for _ in range(400):
        content = bytearray(good)
        for _ in range(generator.randint(1, 4)):
            place = generator.randrange(len(content))
            kind = generator.randrange(4)
            if kind == 0:
                content[place] = generator.choice([0, 1, 2, 8, 10, 0x7F, 0x80, 0xFF])
            elif kind == 1:
                content[place:place] = generator.randbytes(generator.randint(1, 3))
            elif kind == 2:
                del content[place : place + generator.randint(1, 9)]
            else:
                content[place:place] = content[: generator.randrange(len(content))]
            content = content or bytearray(b"\n")
        try:
            files = MindSporeFiles([write(tmp_path, bytes(content))])
            read = [files.read(name) for name in files.names()]
            outcomes.add(len(read))
        except CheckpointError:
            outcomes.add("refused")
    assert {"refused", 3} <= outcomes
