"""Measure our server against llama.cpp's on the same file, machine and threads, in turn, by HTTP; --help."""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from tqdm import tqdm

from mindspore_paged.benchmarking.conversations import draw_conversations
from mindspore_paged.benchmarking.http_load import Server, served_figures
from mindspore_paged.benchmarking.lengths import HELP as LENGTHS_HELP
from mindspore_paged.benchmarking.lengths import Lengths, parse_lengths
from mindspore_paged.benchmarking.llamacpp import CACHE_TYPES
from mindspore_paged.benchmarking.report import draw_bars, markdown_table, output_stem, require_at_least, write_results
from mindspore_paged.benchmarking.server_process import ServerProcess
from mindspore_paged.benchmarking.serving import summary
from mindspore_paged.errors import ConfigError
from mindspore_paged.launch.keeper import kept
from mindspore_paged.launch.ports import free_ports
from mindspore_paged.script import exit_code_of

ROOT = Path(__file__).parent.parent
OURS, THEIRS = "ours", "llama-server"
FIGURES = ("output_tokens_per_second", "ttft_ms_p50", "ttft_ms_p99", "tpot_ms_p50", "client_cpu_share")
PREFIX_FIGURES = ("first_ttft_ms", "ttft_ms_p50")
NUM_WARM_UP = 2

DESCRIPTION = f"""Measure run_server.py against llama-server, pair by pair: ours, llama-server, llama-server, ours, …,
one of them running at a time, and report medians and the median of the pairs' ratios (ours / llama-server).

Each is asked by so many clients at once, each of whom asks again as soon as it has its answer, for chats of random
words whose answers all reach their length; then, if --shared-prefix-len is above 0, by one client for chats that begin
alike: the TTFT of the first, which finds nothing of the beginning, and the median of the others'.

Both have --threads threads, rows for the largest --concurrency, and --kv-cache-dtype pages. The load generator takes
its part of the same cores: its share of one is told.

{LENGTHS_HELP}"""
EPILOG = """example:
  cmake -S llama.cpp -B build -DGGML_NATIVE=ON -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF
  cmake --build build --target llama-server
  bench_vs_llama_server.py --llama-server build/bin/llama-server --models model.Q8_0.gguf --output results

writes results.json, results.md and results.png (a folder as --output gets bench_vs_llama_server.json, …)"""


@dataclass(frozen=True)
class Load:
    """What every server is asked. tokens_of_row: that one conversation may have."""

    prompts: Lengths
    outputs: Lengths
    concurrency: Sequence[int]
    requests_per_client: int
    shared_prefix_len: int
    num_shared: int
    tokens_of_row: int


