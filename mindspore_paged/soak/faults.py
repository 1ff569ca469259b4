"""Faults put into an engine on purpose: calls of the device that fail, and a disk that is full, broken or lies."""

import errno
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from mindspore_paged.cache.file_tier import FileTier
from mindspore_paged.engine.building import builder
from mindspore_paged.engine.execution.model_runner import ModelRunner
from mindspore_paged.errors import StepError


@dataclass(frozen=True)
class FaultRates:
    """How often, of calls of each kind: the device fails to run, copy, read or write; it refuses a step by itself.

    refusal: a step whose rows are wrong, which the operators refuse; its graph is compiled anew. disk: reading or
    writing a page file fails. damage: a page file is changed behind the engine's back.
    """

    run: float = 0.01
    copy_blocks: float = 0.01
    read_pages: float = 0.01
    write_pages: float = 0.01
    refusal: float = 0.00002
    disk: float = 0.02
    damage: float = 0.02


@contextmanager
def injected_faults(rates: FaultRates, seed: int) -> Iterator[Counter]:
    """Engines that are built meanwhile fail at these rates once they are ready; gives the counts, by kind.

    The same calls fail on every rank: each counts the same calls and draws from the same seed.
    """
    counts: Counter = Counter()
    device, disk = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])

    def due(kind: str, random: np.random.Generator) -> bool:
        if random.random() >= getattr(rates, kind):
            return False
        counts[kind] += 1
        return True

    class FaultyRunner(ModelRunner):
        """A ModelRunner whose calls fail."""

        armed = False

        def warm_up(self, progress):
            super().warm_up(progress)
            self.armed = True

        def run(self, inputs):
            self._fail("run")
            if self.armed and due("refusal", device):
                inputs = replace(inputs, rows=np.full_like(inputs.rows, self.max_num_seqs))
            return super().run(inputs)

        def copy_blocks(self, pairs):
            self._fail("copy_blocks")
            super().copy_blocks(pairs)

        def read_pages(self, block_ids):
            self._fail("read_pages")
            return super().read_pages(block_ids)

        def write_pages(self, block_ids, pages):
            self._fail("write_pages")
            super().write_pages(block_ids, pages)

        def _fail(self, kind: str) -> None:
            if self.armed and due(kind, device):
                raise StepError(f"injected: {kind} fails")

    class FaultyFileTier(FileTier):
        """A FileTier on a disk that fails."""

        def put(self, block_hash, page, checksum):
            if due("disk", disk):
                raise OSError(errno.ENOSPC, "injected: no space left on device")
            stored = super().put(block_hash, page, checksum)
            if stored and due("damage", disk):
                _change_a_byte(self._path(block_hash), disk)
            return stored

        def get(self, block_hash):
            if due("disk", disk):
                raise OSError(errno.EIO, "injected: input/output error")
            return super().get(block_hash)

    with patch.multiple(builder, ModelRunner=FaultyRunner, FileTier=FaultyFileTier):
        yield counts


def _change_a_byte(path: Path, random: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    data[random.integers(len(data))] ^= 1 + random.integers(255)
    path.write_bytes(data)
