"""Free TCP ports for the processes of a job: `python -m mindspore_paged.launch.ports 2` prints two."""

import random
import socket
import sys
from pathlib import Path

EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 10_000
DEFAULT_END = 32_768


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
        if _is_free(host, port):
            found.append(port)
    return found


def _is_free(host: str, port: int) -> bool:
    try:
        with socket.create_server((host, port)):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    print(*free_ports(int(sys.argv[1])))
