"""Measure what paging gives: the same engine and KV budget, pages on demand against max_model_len reserved; --help."""

import argparse
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from mindspore_paged.benchmarking.paging import (
    CONTIGUOUS,
    PAGED,
    comparison_config,
    draw_requests,
    pages_without_names,
    serve_all,
)
from mindspore_paged.benchmarking.report import (
    draw_bars,
    markdown_table,
    output_stem,
    require_at_least,
    write_results,
)
from mindspore_paged.benchmarking.step_time import PageTimes, StepPoint, measure_page_times, measure_step_times
from mindspore_paged.config import EngineConfig
from mindspore_paged.launch.keeper import kept
from mindspore_paged.script import exit_code_of

DESCRIPTION = """Serve the same requests twice over the same graphs and the same pool, in turn: once each sequence has
pages for max_model_len tokens set aside, as a contiguous KV cache must, and once it takes pages as it grows.

The pool holds one sequence of max_model_len. Requests come all at once; prompt and answer each have 1/16 to 3/16 of
max_model_len tokens, drawn evenly, so that a mean request needs a quarter of what a contiguous cache reserves for it.
utilization is the share of the memory held for running sequences that has a token in it, over all steps;
budget used is that share of the whole pool. No two prompts begin alike, so nothing is shared.

A sequence that is preempted because the pool is full comes back later. Those of its pages that nobody needed meanwhile
it finds again, and with --set cache.host_memory=1GiB those that were saved there, too; the others are computed again.
preempted and pages loaded count both; a contiguous cache preempts nobody."""
EPILOG = """examples:
  bench_paged_vs_contiguous.py --config configs/smollm2_135m.yaml --output results --set cache.host_memory=1GiB
  bench_paged_vs_contiguous.py --config configs/tiny.yaml --max-model-len 128 256 --requests 16 --output results

writes results.json, results.md and results.png (a folder as --output gets bench_paged_vs_contiguous.json, …)"""


@dataclass(frozen=True)
class Run:
    """One policy at one length; rates are a second of the time in steps.

    seed: of the requests of this run. step_times and page_times: of single steps and pages, measured apart from the
    run, so that plan_capacity.py --check-against can predict it.
    """

    policy: str
    max_model_len: int
    kv_cache_mb: float
    utilization: float
    budget_used: float
    largest_batch: int
    tokens_per_second: float
    num_preemptions: int
    num_pages_saved: int
    num_pages_loaded: int
    num_requests: int
    seed: int
    step_times: list[dict]
    page_times: PageTimes


def main() -> int:
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's own warnings are not for the user of a script
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML of the model")
    parser.add_argument("--max-model-len", type=int, nargs="+", default=[512, 1024, 2048], metavar="TOKENS")
    parser.add_argument("--requests", type=int, default=24, metavar="N", help="requests a run (default 24)")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="times that both run in turn (default 1)")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="STEM", help="files to write, without their endings"
    )
    parser.add_argument("--set", dest="overrides", nargs="+", action="extend", default=[], metavar="section.key=value")
    arguments = parser.parse_args()
    return exit_code_of(lambda: bench(arguments))


def bench(arguments: argparse.Namespace) -> None:
    require_at_least(arguments, 1, "requests", "rounds")
    require_at_least(arguments, 64, "max_model_len")
    stem = output_stem(arguments.output, "bench_paged_vs_contiguous")
    configs = [comparison_config(arguments.config, arguments.overrides, length) for length in arguments.max_model_len]
    runs = []
    for length, config in zip(arguments.max_model_len, configs, strict=True):
        runs += compare(config, length, arguments.requests, arguments.rounds)
    table = markdown(runs)
    print(table)
    write_results(stem, [asdict(run) for run in runs], table, lambda panels: draw(panels, runs))


def compare(config: EngineConfig, length: int, num_requests: int, rounds: int) -> list[Run]:
    """The median of each policy's rounds; every round has requests of its own, the same for both."""
    from mindspore_paged.llm import LLM  # takes seconds: --help and bad input do not wait for it

    runs, step_times = {CONTIGUOUS: [], PAGED: []}, []
    with LLM(config, show_progress=sys.stderr.isatty()) as llm:

        def time_steps() -> None:
            scheduler = config.scheduler
            with pages_without_names(llm.engine):
                points = measure_step_times(llm.engine, scheduler.resolved_token_buckets(), scheduler.max_num_seqs)
            step_times.extend(map(_plain, points))

        time_steps()
        page_times = measure_page_times(llm.engine)
        for seed in range(rounds):
            for policy in runs:
                runs[policy].append(serve(llm, policy, length, num_requests, seed, step_times, page_times))
            time_steps()  # again, for a machine that is not as fast as it was a minute ago
    return [_median(of_policy) for of_policy in runs.values()]


def _plain(point: StepPoint) -> dict:
    return asdict(point.work) | {"ms": 1e3 * point.seconds}


def serve(
    llm, policy: str, length: int, num_requests: int, seed: int, step_times: list[dict], page_times: PageTimes
) -> Run:
    """All requests to their end, one after the other reservation allows."""
    requests = draw_requests(length, num_requests, seed, llm.engine.limits.vocab_size)
    with tqdm(total=num_requests, desc=f"{policy} {length}", unit="request", leave=False, disable=None) as bar:
        served = serve_all(llm.engine, policy, length, requests, bar.update)
    return Run(
        policy,
        length,
        llm.get_statistics()["kv_cache_gb"] * 1e3,
        served.utilization,
        served.budget_used,
        served.largest_batch,
        served.num_output_tokens / served.busy_seconds,
        served.num_preemptions,
        served.num_pages_saved,
        served.num_pages_loaded,
        num_requests,
        seed,
        step_times,
        page_times,
    )


def _median(runs: list[Run]) -> Run:
    """The run whose rate is the median (of an even number, the higher of the two in the middle)."""
    return sorted(runs, key=lambda run: run.tokens_per_second)[len(runs) // 2]


def markdown(runs: list[Run]) -> str:
    header = ["max_model_len", "policy", "KV cache MB", "utilization", "budget used", "largest batch"]
    header += ["preempted", "pages loaded", "tokens/s", "ratio"]
    rows = []
    for run in runs:
        base = next(r for r in runs if r.policy == CONTIGUOUS and r.max_model_len == run.max_model_len)
        shares = [f"{run.utilization:.0%}", f"{run.budget_used:.0%}"]
        rates = [f"{run.tokens_per_second:.1f}", f"{run.tokens_per_second / base.tokens_per_second:.2f}"]
        counts = [run.largest_batch, run.num_preemptions, run.num_pages_loaded]
        rows.append([run.max_model_len, run.policy, f"{run.kv_cache_mb:.1f}", *shares, *counts, *rates])
    return markdown_table(header, rows)


def draw(panels, runs: list[Run]) -> None:
    """Throughput and utilization of both policies, side by side, by length."""
    lengths = sorted({run.max_model_len for run in runs})
    of = {(run.policy, run.max_model_len): run for run in runs}
    for panel, key, title, label in (
        (panels[0], "tokens_per_second", "tokens/s", "{:.0f}"),
        (panels[1], "utilization", "share of held memory in use", "{:.0%}"),
    ):
        series = {policy: [getattr(of[policy, n], key) for n in lengths] for policy in (CONTIGUOUS, PAGED)}
        draw_bars(panel, [str(n) for n in lengths], series, label)
        panel.set(xlabel="max_model_len (tokens), which is also the KV budget", title=title)
    panels[0].legend()


if __name__ == "__main__":
    sys.exit(kept(main))
