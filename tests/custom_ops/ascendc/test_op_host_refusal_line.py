"""What op_host has against an operator's inputs reaches the user's error line: CANN and MindSpore do not pass it on."""

import os

import numpy as np
import pytest

from mindspore_paged.custom_ops.process_folder import REFUSAL, WRAPPERS, use_process_folder
from mindspore_paged.engine.execution.compiled_cell import CompiledCell
from mindspore_paged.errors import StepError
from tests.custom_ops.ascendc.op_host_calls import GOOD, run

LINE = "paged_attention: rows has shape [6], it must be [5]"
BAD = [*GOOD["PagedAttentionCustom"][:4], "int32:6", "int32:5"]
REPORT = "aclnnPagedAttentionCustomGetWorkspaceSize call failed, please check!\n\n---\n- C++ Call Stack\n---"


class RefusedCell:
    """Fails as MindSpore does when the tiling function of an operator failed."""

    def __init__(self, driver):
        self.driver, self.compile_cache = driver, {}

    def __call__(self, _):
        if self.driver is not None:
            run(self.driver, "PagedAttentionCustom", BAD)
        raise RuntimeError(REPORT)


def forget_folder(monkeypatch):
    """No folder of this process is named yet, and what names one is taken back."""
    for name in (WRAPPERS, REFUSAL):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def assert_line_is_the_steps_error(driver):
    use_process_folder()
    with pytest.raises(StepError) as refused:
        CompiledCell(RefusedCell(driver))(np.zeros(2, np.int32))
    assert str(refused.value) == LINE
    with pytest.raises(StepError) as failed:
        CompiledCell(RefusedCell(None))(np.zeros(2, np.int32))
    assert str(failed.value) == REPORT.partition("\n")[0]


def test_the_line_is_the_steps_error(driver, monkeypatch):
    forget_folder(monkeypatch)
    assert_line_is_the_steps_error(driver)


def test_without_such_a_file_the_line_is_on_stderr(driver):
    environment = {name: value for name, value in os.environ.items() if name != REFUSAL}
    assert run(driver, "PagedAttentionCustom", BAD, environment=environment) == (None, f"{LINE}\n")
