"""Scripts under the real `msrun`: every rank runs the file, the leader's answer comes back as JSON."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindspore_paged.launch.ports import free_ports

ROOT = Path(__file__).parents[2]
END_SECONDS = 30


@dataclass(frozen=True)
class Job:
    """What a job left: msrun's exit code and all it printed, each worker's log, and the JSON of the leader if any."""

    exit_code: int
    output: str
    logs: list[str]
    answer: Any


def run_job(script: Path, num_workers: int, folder: Path, *arguments: str, timeout: float = 300) -> Job:
    """Run `script ANSWER.json arguments…` on so many local workers; after `timeout` seconds msrun is interrupted."""
    command = [
        str(Path(sys.executable).with_name("msrun")),
        f"--worker_num={num_workers}",
        f"--local_worker_num={num_workers}",
        f"--master_port={_two_free_ports()}",
        "--join=True",
        f"--log_dir={folder / 'logs'}",
        *_script_call(script, folder, arguments),
    ]
    exit_code, output = _run(command, folder / "msrun.out", timeout)
    logs = [(folder / "logs" / f"worker_{rank}.log").read_text() for rank in range(num_workers)]
    return Job(exit_code, output, logs, _answer(folder))


def run_alone(script: Path, folder: Path, *arguments: str, timeout: float = 300) -> Any:
    """The JSON of the same script in one process, without msrun."""
    exit_code, output = _run([sys.executable, *_script_call(script, folder, arguments)], folder / "alone.out", timeout)
    assert exit_code == 0, output
    return _answer(folder)


def _script_call(script: Path, folder: Path, arguments: tuple[str, ...]) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return [str(script), str(folder / "answer.json"), *arguments]


def _answer(folder: Path) -> Any:
    answer = folder / "answer.json"
    return json.loads(answer.read_text()) if answer.exists() else None


def _run(command: list[str], output: Path, timeout: float) -> tuple[int, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # msrun starts whatever `python` it finds
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "GLOG_v": "3"}
    with open(output, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            process.wait(timeout)
        finally:
            _end(process)
    return process.returncode, output.read_text(errors="replace")


def _end(process: subprocess.Popen) -> None:
    """End what still runs: msrun takes its workers with it when it is interrupted."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _two_free_ports() -> int:
    """A port that is free like the next one, which the job's supervisor takes."""
    for port in free_ports(100):
        with socket.socket() as following:
            try:
                following.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
        return port
    raise OSError("no two free ports side by side")
