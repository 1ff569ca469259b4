"""Where a process stands among all that `msrun` started: in which group, as which rank of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mindspore_paged.errors import PagedError
from mindspore_paged.launch import supervision
from mindspore_paged.launch.worker import Worker
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.script import EXIT_BAD_INPUT
from mindspore_paged.tensor_parallel import TensorParallel


@dataclass(frozen=True)
class Place:
    """A worker's rank in the group that shares its model; groups are made of consecutive workers."""

    worker: Worker
    parallel: TensorParallel

    @property
    def replica(self) -> int:
        """Which group: each has an engine of its own, in the process of its leader."""
        return self.worker.rank // self.parallel.size

    @property
    def ranks(self) -> range:
        """The workers of the group, the leader first."""
        first = self.worker.rank - self.parallel.rank
        return range(first, first + self.parallel.size)

    @property
    def is_leader(self) -> bool:
        """Whether the engine lives here."""
        return self.parallel.rank == 0

    def kv_heads_of_ranks(self, model_config: ModelConfig) -> list[range]:
        """Which of the model's KV heads each rank of the group has, the leader's first."""
        size = self.parallel.size
        return [TensorParallel(rank, size).kv_heads(model_config) for rank in range(size)]


def place_of(worker: Worker, tensor_parallel_size: int) -> Place:
    """The worker's place where so many ranks share a model; the size divides the number of workers."""
    return Place(worker, TensorParallel(worker.rank % tensor_parallel_size, tensor_parallel_size))


@contextmanager
def errors_end_the_job() -> Iterator[None]:
    """Tell the job's supervisor of an error that leaves this block: the other ranks would wait for ever."""
    try:
        yield
    except PagedError as error:
        supervision.fail(str(error), EXIT_BAD_INPUT)
        raise
    except Exception as error:
        supervision.fail(f"{type(error).__name__}: {error}")
        raise
