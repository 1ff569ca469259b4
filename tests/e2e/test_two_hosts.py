"""A server of two ranks on two hosts, started as scripts/msrun_launcher.sh says: it answers, and ends with a rank."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest

from mindspore_paged import LLM, SamplingParams
from tests.cli_runs import SMALL, write_gguf
from tests.launch.jobs import REPOSITORY, environment, left_over
from tests.launch.two_hosts import ADDRESSES, on, two_hosts

pytestmark = pytest.mark.slow
PORT = 8000
START_SECONDS = 120
END_SECONDS = 30
"""Within which a job ends when a rank has died."""

ASK = """
import json, sys, urllib.request
url, body = sys.argv[1], sys.argv[2].encode() if len(sys.argv) > 2 else None
request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
print(urllib.request.urlopen(request, timeout=30).read().decode())
"""
MESSAGES = [{"role": "user", "content": "abc"}]


class Nodes:
    """The two launchers of a job, one on each host, and what they printed."""

    def __init__(self, hosts, folder: Path, script: str):
        self.hosts, self.mark = hosts, uuid.uuid4().hex
        self.folders = [folder / f"node_{number}" for number in range(2)]
        self.launchers = []
        for number, (host, place) in enumerate(zip(hosts, self.folders)):
            place.mkdir()
            launcher = ["bash", REPOSITORY / "scripts" / "msrun_launcher.sh", script]
            arguments = [2, 1, ADDRESSES[0], 8118, number, place / "logs", "True", START_SECONDS]
            with open(place / "output", "w") as output:
                self.launchers.append(
                    subprocess.Popen(
                        on(host, *launcher, *arguments),
                        cwd=place,
                        env=environment(self.mark),
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                )

    def output(self, number: int) -> str:
        return (self.folders[number] / "output").read_text(errors="replace")

    def ask(self, path: str, body=None):
        """What the server on host 0 answers to a client on host 1; None while nobody does."""
        words = [f"http://{ADDRESSES[0]}:{PORT}{path}", *([json.dumps(body)] if body else [])]
        done = subprocess.run(on(self.hosts[1], sys.executable, "-c", ASK, *words), capture_output=True, text=True)
        return json.loads(done.stdout or "{}") if done.returncode == 0 else None

    def wait_until_ready(self):
        deadline = time.monotonic() + START_SECONDS
        while self.ask("/ready") is None:
            assert all(launcher.poll() is None for launcher in self.launchers), self.output(0) + self.output(1)
            assert time.monotonic() < deadline, self.output(0)
            time.sleep(0.5)

    def kill_rank(self, rank: int):
        """End the process of a rank as the kernel does that runs out of memory."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                variables = (process / "environ").read_text(errors="replace").split("\0")
            except OSError:
                continue
            if {f"RANK_ID={rank}", "MS_ROLE=MS_WORKER", f"MINDSPORE_PAGED_TEST_JOB={self.mark}"} <= set(variables):
                os.kill(int(process.name), signal.SIGKILL)
                return
        raise AssertionError(f"no process of rank {rank}")

    def end(self):
        for launcher in self.launchers:
            launcher.terminate()
        for launcher in self.launchers:
            try:
                launcher.wait(20)
            except subprocess.TimeoutExpired:
                launcher.kill()
                launcher.wait()
        assert left_over(self.mark) == []


@contextmanager
def nodes(hosts, folder, script):
    started = Nodes(hosts, folder, script)
    try:
        yield started
    finally:
        started.end()


def test_a_chat_over_two_hosts_and_the_death_of_a_rank(tmp_path):
    weights = write_gguf(tmp_path / "model.gguf")
    script = f"{REPOSITORY}/scripts/run_server.py --weights {weights} --host {ADDRESSES[0]} --port {PORT}"
    script += f" --set parallel.tensor_parallel_size=2 {' '.join(SMALL)}"
    with two_hosts() as hosts, nodes(hosts, tmp_path, script) as job:
        job.wait_until_ready()
        answer = job.ask(
            "/v1/chat/completions", {"model": "model", "messages": MESSAGES, "max_tokens": 8, "temperature": 0}
        )
        assert answer["usage"]["completion_tokens"] == 8 or answer["choices"][0]["finish_reason"] == "stop"
        assert answer["choices"][0]["message"]["content"] == text_of_one_process(weights)
        killed = time.monotonic()
        job.kill_rank(1)
        codes = [launcher.wait(END_SECONDS) for launcher in job.launchers]
        assert time.monotonic() - killed < END_SECONDS
        assert codes == [1, 1], job.output(0) + job.output(1)
        assert "rank 1" in job.output(0)
        assert "error: " in job.output(0)


def text_of_one_process(weights: Path) -> str:
    with LLM(weights=weights, overrides=SMALL, show_progress=False) as llm:
        (output,) = llm.generate([MESSAGES], SamplingParams(max_tokens=8))
        return output.outputs[0].text
