"""TCP ports of a job: free ones to choose from, and a claim on its scheduler's, so that no second job comes there."""

import errno
import os
import random
import socket
import time
from pathlib import Path

from mindspore_paged.errors import ConfigError

EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 10_000
DEFAULT_END = 32_768
HIGHEST_PORT = 65_535
_RETRY_SECONDS = 0.1


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """So many different ports that nobody listens at now.

    None is one that the kernel gives to outgoing connections: with eight ranks connecting to each other, such a port is
    soon taken by one of them, before whoever asked listens at it.
    """
    end = int(EPHEMERAL_PORTS.read_text().split()[0]) if EPHEMERAL_PORTS.is_file() else DEFAULT_END
    candidates = range(LOWEST, max(end, LOWEST + 1000))
    found: list[int] = []
    for port in random.sample(candidates, k=len(candidates)):
        if len(found) == count:
            break
        if _why_not(host, port) is None:
            found.append(port)
    return found


def claim_port(host: str, port: int, patience: float = 0.0) -> socket.socket:
    """Claim a port of this machine for a job, from before its scheduler listens there until the returned socket closes.

    Workers of a second job that came to the first job's scheduler would end both. So the claim is a name that only one
    process of the machine can have; the kernel takes it back however that process ends.
    patience: seconds to wait for a program that is just ending. Raises ConfigError that names the port and who has it.
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind(f"\0mindspore_paged.port.{port}")
    except OSError:  # "in use": an abstract name is refused for nothing else
        claim.close()
        raise ConfigError(
            f"port {port} is in use by another job of this machine; give another port, or end that job first"
        ) from None
    try:
        check_port(host, port, patience)
    except ConfigError:
        claim.close()
        raise
    return claim


def check_port(host: str, port: int, patience: float = 0.0) -> None:
    """Raise ConfigError unless a server could listen at this port of this machine within `patience` seconds."""
    deadline = time.monotonic() + patience
    while (error := _why_not(host, port)) is not None:
        if error.errno != errno.EADDRINUSE:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            raise ConfigError(f"port {port} of {host} cannot be listened at on this machine: {reason}")
        if time.monotonic() >= deadline:
            raise ConfigError(f"port {port} of {host} is in use by another program; give another port")
        time.sleep(_RETRY_SECONDS)


def _why_not(host: str, port: int) -> OSError | None:
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return None
    except OSError as error:
        return error
