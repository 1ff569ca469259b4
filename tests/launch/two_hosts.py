"""Two hosts on one machine: network namespaces that a virtual cable joins, each with an address and a loopback."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

ADDRESSES = ("10.213.7.1", "10.213.7.2")


@contextmanager
def two_hosts() -> Iterator[tuple[str, str]]:
    """The names of two namespaces, at ADDRESSES; the test is skipped where the kernel forbids them.

    What runs in them shares files and processes with this one, and nothing of the network.
    """
    if shutil.which("ip") is None:
        pytest.skip("no program `ip` (package iproute2), which makes network namespaces")
    names = [f"paged-{os.getpid()}-{number}" for number in (0, 1)]
    with ExitStack() as stack:
        for name in names:
            made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
            if made.returncode:
                pytest.skip(f"this user may make no network namespace: {made.stderr.strip()}")
            stack.callback(_ip, "netns", "delete", name)
        cable = [f"pg{os.getpid()}a", f"pg{os.getpid()}b"]  # an interface's name has 15 characters at most
        _ip("link", "add", cable[0], "netns", names[0], "type", "veth", "peer", "name", cable[1], "netns", names[1])
        for name, end, address in zip(names, cable, ADDRESSES):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            _ip("-n", name, "link", "set", end, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield tuple(names)


def on(host: str, *command) -> list[str]:
    """The command line that runs `command` on that host."""
    return ["ip", "netns", "exec", host, *map(str, command)]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
