"""Measure the engine under requests that arrive over time: throughput, TTFT, TPOT, ITL, queueing; --help."""

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mindspore_paged.benchmarking.lengths import HELP as LENGTHS_HELP
from mindspore_paged.benchmarking.lengths import parse_lengths
from mindspore_paged.benchmarking.report import markdown_table, output_stem, require_at_least, write_results
from mindspore_paged.benchmarking.serving import draw_arrivals, serve, summary
from mindspore_paged.config import load_config
from mindspore_paged.errors import ConfigError
from mindspore_paged.launch.keeper import kept
from mindspore_paged.script import exit_code_of

DESCRIPTION = f"""Serve requests that arrive by a Poisson process, and measure what they wait for. The engine's step
loop runs in this process: no network, no tokenizer; prompts are random token ids, every answer has the length that was
drawn for it.

queue     from arrival to the first step that the request takes part in
TTFT      time to first token, from arrival
TPOT      time per output token after the first, of each request
ITL       inter-token latency: between each token and the one before, over all tokens
latency   from arrival to the last token

at P50 and P99 (numpy's percentiles). tokens/s are output tokens from the first arrival to the last token. Several rates
are served one after the other, with the same requests. The rate `inf` brings all of them at once.

{LENGTHS_HELP}"""
EPILOG = """examples:
  bench_serving.py --config configs/smollm2_135m.yaml --request-rate 0.5 1 2 --num-requests 50 --output results
  bench_serving.py --config configs/smollm2_135m.yaml --request-rate inf --num-requests 16 \\
    --prompt-len lognormal:100:0.8:1024 --output-len uniform:16:128 --output results

writes results.json, results.md and results.png (a folder as --output gets bench_serving.json, …)"""


def main() -> int:
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's own warnings are not for the user of a script
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML of the model")
    parser.add_argument(
        "--request-rate", type=float, nargs="+", default=[1.0], metavar="PER_SECOND", help="default 1; inf is allowed"
    )
    parser.add_argument("--num-requests", type=int, default=32, metavar="N", help="of each rate (default 32)")
    parser.add_argument("--prompt-len", default="uniform:32:256", metavar="LENGTHS", help="default uniform:32:256")
    parser.add_argument("--output-len", default="uniform:16:128", metavar="LENGTHS", help="default uniform:16:128")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of arrivals, lengths and tokens (default 0)")
    parser.add_argument("--output", type=Path, required=True, metavar="STEM", help="files to write, without endings")
    parser.add_argument("--set", dest="overrides", nargs="+", action="extend", default=[], metavar="section.key=value")
    arguments = parser.parse_args()
    return exit_code_of(lambda: bench(arguments))


def bench(arguments: argparse.Namespace) -> None:
    require_at_least(arguments, 1, "num_requests")
    require_at_least(arguments, 0, "seed")
    for rate in arguments.request_rate:
        if not rate > 0:
            raise ConfigError(f"--request-rate is {rate}; it must be above 0")
    prompts = parse_lengths(arguments.prompt_len, "--prompt-len")
    outputs = parse_lengths(arguments.output_len, "--output-len")
    stem = output_stem(arguments.output, "bench_serving")
    config = load_config(arguments.config, arguments.overrides)

    from mindspore_paged.llm import LLM  # takes seconds: --help and bad input do not wait for it

    runs = []
    with LLM(config, show_progress=sys.stderr.isatty()) as llm:
        limits = llm.engine.limits

        def draw_run(rate: float, count: int, run: int) -> list:
            shape = (prompts, outputs, limits.vocab_size, limits.max_model_len)
            return draw_arrivals(rate, count, *shape, arguments.seed, run)

        rates = list(dict.fromkeys(arguments.request_rate))
        drawn_of_rates = [draw_run(rate, arguments.num_requests, run) for run, rate in enumerate(rates)]
        serve(llm, draw_run(np.inf, 1, len(rates)))  # threads and pages are awake then
        for rate, drawn in zip(rates, drawn_of_rates, strict=True):
            with tqdm(total=len(drawn), desc=f"rate {rate:g}", unit="request", leave=False, disable=None) as bar:
                records, load = serve(llm, drawn, on_finished=bar.update)
            runs.append({"request_rate": rate, "figures": summary(records, load), "records": records, "load": load})
    table = markdown(runs)
    print(table)
    data = {
        "prompt_len": arguments.prompt_len,
        "output_len": arguments.output_len,
        "seed": arguments.seed,
        "runs": [_plain(run) for run in runs],
    }
    write_results(stem, data, table, lambda panels: draw(panels, runs), panels=3)


def _plain(run: dict) -> dict:
    rate = run["request_rate"] if np.isfinite(run["request_rate"]) else "inf"
    return {
        "request_rate": rate,
        **run["figures"],
        "requests": [asdict(record) for record in run["records"]],
        "steps": asdict(run["load"]),
    }


def markdown(runs: list[dict]) -> str:
    header = ["requests/s", "failed", "served/s", "tokens/s", "running", "most waiting"]
    names = ("queued", "ttft", "tpot", "itl", "latency")
    header += [f"{name.upper() if len(name) < 5 else name} ms P50 / P99" for name in names]
    rows = []
    for run in runs:
        figures = run["figures"]
        row = [f"{run['request_rate']:g}", figures["num_failed"]]
        if "seconds" in figures:
            row += [f"{figures['requests_per_second']:.2f}", f"{figures['output_tokens_per_second']:.1f}"]
            row += [f"{figures['mean_running']:.1f}", figures["most_waiting"]]
            row += [f"{_ms(figures[f'{name}_ms_p50'])} / {_ms(figures[f'{name}_ms_p99'])}" for name in names]
        rows.append(row + ["-"] * (len(header) - len(row)))
    return markdown_table(header, rows)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def draw(panels, runs: list[dict]) -> None:
    """Distributions of TTFT and ITL, and how many requests ran (full lines) and waited (dotted) over time."""
    for place, run in enumerate(runs):
        color = f"C{place % 10}"
        good = [record for record in run["records"] if record.error is None and record.token_times]
        gaps = np.concatenate([record.gaps for record in good]) if good else np.zeros(0)
        for panel, values in zip(panels, (np.array([record.ttft for record in good]), gaps), strict=False):
            if values.size:
                panel.ecdf(1e3 * values, color=color, label=f"{run['request_rate']:g} requests/s")
        panels[2].plot(run["load"].times, run["load"].running, color=color, linewidth=1)
        panels[2].plot(run["load"].times, run["load"].waiting, color=color, linewidth=1, linestyle=":")
    for panel, title in zip(panels, ("time to first token", "inter-token latency"), strict=False):
        panel.set(title=title, xlabel="ms", ylabel="share of all", ylim=(0, 1))
        panel.axhline(0.5, color="grey", linewidth=0.5)
        panel.axhline(0.99, color="grey", linewidth=0.5)
    panels[2].set(title="requests that run, and wait (dotted)", xlabel="seconds")
    panels[0].legend(fontsize=8)


if __name__ == "__main__":
    sys.exit(kept(main))
