"""GGUF files put together number by number, right ones and others."""

import struct

UINT8, INT8, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 0, 1, 4, 5, 6, 7, 8, 9, 10
F32, Q4_0 = 0, 2


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(value)) + value


def entry(key, kind, value):
    """An entry of the metadata; value: its bytes."""
    return text(key) + struct.pack("<I", kind) + value


def uint32(key, value):
    return entry(key, UINT32, struct.pack("<I", value))


def string(key, value):
    return entry(key, STRING, text(value))


def array(kind, count, values):
    """The value of an array: `values` are its bytes, whatever `count` says."""
    return struct.pack("<IQ", kind, count) + values


def tensor(name, dimensions, kind, offset, num_dimensions=None):
    """An entry of the tensor table; dimensions as the table has them, columns first."""
    head = text(name) + struct.pack("<I", len(dimensions) if num_dimensions is None else num_dimensions)
    return head + struct.pack(f"<{len(dimensions)}QIQ", *dimensions, kind, offset)


def gguf_bytes(entries=(), tensors=(), data=b"", *, version=3, num_entries=None, num_tensors=None, alignment=32):
    """A whole file; the counts are the true ones unless others are given."""
    counts = (
        len(tensors) if num_tensors is None else num_tensors,
        len(entries) if num_entries is None else num_entries,
    )
    header = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join((*entries, *tensors))
    return header + b"\0" * (-len(header) % alignment) + data
