"""MindSpore's import without what no model needs, in processes of their own: here it is long imported."""

import subprocess
import sys

import pytest

from mindspore_paged.launch import mindspore_import

HAUSDORFF = """
import numpy as np
from mindspore import Tensor
from mindspore.train.metrics import HausdorffDistance
metric = HausdorffDistance()
metric.update(Tensor(np.eye(5, dtype=np.float32)), Tensor(np.eye(5, k=2, dtype=np.float32)), 1)
print(metric.eval(), "scipy.ndimage" in sys.modules)
"""


def printed(code: str) -> list[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_scipy_comes_when_it_is_used_and_is_the_real_one():
    quick = printed(
        "import gc, mindspore_paged, mindspore\n"
        "print(gc.isenabled(), type(mindspore.__spec__.loader).__name__, type(mindspore.__loader__).__name__)\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'scipy'])\n"
        f"{HAUSDORFF}\n"
        "import scipy.sparse\n"
        "print(scipy.sparse.__file__ is not None, isinstance(scipy.sparse.csr_matrix, type))\n"
    )
    assert quick[:2] == ["True SourceFileLoader SourceFileLoader", "[]"]
    assert quick[2:] == [*printed(HAUSDORFF), "True True"]


def test_the_import_is_as_ever_where_something_of_it_is_there_already(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setitem(sys.modules, "mindspore", object())
    before = list(sys.meta_path)
    mindspore_import.make_it_quick()
    assert sys.meta_path == before


def test_it_is_prepared_once_and_finds_nothing_else(monkeypatch):
    monkeypatch.delitem(sys.modules, "mindspore", raising=False)
    monkeypatch.setattr(sys, "meta_path", [each for each in sys.meta_path if type(each).__name__ != "_Finder"])
    before = list(sys.meta_path)
    mindspore_import.make_it_quick()
    mindspore_import.make_it_quick()
    (added,) = (each for each in sys.meta_path if each not in before)
    assert added.find_spec("mindspore.ops") is None
    assert added.find_spec("mindspore") is not None
    assert sys.meta_path == before


@pytest.mark.parametrize("sign", ["variable", "folder", None])
def test_tables_of_ascend_are_left_out_where_there_is_none(monkeypatch, tmp_path, sign):
    for name in mindspore_import.SIGNS_OF_ASCEND:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(mindspore_import, "PLACES_OF_ASCEND", (tmp_path if sign == "folder" else tmp_path / "none",))
    if sign == "variable":
        monkeypatch.setenv("ASCEND_OPP_PATH", "/somewhere")
    monkeypatch.delitem(sys.modules, mindspore_import.OF_ASCEND, raising=False)
    with mindspore_import._set_aside():
        assert (mindspore_import.OF_ASCEND in sys.modules) == (sign is None)
    sys.modules.pop(mindspore_import.OF_ASCEND, None)


def test_what_is_loaded_later_is_what_it_says():
    later = mindspore_import._LaterModule("json")
    with pytest.raises(AttributeError):
        later.__wrapped__  # noqa: B018, as inspect asks for it
    assert later.dumps([1]) == "[1]"
    assert later.decoder.JSONDecoder.__name__ == "JSONDecoder"
    with pytest.raises(AttributeError):
        later.nothing_of_that_name()
