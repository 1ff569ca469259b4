"""Ports for a job: free, different, and none that the kernel hands out by itself."""

import socket

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
