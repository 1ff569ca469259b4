"""Files that stand where another kind was expected, known by how they begin."""

from pathlib import Path

from mindspore_paged.errors import CheckpointError

_KINDS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`",
    b"<!doctype html": "an HTML page, not the file itself; download it again",
    b"<html": "an HTML page, not the file itself; download it again",
    b"PK\x03\x04": "a ZIP archive or a PyTorch file, which is not read; convert it to safetensors",
    b"\x80\x02": "a Python pickle, which is not read, for it can run code; convert it to safetensors",
    b"\x80\x03": "a Python pickle, which is not read, for it can run code; convert it to safetensors",
    b"\x80\x04": "a Python pickle, which is not read, for it can run code; convert it to safetensors",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"GGUF": "a GGUF file under another name",
}


def foreign_kind(start: bytes) -> str | None:
    """What the file is that begins with the bytes `start`, and what to do, where it is of a kind not read as it is.

    start: the first 32 bytes or more.
    """
    text = start[:256].lstrip().lower() if start[:1] in b" \t\r\n<" else start
    return next((kind for magic, kind in _KINDS.items() if text.startswith(magic)), None)


def read_start(path: Path) -> bytes:
    """The first bytes of the file at `path`, as many as `foreign_kind` needs; raises CheckpointError."""
    try:
        with path.open("rb") as file:
            return file.read(256)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
