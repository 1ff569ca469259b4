"""Ports for a job: free, different, and none that the kernel hands out by itself."""

import socket
import subprocess
import sys

import pytest

from mindspore_paged.errors import ConfigError
from mindspore_paged.launch import ports


def test_ports_are_free_different_and_not_ephemeral():
    found = ports.free_ports(20)
    assert len(set(found)) == 20
    ephemeral = int(ports.EPHEMERAL_PORTS.read_text().split()[0])
    assert all(ports.LOWEST <= port < ephemeral for port in found)
    for port in found:
        socket.create_server(("127.0.0.1", port)).close()


def test_a_port_that_is_listened_at_is_left_out(monkeypatch):
    with socket.create_server(("127.0.0.1", ports.free_ports(1)[0])) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr(ports.random, "sample", lambda candidates, k: [taken, taken + 1, taken + 2, taken + 3])
        assert taken not in ports.free_ports(1)


HOLD = """
import sys, time
from mindspore_paged.launch.ports import claim_port
claim = claim_port("127.0.0.1", int(sys.argv[1]))
print("claimed", flush=True)
time.sleep(100)
"""


def test_a_claimed_port_is_refused_before_anyone_listens_there_and_free_when_the_claim_ends():
    (port,) = ports.free_ports(1)
    claim = ports.claim_port("127.0.0.1", port)
    with pytest.raises(ConfigError, match=f"port {port} is in use by another job of this machine; give another port"):
        ports.claim_port("127.0.0.1", port)
    ports.claim_port("127.0.0.1", port + 1).close()
    claim.close()
    ports.claim_port("127.0.0.1", port).close()


def test_a_claim_ends_with_its_process_however_that_ends():
    (port,) = ports.free_ports(1)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(port)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"claimed\n"
        with pytest.raises(ConfigError, match="another job"):
            ports.claim_port("127.0.0.1", port)
        holder.kill()
    ports.claim_port("127.0.0.1", port).close()


def test_the_port_of_a_stranger_is_named_and_not_claimed():
    (port,) = ports.free_ports(1)
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is in use by another program"):
            ports.claim_port("127.0.0.1", port)
    ports.claim_port("127.0.0.1", port, patience=1).close()


def test_a_connection_that_has_just_ended_does_not_keep_a_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()  # closed here first: the kernel remembers this port for a minute
    ports.claim_port("127.0.0.1", port).close()


def test_an_address_of_another_machine_is_refused():
    (port,) = ports.free_ports(1)
    with pytest.raises(ConfigError, match=f"port {port} of 192.0.2.1 cannot be listened at on this machine: Cannot as"):
        ports.claim_port("192.0.2.1", port)
