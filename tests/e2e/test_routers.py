"""Servers behind a router on loopback: one is killed, another drains, and only what the killed one had is lost."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import pytest

from mindspore_paged.benchmarking.conversations import draw_conversations
from mindspore_paged.benchmarking.http_load import HttpRecord, Server
from mindspore_paged.benchmarking.lengths import parse_lengths
from mindspore_paged.benchmarking.server_process import ServerProcess
from mindspore_paged.launch.ports import free_ports
from tests.cli_runs import write_gguf
from tests.script_runs import ROOT

pytestmark = pytest.mark.slow
CLIENTS, REQUESTS = 8, 80
"""Of each router."""

KILL_AFTER, DRAIN_AFTER = 40, 90
"""Requests that are answered before the first server is killed, and the second told to end."""

OVERRIDES = [
    *("scheduler.max_num_seqs=8", "scheduler.max_num_batched_tokens=32", "scheduler.token_buckets=[8,32]"),
    *("scheduler.max_model_len=512", "cache.num_blocks=257", "server.drain_seconds=20"),
]
ANSWERS = "uniform:200:400"
"""Tokens: so many that some are under way, on a fast machine too, when the first server is killed."""

ROUTERS = ("vllm-router", "nginx")


@dataclass
class Outcome:
    """What came of the load of each router that is here, and how many requests the killed server had.

    missing: why a router is not here. drained: the exit code of the server that was told to end.
    """

    records: dict[str, list[HttpRecord]]
    missing: dict[str, str]
    its_own: int
    drained: int


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Three servers behind both routers at once: one is killed in mid-load, one told to end, one serves on."""
    folder = tmp_path_factory.mktemp("routers")
    weights = write_gguf(folder / "model.gguf", positions=512)
    ports = free_ports(6)
    with ExitStack() as stack:
        servers = [
            ServerProcess(
                [
                    *(sys.executable, ROOT / "scripts" / "run_server.py", "--weights", weights, "--port", port),
                    *("--served-model-name", "model", "--set", *OVERRIDES),
                ],
                f"http://127.0.0.1:{port}",
                folder / f"server_{port}.log",
                environment={"OMP_NUM_THREADS": "1"},
            )
            for port in ports[:3]
        ]
        for server in servers:
            server.start()
            stack.callback(server.stop)
        for server in servers:
            server.wait_until_ready()
        urls = [server.base_url for server in servers]
        commands, missing = {"vllm-router": vllm_router(urls, ports[3], ports[4])}, {}
        try:
            commands["nginx"] = nginx(urls, ports[5], folder)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            missing["nginx"] = f"no nginx here, and Debian's package cannot be had: {error}"
        fronts = {
            name: stack.enter_context(ServerProcess(command, f"http://127.0.0.1:{port}", folder / f"{name}.log"))
            for (name, command), port in zip(commands.items(), (ports[3], ports[5]))
        }
        records, its_own = lose_two(servers[0], servers[1], {name: front.base_url for name, front in fronts.items()})
        return Outcome(records, missing, its_own, servers[1].process.wait(30))


def lose_two(killed, drained, fronts):
    """Both loads at once, in one thread, so that nothing is sent while a server is being killed."""
    finished, its_own = 0, 0

    def count(number):
        nonlocal finished, its_own
        finished += number
        if finished == KILL_AFTER:
            time.sleep(0.1)  # what is on its way arrives
            its_own = under_way_at(killed.base_url)
            time.sleep(0.05)  # what had ended by then is sent: the engine counts it no more, and nobody may lose it
            os.kill(killed.pid, signal.SIGKILL)
        if finished == DRAIN_AFTER:
            drained.process.terminate()

    async def load():
        drawn = draw_conversations(np.inf, REQUESTS, parse_lengths("4", ""), parse_lengths(ANSWERS, ""), 0)
        runs = [Server(url, "model").ask(drawn, CLIENTS, count) for url in fronts.values()]
        return await asyncio.gather(*runs)

    return {name: run.records for name, run in zip(fronts, asyncio.run(load()))}, its_own


def vllm_router(urls, port, metrics_port):
    flags = ["--policy", "round_robin", "--health-check-endpoint", "/ready", "--health-check-interval-secs", 1]
    flags += ["--health-failure-threshold", 1, "--prometheus-port", metrics_port, "--worker-urls", *urls]
    return [sys.executable, "-m", "vllm_router.launch_router", "--host", "127.0.0.1", "--port", port, *flags]


def nginx(urls, port, folder):
    """The machine's own program, or Debian's package unpacked here; and the file that is shipped, but for its ports."""
    program = shutil.which("nginx")
    if program is None:
        subprocess.run(["apt-get", "download", "nginx"], cwd=folder, check=True, capture_output=True)
        (package,) = folder.glob("nginx_*.deb")
        subprocess.run(["dpkg-deb", "-x", package, folder / "nginx"], check=True, capture_output=True)
        program = folder / "nginx" / "usr" / "sbin" / "nginx"
    text = (ROOT / "scripts" / "deploy" / "nginx.conf").read_text()
    server = "server 127.0.0.1:{} max_fails=1 fail_timeout=5s;\n"
    two = f"    {server.format(8001)}    {server.format(8002)}"
    assert (text.count(two), text.count("listen 127.0.0.1:8000;")) == (1, 1)
    text = text.replace(two, "".join(server.format(urlsplit(url).port) for url in urls))
    (folder / "nginx_tmp").mkdir()
    (folder / "nginx.conf").write_text(text.replace("listen 127.0.0.1:8000;", f"listen 127.0.0.1:{port};"))
    return [program, "-p", folder, "-c", folder / "nginx.conf"]


@pytest.mark.parametrize("name", ROUTERS)
def test_each_request_is_answered_but_those_of_the_dead_server(outcome, name):
    if name in outcome.missing:
        pytest.skip(outcome.missing[name])
    records = outcome.records[name]
    assert len(records) == REQUESTS
    lost = [record for record in records if record.error is not None]
    assert len(lost) <= outcome.its_own, [record.error for record in lost]
    whole = [record for record in records if record.error is None]
    assert all(record.num_output == record.num_asked for record in whole)


def test_only_the_dead_server_lost_any(outcome):
    lost = [record for records in outcome.records.values() for record in records if record.error is not None]
    assert 0 < outcome.its_own < CLIENTS * len(outcome.records), "each server had a part of the load"
    assert len(lost) <= outcome.its_own, [record.error for record in lost]
    assert outcome.drained == 0


def under_way_at(url: str) -> int:
    """Requests that a server says to have."""
    text = urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode()
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in text.splitlines() if line.startswith(names))
