"""Measure what paging gives: the same engine and KV budget, pages on demand against max_model_len reserved; --help."""

import argparse
import json
import os
import random
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from tqdm import tqdm

from mindspore_paged.config import EngineConfig, load_config
from mindspore_paged.errors import ConfigError
from mindspore_paged.sampling_params import SamplingParams
from mindspore_paged.script import exit_code_of

DESCRIPTION = """Serve the same requests twice over the same graphs and the same pool, in turn: once each sequence has
pages for max_model_len tokens set aside, as a contiguous KV cache must, and once it takes pages as it grows.

The pool holds one sequence of max_model_len. Requests come all at once; prompt and answer each have 1/16 to 3/16 of
max_model_len tokens, drawn evenly, so that a mean request needs a quarter of what a contiguous cache reserves for it.
utilization is the share of the memory held for running sequences that has a token in it, over all steps;
budget used is that share of the whole pool. Nothing is shared between prompts and prefix caching is off."""
EPILOG = """examples:
  bench_paged_vs_contiguous.py --config configs/smollm2_135m.yaml --output results
  bench_paged_vs_contiguous.py --config configs/tiny.yaml --max-model-len 128 256 --requests 16 --output results

writes results.json, results.md and results.png"""
CONTIGUOUS, PAGED = "contiguous", "paged"


@dataclass(frozen=True)
class Run:
    """One policy at one length; rates are a second of the time in steps."""

    policy: str
    max_model_len: int
    kv_cache_mb: float
    utilization: float
    budget_used: float
    largest_batch: int
    tokens_per_second: float
    num_preemptions: int


def main() -> int:
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's own warnings are not for the user of a script
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML of the model")
    parser.add_argument("--max-model-len", type=int, nargs="+", default=[512, 1024, 2048], metavar="TOKENS")
    parser.add_argument("--requests", type=int, default=12, metavar="N", help="requests a run (default 12)")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="times that both run in turn (default 1)")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="STEM", help="files to write, without their endings"
    )
    parser.add_argument("--set", dest="overrides", nargs="+", action="extend", default=[], metavar="section.key=value")
    arguments = parser.parse_args()
    return exit_code_of(lambda: bench(arguments))


def bench(arguments: argparse.Namespace) -> None:
    for flag in ("requests", "rounds"):
        if getattr(arguments, flag) < 1:
            raise ConfigError(f"--{flag} is {getattr(arguments, flag)}; it must be at least 1")
    if min(arguments.max_model_len) < 64:
        raise ConfigError(f"--max-model-len is {min(arguments.max_model_len)}; it must be at least 64")
    if not arguments.output.absolute().parent.is_dir():
        raise ConfigError(f"--output {arguments.output}: its folder is not there")
    configs = [_config(arguments, length) for length in arguments.max_model_len]
    runs = []
    for length, config in zip(arguments.max_model_len, configs, strict=True):
        runs += compare(config, length, arguments.requests, arguments.rounds)
    table = markdown(runs)
    print(table)
    arguments.output.with_suffix(".json").write_text(json.dumps([asdict(run) for run in runs], indent=1) + "\n")
    arguments.output.with_suffix(".md").write_text(table + "\n")
    draw(runs, arguments.output.with_suffix(".png"))


def _config(arguments: argparse.Namespace, length: int) -> EngineConfig:
    block_size = load_config(arguments.config, arguments.overrides).cache.block_size
    if block_size == "auto":
        raise ConfigError("cache.block_size is auto; give a number with --set cache.block_size=16")
    forced = [
        f"scheduler.max_model_len={length}",
        f"cache.num_blocks={-(-length // block_size) + 1}",  # and the null block
        "cache.enable_prefix_caching=false",
        "cache.memory_budget=null",
    ]
    return load_config(arguments.config, [*arguments.overrides, *forced])


def compare(config: EngineConfig, length: int, num_requests: int, rounds: int) -> list[Run]:
    """The median of each policy's rounds; every round has requests of its own, the same for both."""
    from mindspore_paged.llm import LLM  # takes seconds: --help and bad input do not wait for it

    runs = {CONTIGUOUS: [], PAGED: []}
    with LLM(config, show_progress=sys.stderr.isatty()) as llm:
        for seed in range(rounds):
            for policy in runs:
                runs[policy].append(serve(llm, policy, length, num_requests, seed))
    return [_median(of_policy) for of_policy in runs.values()]


