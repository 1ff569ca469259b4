"""Measure the engine, or a server by HTTP, under requests that arrive over time: throughput, TTFT, TPOT, …; --help."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mindspore_paged.benchmarking.conversations import draw_conversations
from mindspore_paged.benchmarking.goodput import HELP as GOODPUT_HELP
from mindspore_paged.benchmarking.goodput import Limit, parse_limits
from mindspore_paged.benchmarking.http_load import CHAT, COMPLETIONS, Server, served_figures
from mindspore_paged.benchmarking.lengths import HELP as LENGTHS_HELP
from mindspore_paged.benchmarking.lengths import Lengths, parse_lengths
from mindspore_paged.benchmarking.report import markdown_table, output_stem, require_at_least, write_results
from mindspore_paged.benchmarking.serving import Load, Record, draw_arrivals, serve, summary
from mindspore_paged.bounded_file import read_bounded
from mindspore_paged.config import load_config
from mindspore_paged.errors import ConfigError
from mindspore_paged.launch.keeper import kept
from mindspore_paged.script import exit_code_of

MOST_KEY_BYTES = 4096

DESCRIPTION = f"""Serve requests that arrive by a Poisson process, and measure what they wait for.

--config     the engine's step loop runs in this process: no network, no tokenizer; prompts are random token ids, every
             answer has the length that was drawn for it
--base-url   a server of OpenAI's API, ours or any other, is asked by HTTP for the same arrivals and lengths; prompts
             are random words, about a token each, answers are streamed, and ignore_eos has them reach their length.
             With --concurrency so many clients ask, each again as soon as it has its answer

queue     from arrival to the first step that the request takes part in (--config)
TTFT      time to first token, from arrival
TPOT      time per output token after the first, of each request
ITL       inter-token latency: between each token and the one before, over all tokens; by HTTP between pieces of text
latency   from arrival to the last token
goodput   requests a second that keep all limits of --goodput

