"""Which of the processes that `msrun` started this one is, read from the environment it sets."""

import os
import socket
from dataclasses import dataclass
from functools import cache

from mindspore_paged.errors import ConfigError
from mindspore_paged.launch.ports import HIGHEST_PORT

ROLE_VARIABLE = "MS_ROLE"
SCHEDULER_ROLE = "MS_SCHED"
WORKER_ROLE = "MS_WORKER"
CONTROL_PORT_VARIABLE = "MINDSPORE_PAGED_CONTROL_PORT"
JOB_VARIABLE = "MINDSPORE_PAGED_JOB"
"""The launcher's name for the job; not there if someone else started msrun."""
_FOR_EVER = 1e9


@dataclass(frozen=True)
class Worker:
    """One process of a job: rank of size, and where the job's supervisor listens; port 0 without msrun."""

    rank: int
    size: int
    host: str
    port: int

    @property
    def supervised(self) -> bool:
        """Whether `msrun` started this process, so that a supervisor watches it."""
        return self.port != 0

    def own_address(self) -> str:
        """The address under which the job's other processes reach this machine: that of the way to the supervisor."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((self.host, self.port or 1))  # a datagram socket: this sends nothing
            return probe.getsockname()[0]


@cache
def current_worker() -> Worker:
    """This process's place in the job, rank 0 of 1 without msrun; ConfigError if msrun's environment is wrong."""
    if os.environ.get(ROLE_VARIABLE) != WORKER_ROLE:
        return Worker(rank=0, size=1, host="127.0.0.1", port=0)
    size = job_size()
    if "RANK_ID" not in os.environ:
        raise ConfigError("msrun gave this worker no RANK_ID: on several nodes, start each with --node_rank")
    rank = _integer("RANK_ID")
    if not 0 <= rank < size:
        raise ConfigError(f"RANK_ID is {rank}, not one of the job's {size} ranks (0 to {size - 1})")
    return Worker(rank, size, scheduler_host(), control_port())


def is_scheduler() -> bool:
    """Whether `msrun` started this process as MindSpore's scheduler: it runs the user's script, but no model."""
    return os.environ.get(ROLE_VARIABLE) == SCHEDULER_ROLE


def job_size() -> int:
    """How many workers the job has on all nodes; ConfigError if msrun's environment does not say."""
    return _integer("MS_WORKER_NUM" if "MS_WORKER_NUM" in os.environ else "RANK_SIZE")


def scheduler_host() -> str:
    """The address of the node where MindSpore's scheduler runs, and our supervisor with it."""
    return os.environ.get("MS_SCHED_HOST", "127.0.0.1")


def control_port() -> int:
    """The TCP port where the supervisor listens: what the launcher chose, or the scheduler's own port and one.

    Raises ConfigError if the environment says no port.
    """
    chosen = CONTROL_PORT_VARIABLE in os.environ
    port = _integer(CONTROL_PORT_VARIABLE) if chosen else _integer("MS_SCHED_PORT") + 1
    if not 1 <= port <= HIGHEST_PORT:
        name, highest = (CONTROL_PORT_VARIABLE, HIGHEST_PORT) if chosen else ("MS_SCHED_PORT", HIGHEST_PORT - 1)
        raise ConfigError(f"environment variable {name} is {os.environ[name]}; it must be a port from 1 to {highest}")
    return port


def start_limit() -> float:
    """Seconds within which every process must have come up: msrun's --cluster_time_out, where negative is for ever."""
    seconds = _integer("MS_TOPO_TIMEOUT") if "MS_TOPO_TIMEOUT" in os.environ else 600
    return float(seconds) if seconds >= 0 else _FOR_EVER


def _integer(variable: str) -> int:
    text = os.environ.get(variable, "")
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"environment variable {variable} must be an integer, but is {text!r}") from None