def serve(llm, policy: str, length: int, num_requests: int, seed: int) -> Run:
    """All requests to their end, one after the other reservation allows."""
    engine, scheduler = llm.engine, llm.engine.scheduler
    scheduler.reserve_max_model_len = policy == CONTIGUOUS
    before = llm.get_statistics()
    busy = engine.metrics.busy_seconds
    for request in _requests(llm, length, num_requests, seed):
        engine.add_request(request)
    held_share, used_share, batches = [], [], []
    block_size, pool = scheduler.cache.block_size, scheduler.cache.pool
    with tqdm(total=num_requests, desc=f"{policy} {length}", unit="request", leave=False, disable=None) as bar:
        while engine.has_unfinished:
            bar.update(len(engine.step().finished))
            if running := scheduler.running:
                tokens = sum(sequence.num_computed_tokens for sequence in running)
                blocks = (
                    len(running) * scheduler.cache.blocks_for(length)
                    if scheduler.reserve_max_model_len
                    else sum(scheduler.cache.table.num_blocks(sequence.row) for sequence in running)
                )
                held_share.append(tokens / (blocks * block_size))
                used_share.append(tokens / ((pool.num_blocks - 1) * block_size))
                batches.append(len(running))
    after = llm.get_statistics()
    return Run(
        policy,
        length,
        after["kv_cache_gb"] * 1e3,
        fmean(held_share),
        fmean(used_share),
        max(batches),
        (after["num_output_tokens"] - before["num_output_tokens"]) / (engine.metrics.busy_seconds - busy),
        after["num_preemptions"] - before["num_preemptions"],
    )


def _requests(llm, length: int, num_requests: int, seed: int) -> list:
    draws = random.Random(seed)
    vocab_size = llm.engine.limits.vocab_size
    requests = []
    for _ in range(num_requests):
        num_prompt, num_answer = (draws.randint(length // 16, 3 * length // 16) for _ in range(2))
        prompt = [draws.randrange(vocab_size) for _ in range(num_prompt)]
        requests.append(llm.make_request(prompt, SamplingParams(max_tokens=num_answer, ignore_eos=True)))
    return requests


def _median(runs: list[Run]) -> Run:
    """The run whose rate is the median (of an even number, the higher of the two in the middle)."""
    return sorted(runs, key=lambda run: run.tokens_per_second)[len(runs) // 2]


def markdown(runs: list[Run]) -> str:
    lines = [
        "| max_model_len | policy | KV cache MB | utilization | budget used | largest batch | tokens/s | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        base = next(r for r in runs if r.policy == CONTIGUOUS and r.max_model_len == run.max_model_len)
        lines.append(
            f"| {run.max_model_len} | {run.policy} | {run.kv_cache_mb:.1f} | {run.utilization:.0%} | "
            f"{run.budget_used:.0%} | {run.largest_batch} | {run.tokens_per_second:.1f} | "
            f"{run.tokens_per_second / base.tokens_per_second:.2f} |"
        )
    return "\n".join(lines)


def draw(runs: list[Run], path: Path) -> None:
    """Throughput and utilization of both policies, side by side, by length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lengths = sorted({run.max_model_len for run in runs})
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for panel, key, title in zip(
        panels, ("tokens_per_second", "utilization"), ("tokens/s", "share of held memory in use"), strict=True
    ):
        for place, policy in enumerate((CONTIGUOUS, PAGED)):
            values = [
                getattr(next(r for r in runs if (r.policy, r.max_model_len) == (policy, n)), key) for n in lengths
            ]
            bars = panel.bar([i + 0.38 * (place - 0.5) for i in range(len(lengths))], values, 0.36, label=policy)
            panel.bar_label(bars, fmt="{:.0%}" if key == "utilization" else "{:.0f}", fontsize=8)
        panel.set_xticks(range(len(lengths)), [str(n) for n in lengths])
        panel.set(xlabel="max_model_len (tokens), which is also the KV budget", title=title)
    panels[0].legend()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
