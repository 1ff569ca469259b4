"""Every family answers as in transformers (goldens/families.json), from its folder and from its GGUF file."""

import pytest

from mindspore_paged import LLM
from mindspore_paged.config import config_from_dict
from mindspore_paged.engine.building.exporting import export_model
from tests.e2e.models import make_llm
from tests.models.families import (
    FAMILIES,
    answer_of,
    check_equal,
    check_near,
    sections_of,
    write_folder,
    write_gguf,
)

NOT_YET = ("mistral", "qwen2", "qwen3", "phi3", "granite", "smollm3", "gemma3_text")
"""Families that do not run yet."""


def cases(*names: str) -> list:
    """A parameter for each model of `names`, all by default."""
    marks = pytest.mark.xfail(strict=False, reason="this family does not run yet")
    return [
        pytest.param(name, marks=marks if FAMILIES[name]["config"]["model_type"] in NOT_YET else ())
        for name in names or FAMILIES
    ]


def run(weights, **sections):
    """Tokens and logits of an engine over the model at `weights`."""
    with make_llm(**sections_of(weights, **sections)) as llm:
        return answer_of(llm)


@pytest.mark.parametrize("name", cases())
def test_folders_answer_as_in_transformers(tmp_path, name):
    check_equal(FAMILIES[name], *run(write_folder(tmp_path, name)))


@pytest.mark.parametrize("name", cases(*(name for name in FAMILIES if FAMILIES[name].get("gguf", ()) is not None)))
def test_gguf_files_answer_as_in_transformers(tmp_path, name):
    """Where a file says less than config.json, as llama.cpp answers."""
    check_equal(FAMILIES[name].get("gguf", FAMILIES[name]), *run(write_gguf(tmp_path / "model.gguf", name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", cases())
def test_operator_by_operator(tmp_path, name):
    check_equal(FAMILIES[name], *run(write_folder(tmp_path, name), runtime={"fused_ops": False}))


@pytest.mark.slow
@pytest.mark.parametrize("name", cases())
def test_on_the_emulated_chip(tmp_path, name):
    sections = {"cache": {"kv_cache_dtype": "float16"}, "runtime": {"ops_backend": "ascend_emulator"}}
    check_near(FAMILIES[name], *run(write_folder(tmp_path, name), **sections), tolerance=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", cases())
def test_over_pages_of_int8(tmp_path, name):
    check_near(FAMILIES[name], *run(write_folder(tmp_path, name), cache={"kv_cache_dtype": "int8"}), tolerance=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("name", cases())
def test_exported_models(tmp_path, name):
    sections = sections_of(write_folder(tmp_path / "folder", name))
    config = config_from_dict({"model": {"weights": sections.pop("weights")}, **sections})
    exported = export_model(config, tmp_path / "exported", show_progress=False)
    with LLM.from_mindir(exported, show_progress=False) as llm:
        check_equal(FAMILIES[name], *answer_of(llm))
