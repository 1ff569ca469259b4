"""Which software and which device a check ran on: one line for the top of its report."""

import os
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

CANN_VERSION_FILES = ("*-linux/ascend_toolkit_install.info", "*/ascend_*_install.info", "*/version.info")
NPU_DEVICES = "davinci[0-9]*"
SECONDS = 30


def npu_is_present(devices: Path = Path("/dev")) -> bool:
    """Whether the driver shows an NPU to this machine or container."""
    return any(devices.glob(NPU_DEVICES))


def versions_line(backend: str) -> str:
    """Name mindspore_paged, MindSpore and the backend, and for `ascend` CANN, driver and chip."""
    parts = [f"mindspore_paged {version('mindspore_paged')}", f"MindSpore {version('mindspore')}", f"backend {backend}"]
    if backend == "ascend":
        driver, chip = npu_smi()
        parts += [f"CANN {cann_version(os.environ.get('ASCEND_HOME_PATH'))}", f"driver {driver}", f"NPU {chip}"]
    return ", ".join(parts)


def cann_version(home: str | None) -> str:
    """The version that the toolkit's own files state, or the name of its folder, or `unknown`."""
    if not home or not Path(home).is_dir():
        return "unknown"
    for pattern in CANN_VERSION_FILES:
        for file in sorted(Path(home).glob(pattern)):
            stated = re.search(
                r"^\s*version\s*=\s*(\S+)", file.read_text(errors="replace"), re.MULTILINE | re.IGNORECASE
            )
            if stated:
                return stated[1]
    return Path(home).resolve().name


def npu_smi() -> tuple[str, str]:
    """The driver's version and the chip's name from `npu-smi info`; `unknown` where it does not tell."""
    if shutil.which("npu-smi") is None:
        return "unknown (no npu-smi)", "unknown"
    try:
        result = subprocess.run(["npu-smi", "info"], capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown (npu-smi fails)", "unknown"
    return parse_npu_smi(result.stdout)


def parse_npu_smi(text: str) -> tuple[str, str]:
    """Driver version and chip from the table that `npu-smi info` prints."""
    driver = re.search(r"Version:\s*([^\s|]+)", text)
    chip = re.search(r"^\|\s*\d+\s+((?:Ascend)?\d{3}[^\s|]*)\s*\|", text, re.MULTILINE)
    return driver[1] if driver else "unknown", chip[1] if chip else "unknown"