@dataclass
class Case:
    """A file, and the figures of both sides: by side, then by load and figure, a number for each round."""

    file: Path
    figures: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)

    def add(self, side: str, load: str, figures: dict[str, float]) -> None:
        """Figures of one round."""
        into = self.figures.setdefault(side, {}).setdefault(load, {})
        for name, value in figures.items():
            into.setdefault(name, []).append(value)

    def ratios(self, load: str, name: str) -> list[float]:
        """Ours / theirs, round by round."""
        ours, theirs = (self.figures[side][load][name] for side in (OURS, THEIRS))
        return [a / b for a, b in zip(ours, theirs, strict=True)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llama-server", type=Path, required=True, metavar="PROGRAM")
    parser.add_argument("--models", type=Path, nargs="+", required=True, metavar="GGUF")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[8, 32], metavar="N", help="default 8 32")
    parser.add_argument("--requests-per-client", type=int, default=3, metavar="N", help="in a round (default 3)")
    parser.add_argument("--prompt-len", default="uniform:64:192", metavar="LENGTHS", help="default uniform:64:192")
    parser.add_argument("--output-len", default="uniform:64:128", metavar="LENGTHS", help="default uniform:64:128")
    parser.add_argument("--shared-prefix-len", type=int, default=1000, metavar="N", help="words (default 1000)")
    parser.add_argument("--num-shared", type=int, default=6, metavar="N", help="chats that begin alike (default 6)")
    parser.add_argument("--max-model-len", type=int, default=1536, metavar="N", help="of a chat (default 1536)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="pairs for each file (default 3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="default: all cores")
    parser.add_argument("--kv-cache-dtype", choices=list(CACHE_TYPES), default="float16", help="default float16")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of lengths and words (default 0)")
    parser.add_argument("--output", type=Path, required=True, metavar="STEM", help="files to write, without endings")
    parser.add_argument("--set", dest="overrides", nargs="+", action="extend", default=[], metavar="section.key=value")
    arguments = parser.parse_args()
    return exit_code_of(lambda: bench(arguments))


def bench(arguments: argparse.Namespace) -> None:
    require_at_least(arguments, 1, "concurrency", "requests_per_client", "max_model_len", "rounds", "threads")
    require_at_least(arguments, 2, "num_shared")
    require_at_least(arguments, 0, "seed", "shared_prefix_len")
    load = Load(
        parse_lengths(arguments.prompt_len, "--prompt-len"),
        parse_lengths(arguments.output_len, "--output-len"),
        list(dict.fromkeys(arguments.concurrency)),
        arguments.requests_per_client,
        arguments.shared_prefix_len,
        arguments.num_shared,
        arguments.max_model_len,
    )
    stem = output_stem(arguments.output, "bench_vs_llama_server")
    if not os.access(arguments.llama_server, os.X_OK) or arguments.llama_server.is_dir():
        raise ConfigError(f"--llama-server {arguments.llama_server}: no such program")
    for file in arguments.models:
        if not file.is_file():
            raise ConfigError(f"--models {file}: no such file")
    cases = [Case(file.resolve()) for file in arguments.models]
    with tqdm(total=2 * arguments.rounds * len(cases), unit="server", leave=False, disable=None) as bar:
        for place in range(arguments.rounds):
            for case in cases:
                # The one that goes first changes: whatever a turn leaves behind then meets both.
                for side in (OURS, THEIRS) if place % 2 == 0 else (THEIRS, OURS):
                    bar.set_description(f"{case.file.name}, {side}")
                    measure(case, side, load, arguments, place)
                    bar.update()
    table = markdown(cases)
    print(table)
    data = {
        "threads": arguments.threads,
        "prompt_len": arguments.prompt_len,
        "output_len": arguments.output_len,
        "shared_prefix_len": arguments.shared_prefix_len,
        "kv_cache_dtype": arguments.kv_cache_dtype,
        "models": [{"file": case.file.name, "figures": case.figures} for case in cases],
    }
    write_results(stem, data, table, lambda panels: draw(panels, cases), panels=1)


def measure(case: Case, side: str, load: Load, arguments: argparse.Namespace, place: int) -> None:
    """One side's turn: its server is started, asked everything, and ended."""
    (port,) = free_ports(1)
    rows = max(load.concurrency)
    if side == OURS:
        command = [sys.executable, ROOT / "scripts" / "run_server.py", "--port", port, "--weights", case.file]
        command += ["--set", f"cache.kv_cache_dtype={arguments.kv_cache_dtype}", f"scheduler.max_num_seqs={rows}"]
        command += [f"scheduler.max_model_len={load.tokens_of_row}", *arguments.overrides]
    else:
        command = [arguments.llama_server, "--port", port, "-m", case.file, "-np", rows]
        command += ["-c", rows * load.tokens_of_row, "-t", arguments.threads, "-tb", arguments.threads, "-ngl", 0]
        command += ["-ctk", CACHE_TYPES[arguments.kv_cache_dtype], "-ctv", CACHE_TYPES[arguments.kv_cache_dtype]]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        environment = {"OMP_NUM_THREADS": str(arguments.threads)}
        url = f"http://127.0.0.1:{port}"
        with ServerProcess(command, url, Path(folder) / "log", environment=environment) as process:
            server = Server(process.base_url, "").find_model()

            def ask(count: int, run: int, clients: int, shared_prefix_len: int = 0):
                shape = (np.inf, count, load.prompts, load.outputs, arguments.seed, 100 * place + run)
                drawn = draw_conversations(*shape, shared_prefix_len=shared_prefix_len)
                first = server.measure(drawn[:1], 1) if shared_prefix_len else None
                served = server.measure(drawn[bool(first) :], clients)
                _require_whole(served.records, side, process.log)
                return summary(served.records, served.load) | served_figures(served, first)

            ask(NUM_WARM_UP, 0, NUM_WARM_UP)
            for run, clients in enumerate(load.concurrency, 1):
                figures = ask(clients * load.requests_per_client, run, clients)
                case.add(side, f"{clients} clients", {name: figures[name] for name in FIGURES})
                told = ", ".join(f"{name} {figures[name]:.4g}" for name in FIGURES)
                tqdm.write(f"{case.file.name}, {side}, {clients} clients: {told}", file=sys.stderr)
            if load.shared_prefix_len:
                figures = ask(load.num_shared, len(load.concurrency) + 1, 1, load.shared_prefix_len)
                case.add(side, "shared prefix", {name: figures[name] for name in PREFIX_FIGURES})
                told = ", ".join(f"{name} {figures[name]:.4g}" for name in PREFIX_FIGURES)
                tqdm.write(f"{case.file.name}, {side}, shared prefix: {told}", file=sys.stderr)


def _require_whole(records: Sequence, side: str, log: Path) -> None:
    for record in records:
        if record.error is not None or record.num_output < record.num_asked:
            what = record.error or f"an answer has {record.num_output} tokens of {record.num_asked}"
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise ConfigError(f"{side}: {what}; its last line: {' '.join(last)}")


def markdown(cases: list[Case]) -> str:
    rows = []
    for case in cases:
        for load, figures in case.figures[OURS].items():
            for name in figures:
                ratios = case.ratios(load, name)
                row = [case.file.name, load, name]
                row += [f"{median(case.figures[side][load][name]):.4g}" for side in (OURS, THEIRS)]
                rows.append([*row, f"{median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"])
    return markdown_table(["file", "load", "what", OURS, THEIRS, "ratio", "of all pairs"], rows)


def draw(panels, cases: list[Case]) -> None:
    loads = [load for load, figures in cases[0].figures[OURS].items() if "output_tokens_per_second" in figures]
    series = {
        case.file.name: [median(case.ratios(load, "output_tokens_per_second")) for load in loads] for case in cases
    }
    draw_bars(panels[0], loads, series, "{:.2f}")
    panels[0].axhline(1, color="black", linewidth=0.8)
    panels[0].set(title=f"output tokens/s, {OURS} / {THEIRS}")
    panels[0].legend(fontsize=8)


if __name__ == "__main__":
    sys.exit(kept(main))
