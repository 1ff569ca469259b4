"""Where a process of an NPU writes: nothing into the working directory, nothing over another's files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mindspore_paged.custom_ops import process_folder
from mindspore_paged.custom_ops.build_ascend import use_ascend_op_package
from mindspore_paged.custom_ops.process_folder import REFUSAL, WRAPPERS, take_refusal, use_process_folder

USE_PACKAGE = """
import os, sys
from mindspore_paged.custom_ops.build_ascend import use_ascend_op_package
use_ascend_op_package()
print(os.environ["MS_COMPILER_CACHE_PATH"], flush=True)
sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """Neither variable is set, and what a test sets is taken back."""
    for name in (WRAPPERS, REFUSAL):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(process_folder.tempfile, "tempdir", str(tmp_path))


def test_two_processes_in_one_folder_write_apart_and_not_there(tmp_path):
    """Nor does it have to let them: as a container's, it is read only."""
    package, work = tmp_path / "vendors" / "mindspore_paged", tmp_path / "work"
    package.mkdir(parents=True)
    work.mkdir(mode=0o555)
    given = {"ASCEND_OPP_PATH": "/cann/opp", "ASCEND_CUSTOM_OPP_PATH": str(package), "TMPDIR": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", USE_PACKAGE],
            cwd=work, env={**os.environ, **given}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    folders = [Path(process.stdout.readline().strip()) for process in processes]
    assert len(set(folders)) == 2
    for folder in folders:
        assert folder.is_absolute()
        assert tmp_path in folder.parents
        assert work not in folder.parents
        folder.mkdir()  # as MindSpore does
    for process in processes:
        assert (process.communicate("\n")[0], process.returncode) == ("", 0)
    assert list(work.iterdir()) == []
    assert not any(folder.parent.exists() for folder in folders)


def test_the_folder_is_elsewhere_and_goes_with_its_process(tmp_path, monkeypatch):
    at_exit = []
    monkeypatch.setattr(process_folder.atexit, "register", lambda *call: at_exit.append(call))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "vendors" / "mindspore_paged").mkdir(parents=True)
    monkeypatch.setenv("ASCEND_OPP_PATH", "/cann/opp")
    monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", str(tmp_path / "vendors" / "mindspore_paged"))
    use_ascend_op_package()
    named = os.environ.get(WRAPPERS)
    folder = use_process_folder()
    assert named == str(folder / "wrappers")
    assert list((tmp_path / "work").iterdir()) == []
    for function, *arguments in at_exit:
        function(*arguments)
    assert not folder.exists()


def test_mindspore_writes_wrappers_where_the_folder_says():
    custom_ops = pytest.importorskip("mindspore.ops.operations.custom_ops")
    folder = use_process_folder()
    assert Path(custom_ops._get_cache_path()) == folder / "wrappers"


def test_what_the_user_set_stays(monkeypatch):
    monkeypatch.setenv(WRAPPERS, "/mine")
    folder = use_process_folder()
    assert os.environ[WRAPPERS] == "/mine"
    assert os.environ[REFUSAL] == str(folder / "refusal")
    assert use_process_folder() == folder


def test_a_child_does_not_use_its_parents_folder(monkeypatch):
    parents = use_process_folder()
    monkeypatch.setattr(process_folder.os, "getpid", lambda: 2**22 + 1)
    own = use_process_folder()
    assert own != parents
    assert os.environ[WRAPPERS] == str(own / "wrappers")
    assert os.environ[REFUSAL] == str(own / "refusal")


def test_a_refusal_is_taken_once():
    assert take_refusal() is None
    folder = use_process_folder()
    assert take_refusal() is None
    (folder / "refusal").write_text("paged_attention: rows has shape [6], it must be [5]\n")
    assert take_refusal() == "paged_attention: rows has shape [6], it must be [5]"
    assert take_refusal() is None
