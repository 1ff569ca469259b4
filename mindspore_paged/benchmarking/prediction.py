"""What bench_paged_vs_contiguous.py measured, predicted from the configuration and single steps, and compared."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mindspore_paged.benchmarking.paging import CONTIGUOUS, PAGED, comparison_config, draw_requests, serve_on_paper
from mindspore_paged.benchmarking.step_time import StepPoint, StepTimeModel, StepWork
from mindspore_paged.errors import ConfigError
from mindspore_paged.model_config import ModelConfig

FIGURES = ("kv_cache_mb", "utilization", "budget_used", "largest_batch", "tokens_per_second")


@dataclass(frozen=True)
class Comparison:
    """One figure of one run. It was predicted without it: see `predict`."""

    max_model_len: int
    policy: str
    figure: str
    predicted: float
    measured: float

    @property
    def difference(self) -> float:
        """How far the prediction is off, as a share of what was measured."""
        return self.predicted / self.measured - 1 if self.measured else float(self.predicted != 0)


def compare_with(
    path: Path, config_path: Path, overrides: Sequence[str], model: ModelConfig, model_len: Sequence[int] | None = None
) -> list[Comparison]:
    """Every figure of the runs in `path` (of the lengths `model_len`, None for all) beside its prediction.

    Raises ConfigError if it is no result of bench_paged_vs_contiguous.py.
    """
    comparisons = []
    for run in _read(path):
        if model_len is not None and run["max_model_len"] not in model_len:
            continue
        predicted = predict(run, config_path, overrides, model)
        comparisons += [
            Comparison(run["max_model_len"], run["policy"], figure, predicted[figure], run[figure])
            for figure in FIGURES
        ]
    if not comparisons:
        raise ConfigError(f"{path}: no run of the given --max-model-len")
    return comparisons


def predict(run: dict, config_path: Path, overrides: Sequence[str], model: ModelConfig) -> dict[str, float]:
    """The figures of a run, from its policy, length, number of requests and seed, and from `step_times`.

    Memory, shares and batches come from the real scheduler over the real pool, without a device. The rate is the tokens
    over the sum of the steps' times by a model fitted to `step_times`: single steps that were measured before, at other
    contexts and with other prompts; the rate that it is compared with is not among them. Pages that go to host memory
    and come back are counted on paper, too, and take `page_times` each.
    """
    length = run["max_model_len"]
    config = comparison_config(config_path, overrides, length)
    requests = draw_requests(length, run["num_requests"], run["seed"], model.vocab_size)
    paper = serve_on_paper(config, model, run["policy"], length, requests)
    points = [
        StepPoint(StepWork(point["bucket"], point["num_tokens"], point["attended"]), point["ms"] / 1e3)
        for point in run["step_times"]
    ]
    model_of_steps = StepTimeModel.fit(points)
    served, times = paper.served, run["page_times"]
    moving_ms = served.num_pages_saved * times["save_ms"] + served.num_pages_loaded * times["load_ms"]
    seconds = sum(map(model_of_steps.seconds, paper.steps)) + moving_ms / 1e3
    return {
        "kv_cache_mb": paper.kv_cache_bytes / 1e6,
        "utilization": served.utilization,
        "budget_used": served.budget_used,
        "largest_batch": served.largest_batch,
        "tokens_per_second": served.num_output_tokens / seconds,
    }


def _read(path: Path) -> list[dict]:
    """The runs in a result file, their keys and types checked."""
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    if not isinstance(runs, list) or not all(map(_is_run, runs)):
        raise ConfigError(f"{path}: not what bench_paged_vs_contiguous.py writes today (with step_times, page_times)")
    return runs


def _is_run(run) -> bool:
    if not isinstance(run, dict) or run.get("policy") not in (CONTIGUOUS, PAGED):
        return False
    numbers = [run.get(name) for name in FIGURES]
    counts = [run.get(name) for name in ("max_model_len", "num_requests", "seed")]
    points, page_times = run.get("step_times"), run.get("page_times")
    if not isinstance(page_times, dict):
        return False
    numbers += [page_times.get(name) for name in ("save_ms", "load_ms")]
    if not isinstance(points, list) or not points or not all(isinstance(point, dict) for point in points):
        return False
    numbers += [point.get("ms") for point in points]
    counts += [point.get(name) for point in points for name in ("bucket", "num_tokens", "attended")]
    return all(type(value) is int and value >= 0 for value in counts) and all(
        type(value) in (int, float) and value >= 0 for value in numbers
    )
