"""Calls the operators of a library of another architecture, in a process of an emulator that stays."""

import subprocess
from pathlib import Path

import numpy as np

from tests.custom_ops.kernel_calls import Kernels, OpRefusedError

CALLER = Path(__file__).with_name("called_by_pipe.cc")


class EmulatedKernels(Kernels):
    """As Kernels; `command` runs the program that called_by_pipe.cc is, which takes the library's path."""

    def __init__(self, library: Path, command: list[str]):
        self.path = library
        self._process = subprocess.Popen([*command, str(library)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def close(self) -> None:
        """End the process; its exit code must be 0."""
        self._process.stdin.close()
        assert self._process.wait() == 0
        self._process.stdout.close()

    def call(self, function: str, *arrays: np.ndarray) -> None:
        """Call `function` with inputs and outputs as MindSpore would; raises OpRefusedError."""
        for part in (_text(function), _number(len(arrays)), *map(_described, arrays)):
            self._process.stdin.write(part)
        self._process.stdin.flush()
        message = self._read(int.from_bytes(self._read(8), "little"))
        if message:
            raise OpRefusedError(message.decode())
        for array in arrays:
            content = np.frombuffer(self._read(array.nbytes), array.dtype).reshape(array.shape)
            if array.flags.writeable:
                array[...] = content

    def arranged(self, weight) -> np.ndarray:
        """A weight as the operators take it: in the order of the library's level."""
        rows = np.ascontiguousarray(weight.stored)
        target = np.empty_like(rows)
        numbers = np.array([weight.values.shape[1], weight.form.kind], np.int64)
        self.call("PagedOpsArrangeRows", rows, target, numbers)
        return target

    def _read(self, count: int) -> bytes:
        content = self._process.stdout.read(count)
        assert len(content) == count, f"the emulator ended, exit code {self._process.wait()}"
        return content


def _number(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _text(value: str) -> bytes:
    return _number(len(value)) + value.encode()


def _described(array: np.ndarray) -> bytes:
    shape = b"".join(map(_number, array.shape))
    return _text(array.dtype.name) + _number(array.ndim) + shape + _number(array.nbytes) + array.tobytes()