at P50 and P99 (numpy's percentiles). tokens/s are output tokens from the first arrival to the last token; by HTTP as
the server's usage counts them. Several rates are served one after the other, with the same requests. The rate `inf`
brings all of them at once. The load generator's own share of a core is measured by HTTP, and told.

{LENGTHS_HELP}

{GOODPUT_HELP}"""
EPILOG = """examples:
  bench_serving.py --config configs/smollm2_135m.yaml --request-rate 0.5 1 2 --num-requests 50 --output results
  bench_serving.py --config configs/smollm2_135m.yaml --request-rate inf --num-requests 16 \\
    --prompt-len lognormal:100:0.8:1024 --output-len uniform:16:128 --output results
  bench_serving.py --base-url http://127.0.0.1:8000 --concurrency 8 32 --num-requests 100 --goodput ttft:500 tpot:50 \\
    --output results
  bench_serving.py --base-url http://127.0.0.1:8000 --request-rate 2 --shared-prefix-len 1000 --turns 4 --output results

writes results.json, results.md and results.png (a folder as --output gets bench_serving.json, …)"""


@dataclass(frozen=True)
class Run:
    """One rate, or number of clients, and what came of its requests."""

    rate: float | None
    concurrency: int | None
    records: list[Record]
    load: Load
    figures: dict

    @property
    def name(self) -> str:
        """As the picture has it."""
        return f"{self.rate:g} requests/s" if self.concurrency is None else f"{self.concurrency} clients"

    def plain(self) -> dict:
        """As JSON has it."""
        rate = {} if self.rate is None else {"request_rate": self.rate if np.isfinite(self.rate) else "inf"}
        clients = {} if self.concurrency is None else {"concurrency": self.concurrency}
        requests = [asdict(record) for record in self.records]
        return {**rate, **clients, **self.figures, "requests": requests, "steps": asdict(self.load)}


def main() -> int:
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's own warnings are not for the user of a script
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measured = parser.add_mutually_exclusive_group(required=True)
    measured.add_argument("--config", type=Path, metavar="FILE", help="YAML of the model")
    measured.add_argument("--base-url", metavar="URL", help="a server, without the /v1 of its paths")
    parser.add_argument(
        "--request-rate", type=float, nargs="+", default=[], metavar="PER_SECOND", help="default 1; inf is allowed"
    )
    parser.add_argument("--num-requests", type=int, default=32, metavar="N", help="of each rate (default 32)")
    parser.add_argument("--prompt-len", default="uniform:32:256", metavar="LENGTHS", help="default uniform:32:256")
    parser.add_argument("--output-len", default="uniform:16:128", metavar="LENGTHS", help="default uniform:16:128")
    parser.add_argument("--goodput", nargs="+", default=[], metavar="NAME:MS", help="limits of a good request")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of arrivals, lengths and tokens (default 0)")
    parser.add_argument("--output", type=Path, required=True, metavar="STEM", help="files to write, without endings")
    parser.add_argument("--set", dest="overrides", nargs="+", action="extend", default=[], metavar="section.key=value")
    http = parser.add_argument_group("with --base-url")
    http.add_argument("--concurrency", type=int, nargs="+", default=[], metavar="N", help="clients, in place of a rate")
    http.add_argument("--model", default="", metavar="NAME", help="default: the first that the server lists")
    http.add_argument("--api", choices=(CHAT, COMPLETIONS), default=CHAT, help="default chat")
    http.add_argument("--api-key-file", type=Path, metavar="FILE", help="its first line is the key")
    http.add_argument("--shared-prefix-len", type=int, default=0, metavar="N", help="words of one common system text")
    http.add_argument(
        "--turns", type=int, default=1, metavar="N", help="requests of a conversation, each with all before"
    )
    http.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="of a request (default 600)")
    arguments = parser.parse_args()
    return exit_code_of(lambda: bench(arguments))


def bench(arguments: argparse.Namespace) -> None:
    require_at_least(arguments, 1, "num_requests", "concurrency", "turns")
    require_at_least(arguments, 0, "seed", "shared_prefix_len")
    for rate in arguments.request_rate:
        if not rate > 0:
            raise ConfigError(f"--request-rate is {rate}; it must be above 0")
    if not arguments.timeout > 0:
        raise ConfigError(f"--timeout is {arguments.timeout}; it must be above 0")
    if arguments.request_rate and arguments.concurrency:
        raise ConfigError("--request-rate and --concurrency are given; one of them says when requests come")
    prompts = parse_lengths(arguments.prompt_len, "--prompt-len")
    outputs = parse_lengths(arguments.output_len, "--output-len")
    limits = parse_limits(arguments.goodput, "--goodput")
    stem = output_stem(arguments.output, "bench_serving")
    if arguments.base_url is None:
        _refuse_flags_of_http(arguments)
        runs = list(run_engine(arguments, prompts, outputs, limits))
    else:
        if arguments.overrides:
            raise ConfigError("--set is for --config: a server has its own configuration")
        runs = list(run_server(arguments, prompts, outputs, limits))
    table = markdown(runs)
    print(table)
    data = {
        "base_url": arguments.base_url,
        "prompt_len": arguments.prompt_len,
        "output_len": arguments.output_len,
        "shared_prefix_len": arguments.shared_prefix_len,
        "turns": arguments.turns,
        "goodput": arguments.goodput,
        "seed": arguments.seed,
        "runs": [run.plain() for run in runs],
    }
    write_results(stem, data, table, lambda panels: draw(panels, runs), panels=3)
    for run in runs:
        _warn(run)


def _refuse_flags_of_http(arguments: argparse.Namespace) -> None:
    given = {
        "--concurrency": arguments.concurrency,
        "--model": arguments.model,
        "--api": arguments.api != CHAT,
        "--api-key-file": arguments.api_key_file,
        "--shared-prefix-len": arguments.shared_prefix_len,
        "--turns": arguments.turns > 1,
    }
    for flag, is_given in given.items():
        if is_given:
            raise ConfigError(f"{flag} is for --base-url")


def _rates(arguments: argparse.Namespace) -> list[float]:
    return list(dict.fromkeys(arguments.request_rate or [1.0]))


def run_engine(
    arguments: argparse.Namespace, prompts: Lengths, outputs: Lengths, limits: Sequence[Limit]
) -> Iterator[Run]:
    """Each rate on an engine in this process."""
    config = load_config(arguments.config, arguments.overrides)

    from mindspore_paged.llm import LLM  # takes seconds: --help and bad input do not wait for it

    with LLM(config, show_progress=sys.stderr.isatty()) as llm:
        model = llm.engine.limits

        def draw_run(rate: float, count: int, run: int) -> list:
            shape = (prompts, outputs, model.vocab_size, model.max_model_len)
            return draw_arrivals(rate, count, *shape, arguments.seed, run)

        rates = _rates(arguments)
        drawn_of_rates = [draw_run(rate, arguments.num_requests, run) for run, rate in enumerate(rates)]
        serve(llm, draw_run(np.inf, 1, len(rates)))  # threads and pages are awake then
        for rate, drawn in zip(rates, drawn_of_rates, strict=True):
            with _bar(f"rate {rate:g}", len(drawn)) as bar:
                records, load = serve(llm, drawn, on_finished=bar.update)
            yield Run(rate, None, records, load, summary(records, load, limits))


def run_server(
    arguments: argparse.Namespace, prompts: Lengths, outputs: Lengths, limits: Sequence[Limit]
) -> Iterator[Run]:
    """Each rate, or number of clients, on a server."""
    key = _key_in(arguments.api_key_file) if arguments.api_key_file else None
    url = arguments.base_url.rstrip("/").removesuffix("/v1")
    server = Server(url, arguments.model, arguments.api, key, arguments.timeout).find_model()

    def draw_run(rate: float | None, count: int, run: int) -> list:
        shape = {"num_turns": arguments.turns, "shared_prefix_len": arguments.shared_prefix_len}
        return draw_conversations(rate or np.inf, count, prompts, outputs, arguments.seed, run, **shape)

    paces = [(None, clients) for clients in dict.fromkeys(arguments.concurrency)]
    paces = paces or [(rate, None) for rate in _rates(arguments)]
    server.measure(draw_run(None, 1, len(paces)), 1)  # whatever the first request wakes
    for run, (rate, clients) in enumerate(paces):
        drawn = draw_run(rate, arguments.num_requests, run)
        with _bar(f"rate {rate:g}" if clients is None else f"{clients} clients", len(drawn) * arguments.turns) as bar:
            first = None
            if arguments.shared_prefix_len:  # the one that finds nothing of the common text
                first = server.measure(drawn[:1], 1, bar.update)
            served = server.measure(drawn[bool(first) :], clients, bar.update)
        figures = summary(served.records, served.load, limits) | served_figures(served, first)
        yield Run(rate, clients, served.records, served.load, figures)


def _key_in(path: Path) -> str:
    try:
        return read_bounded(path, MOST_KEY_BYTES).decode().split("\n", 1)[0].strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--api-key-file {path}: cannot read a key: {error}") from None


def _bar(name: str, total: int) -> tqdm:
    return tqdm(total=total, desc=name, unit="request", leave=False, disable=None)


def _warn(run: Run) -> None:
    """Tell what makes figures mean something else than they seem to."""
    errors = [record.error for record in run.records if record.error is not None]
    if errors:
        print(f"warning: {run.name}: {len(errors)} requests failed; the first: {errors[0]}", file=sys.stderr)
    if run.figures.get("num_short"):
        count = run.figures["num_short"]
        print(f"warning: {run.name}: {count} answers are shorter than asked: is ignore_eos unknown?", file=sys.stderr)


def markdown(runs: list[Run]) -> str:
    by_http = "client_cpu_share" in runs[0].figures
    header = ["clients" if runs[0].rate is None else "requests/s", "failed", "served/s", "tokens/s", "running"]
    header += ["client's CPU"] if by_http else ["most waiting"]
    has_goodput = any("goodput_per_second" in run.figures for run in runs)
    header += ["goodput/s"] * has_goodput
    names = [name for name in ("queued", "ttft", "tpot", "itl", "latency") if name != "queued" or not by_http]
    header += [f"{name.upper() if len(name) < 5 else name} ms P50 / P99" for name in names]
    first = any("first_ttft_ms" in run.figures for run in runs)
    header += ["first TTFT ms"] * first
    turns = max(len(run.figures.get("ttft_ms_p50_by_turn", ())) for run in runs)
    header += [f"TTFT ms P50 of turn {turn}" for turn in range(1, turns + 1)] * (turns > 1)
    rows = []
    for run in runs:
        figures = run.figures
        row = [f"{run.rate:g}" if run.concurrency is None else run.concurrency, figures["num_failed"]]
        if "seconds" in figures:
            row += [f"{figures['requests_per_second']:.2f}", f"{figures['output_tokens_per_second']:.1f}"]
            row += [f"{figures['mean_running']:.1f}"]
            row += [f"{figures['client_cpu_share']:.0%}" if by_http else figures["most_waiting"]]
            row += [f"{figures['goodput_per_second']:.2f}"] if has_goodput else []
            row += [f"{_ms(figures[f'{name}_ms_p50'])} / {_ms(figures[f'{name}_ms_p99'])}" for name in names]
            row += [_ms(figures["first_ttft_ms"])] if first else []
            row += [_ms(value) for value in figures["ttft_ms_p50_by_turn"]] if turns > 1 else []
        rows.append(row + ["-"] * (len(header) - len(row)))
    return markdown_table(header, rows)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def draw(panels, runs: list[Run]) -> None:
    """Distributions of TTFT and ITL, and how many requests ran (full lines) and waited (dotted) over time."""
    for place, run in enumerate(runs):
        color = f"C{place % 10}"
        good = [record for record in run.records if record.error is None and record.token_times]
        gaps = np.concatenate([record.gaps for record in good]) if good else np.zeros(0)
        for panel, values in zip(panels, (np.array([record.ttft for record in good]), gaps), strict=False):
            if values.size:
                panel.ecdf(1e3 * values, color=color, label=run.name)
        panels[2].plot(run.load.times, run.load.running, color=color, linewidth=1)
        if run.load.waiting:
            panels[2].plot(run.load.times, run.load.waiting, color=color, linewidth=1, linestyle=":")
    for panel, title in zip(panels, ("time to first token", "inter-token latency"), strict=False):
        panel.set(title=title, xlabel="ms", ylabel="share of all", ylim=(0, 1))
        panel.axhline(0.5, color="grey", linewidth=0.5)
        panel.axhline(0.99, color="grey", linewidth=0.5)
    panels[2].set(title="requests that run, and wait (dotted)", xlabel="seconds")
    if panels[0].get_legend_handles_labels()[0]:
        panels[0].legend(fontsize=8)


if __name__ == "__main__":
    sys.exit(kept(main))
