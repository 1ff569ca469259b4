"""Every family answers as in transformers (goldens/families.json), from its folder and from its GGUF file."""

import pytest

from tests.models.families import FAMILIES, check_answer, write_folder, write_gguf

NOT_YET = ("mistral", "qwen2", "qwen3", "phi3", "granite", "smollm3", "gemma3_text")
"""Families that do not run yet."""


def cases(*names: str) -> list:
    """A parameter for each model of `names`, all by default."""
    marks = pytest.mark.xfail(strict=False, reason="this family does not run yet")
    return [
        pytest.param(name, marks=marks if FAMILIES[name]["config"]["model_type"] in NOT_YET else ())
        for name in names or FAMILIES
    ]


@pytest.mark.parametrize("name", cases())
def test_folders_answer_as_in_transformers(tmp_path, name):
    check_answer(FAMILIES[name], write_folder(tmp_path, name))


@pytest.mark.parametrize("name", cases(*(name for name in FAMILIES if FAMILIES[name].get("gguf", ()) is not None)))
def test_gguf_files_answer_as_in_transformers(tmp_path, name):
    """Where a file says less than config.json, as llama.cpp answers."""
    answer = FAMILIES[name].get("gguf", FAMILIES[name])
    check_answer(answer, write_gguf(tmp_path / "model.gguf", name))
