"""The processes that scripts/check_ascend.py runs its groups in, and how it goes on behind one that fails."""

import signal
import subprocess
import sys

import mindspore as ms
import pytest

from mindspore_paged.ascend_check import apart, child, device_log, versions
from mindspore_paged.ascend_check.groups import Check, Target


class TestApart:
    """A group's process and its parent, without MindSpore: the child runs a stand-in for checks_of."""

    CHILD = """
import os, sys
from mindspore_paged.ascend_check import child
from mindspore_paged.ascend_check.groups import Check
from mindspore_paged.ascend_check.report import Finding

def good(name):
    return Check("paged_attention", name, lambda: iter([Finding("paged_attention", name, "float16", 0.0, 0.0)]))

def fails():
    raise RuntimeError("-----\\nthe device is lost\\n-----")
    yield

def dies():
    print("Aicore error 507015", file=sys.stderr, flush=True)
    os.abort()
    yield

checks = [good("a"), Check("paged_attention", "b", fails), good("c"), Check("copy_blocks", "d", dies),
          good("f")]
child.set_device = lambda target, infer_boost: None
child.checks_of = lambda group, target: checks
sys.exit(child.main())
"""

    def test_behind_each_failure_a_fresh_process_goes_on(self, monkeypatch, tmp_path):
        stand_in = tmp_path / "stand_in.py"
        stand_in.write_text(self.CHILD)
        popen, pids = subprocess.Popen, []

        def start(command, **options):
            assert command[1:3] == ["-m", "mindspore_paged.ascend_check.child"]
            process = popen([sys.executable, str(stand_in), *command[3:]], **options)
            pids.append(process.pid)
            return process

        monkeypatch.setattr(apart.subprocess, "Popen", start)
        lines = []
        target = Target("ascend", repeats=20)
        findings = list(apart.run_group("small", target, lines.append))
        assert [(finding.operator, finding.shape, finding.failed) for finding in findings] == [
            ("paged_attention", "a", ""),
            ("paged_attention", "small: b", "the device is lost"),
            ("paged_attention", "c", ""),
            ("copy_blocks", "small: d", "ended by SIGABRT: Aicore error 507015"),
            ("paged_attention", "f", ""),
        ]
        assert len(pids) == 3
        assert lines[0] == (
            f"stopped in group small, at paged_attention b: the device is lost; the driver's log: "
            f"{device_log.log_files(pids[0])}"
        )

    def test_one_that_hangs_is_ended(self, monkeypatch):
        popen, started = subprocess.Popen, []

        def start(command, **options):
            started.append(popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], **options))
            return started[-1]

        monkeypatch.setattr(apart.subprocess, "Popen", start)
        heard = apart.run_process("small", 0, Target("ascend"), seconds=1)
        assert (heard.failed, heard.findings) == ("no answer within 1 s", [])
        assert started[0].returncode == -signal.SIGKILL

    @pytest.mark.slow
    def test_a_device_that_is_not_there_ends_the_group(self):
        if versions.npu_is_present():
            pytest.skip("this machine has an NPU")
        lines = []
        (finding,) = apart.run_group("split", Target("ascend"), lines.append)
        assert not finding.is_good
        assert len(lines) == 1
        assert "start of MindSpore for ascend: " in lines[0]

    def test_that_mindspores_own_operator_fails_is_no_fault(self, monkeypatch):
        heard = iter(
            [
                apart.Heard(7, begun=[("paged_attention", "a")], failed="ended by SIGSEGV"),
                apart.Heard(8, begun=[("paged_attention", "b")], is_complete=True),
            ]
        )
        firsts = []
        monkeypatch.setattr(apart, "run_process", lambda group, first, *_: firsts.append(first) or next(heard))
        lines = []
        (finding,) = apart.run_group("built_in_times", Target("ascend"), lines.append)
        assert finding.is_good
        assert (finding.built_in, firsts) == ("failed: ended by SIGSEGV", [0, 1])
        assert lines[0].startswith(
            "stopped in group built_in_times, at paged_attention a: ended by SIGSEGV; the driver"
        )

    def test_where_the_logs_are(self, monkeypatch):
        assert device_log.log_files(7, {"ASCEND_PROCESS_LOG_PATH": "/logs"}) == "/logs/debug/plog/plog-7_*.log"
        monkeypatch.setenv("HOME", "/home/me")
        assert device_log.log_files(7, {}) == "/home/me/ascend/log/debug/plog/plog-7_*.log"

    def test_built_in_operators_have_infer_boost_and_a_process_of_their_own(self, monkeypatch):
        boosts = []
        monkeypatch.setattr(child, "set_device", lambda target, infer_boost: boosts.append(infer_boost))
        monkeypatch.setattr(child, "checks_of", lambda group, target: [Check("x", "y", lambda: iter(()))])
        for group in ("times", "built_in_times", "tiles"):
            assert child.run(group, 0, Target("ascend"), lambda told: None) == 0
        assert boosts == [False, True, False]
        set_to = {}
        monkeypatch.undo()
        monkeypatch.setattr("mindspore_paged.engine.building.context.set_context", lambda config: None)
        monkeypatch.setattr(ms, "set_context", lambda **options: set_to.update(options))
        child.set_device(Target("cpu"), infer_boost=True)
        assert set_to == {"jit_config": {"jit_level": "O0", "infer_boost": "on"}}
