"""MindFormers predict files written for a test, and what is said of them."""

from pathlib import Path

import pytest

from mindspore_paged.config import load_config
from mindspore_paged.errors import ConfigError
from tests.mindformers_samples import PREDICT_FILE, SMALL


def write(
    folder: Path, model_config: str = SMALL, load_checkpoint="", vocab_file="", model_parallel=1, use_parallel=False
) -> Path:
    path = folder / "predict.yaml"
    text = PREDICT_FILE.format(
        model_config=model_config.strip("\n"),
        load_checkpoint=load_checkpoint,
        vocab_file=vocab_file,
        model_parallel=model_parallel,
        use_parallel=use_parallel,
    )
    if "rms_norm_eps" in model_config:
        text = text.replace("    rms_norm_eps: 1.0e-5\n", "")
    path.write_text(text, encoding="utf-8")
    return path


def warning_of(caplog) -> str:
    (record,) = (record for record in caplog.records if record.name == "mindspore_paged")
    return record.getMessage()


def refusal_of(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)
