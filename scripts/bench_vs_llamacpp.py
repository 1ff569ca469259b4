"""Measure decode and prefill against llama.cpp on the same file, machine and threads, in turn; --help."""

import argparse
import json
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tqdm import tqdm

from mindspore_paged.benchmarking.decode import decode_config, measure_decode, measure_prefill
from mindspore_paged.benchmarking.llamacpp import CACHE_TYPES, LlamaTools
from mindspore_paged.benchmarking.report import draw_bars, markdown_table, output_stem, require_at_least, write_results
from mindspore_paged.config import EngineConfig
from mindspore_paged.errors import ConfigError
from mindspore_paged.launch.keeper import kept
from mindspore_paged.script import exit_code_of

WEIGHT_DTYPES = {"F32": "float32", "BF16": "bfloat16", "Q8_0": "int8", "Q4_1": "stored"} | dict.fromkeys(
    ("Q4_0", "Q5_0", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS"), "stored"
)
"""How we keep the weights of a file of each precision: model.weight_dtype."""
PRECISIONS = ["F32", "BF16", "Q8_0", "Q4_1"]
"""Those that are measured unless others are named."""
MOST_IDLE_SHARE = 0.02
"""Of a core that our process may take while llama.cpp runs; more would be threads that spin."""

DESCRIPTION = f"""Measure this engine against llama.cpp, pair by pair: ours, llama.cpp, llama.cpp, ours, … and report
the median of the pairs' ratios (ours / llama.cpp; above 1 we are faster), for weights of every precision.

decode    tokens/s of --steps decode steps from --context tokens on, for every batch: llama-batched-bench's S_TG.
          Ours includes sampling, theirs does not sample.
prefill   tokens/s of one prompt of --prefill tokens: llama-bench's pp.

Both read the same GGUF file, use --threads threads and pages of --kv-cache-dtype. The files are made from --model by
llama-quantize, once, and kept in --models. Our engines stay loaded, one for each precision, and must be idle while
llama.cpp runs: the share of a core that they take meanwhile is measured, and more than {MOST_IDLE_SHARE:.0%} is
reported. We keep the weights of each file as model.weight_dtype:
{", ".join(f"{precision} {kept}" for precision, kept in WEIGHT_DTYPES.items())};
--weight-dtype changes that."""
EPILOG = """example:
  cmake -S llama.cpp -B build -DGGML_NATIVE=ON -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF
  cmake --build build --target llama-quantize llama-batched-bench llama-bench
  bench_vs_llamacpp.py --llama-bin build/bin --batches 1,8,32 --rounds 5 --output results

writes results.json, results.md and results.png (a folder as --output gets bench_vs_llamacpp.json, …)"""


@dataclass
class Case:
    """One precision: its file, our configuration for it, and the rates of both sides, round by round."""

    precision: str
    weight_dtype: str
    file: Path
    config: EngineConfig
    ours: dict[str, list[float]] = field(default_factory=dict)
    theirs: dict[str, list[float]] = field(default_factory=dict)


def main() -> int:
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's own warnings are not for the user of a script
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llama-bin", type=Path, required=True, metavar="DIR", help="folder of llama.cpp's programs")
    parser.add_argument("--model", type=Path, metavar="GGUF", help="any precision; default: the demo model")
    parser.add_argument(
        "--models", type=Path, metavar="DIR", help="where files are made; default: beside the demo model"
    )
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=list(WEIGHT_DTYPES))
    parser.add_argument(
        "--weight-dtype", nargs="+", default=[], metavar="PRECISION=VALUE", help="Q8_0=stored, say; see above"
    )
    parser.add_argument("--batches", type=_numbers, default=[1, 8, 32], metavar="ROWS", help="default 1,8,32")
    parser.add_argument("--context", type=int, default=128, metavar="TOKENS", help="before decoding (default 128)")
    parser.add_argument("--steps", type=int, default=64, metavar="N", help="decode steps (default 64)")
    parser.add_argument("--prefill", type=int, default=512, metavar="TOKENS", help="prompt to time (default 512)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="pairs of each precision (default 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="default: all cores")
    parser.add_argument("--kv-cache-dtype", choices=list(CACHE_TYPES), default="float16", help="default float16")
    parser.add_argument("--output", type=Path, required=True, metavar="STEM", help="files to write, without endings")
    parser.add_argument("--set", dest="overrides", nargs="+", action="extend", default=[], metavar="section.key=value")
    arguments = parser.parse_args()
    # Before anything loads OpenMP: it reads this once.
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    return exit_code_of(lambda: bench(arguments))


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def bench(arguments: argparse.Namespace) -> None:
    require_at_least(arguments, 1, "batches", "context", "steps", "prefill", "rounds", "threads")
    stem = output_stem(arguments.output, "bench_vs_llamacpp")
    tools = LlamaTools(arguments.llama_bin, arguments.threads, arguments.kv_cache_dtype)
    cases = make_cases(arguments, tools)
    idle_share = _measure(cases, tools, arguments)
    figures = [figures_of(case) for case in cases]
    table = markdown(figures)
    print(table)
    data = {
        "threads": arguments.threads,
        "context": arguments.context,
        "steps": arguments.steps,
        "prefill_tokens": arguments.prefill,
        "kv_cache_dtype": arguments.kv_cache_dtype,
        "our_share_of_a_core_while_llama_runs": idle_share,
        "precisions": figures,
    }
    write_results(stem, data, table, lambda panels: draw(panels, figures), panels=1)
    if idle_share > MOST_IDLE_SHARE:
        print(f"warning: ours took {idle_share:.0%} of a core while llama.cpp ran, which slowed it", file=sys.stderr)


def make_cases(arguments: argparse.Namespace, tools: LlamaTools) -> list[Case]:
    """Every precision with its file, made where it is not there yet; raises ConfigError before that for bad flags."""
    weight_dtypes = WEIGHT_DTYPES | _chosen_dtypes(arguments.weight_dtype)
    model = arguments.model or _demo_model()
    if not model.is_file():
        raise ConfigError(f"--model {model}: no such file")
    folder = arguments.models or model.parent
    folder.mkdir(parents=True, exist_ok=True)
    plans = []
    for precision in dict.fromkeys(arguments.precisions):
        file = model if model.stem.upper().endswith(precision) else folder / f"{_base(model)}.{precision}.gguf"
        overrides = [
            f"model.weights={json.dumps(str(file))}",  # quoted: a path may hold what means something in YAML
            f"cache.kv_cache_dtype={arguments.kv_cache_dtype}",
            f"model.weight_dtype={weight_dtypes[precision]}",
            *arguments.overrides,
        ]
        batches = list(dict.fromkeys(arguments.batches))
        config = decode_config(None, overrides, batches, [arguments.context], arguments.steps, arguments.prefill)
        plans.append(Case(precision, weight_dtypes[precision], file, config))
    for case in plans:
        # A file older than its source is of another model.
        if not case.file.is_file() or case.file.stat().st_mtime < model.stat().st_mtime:
            print(f"making {case.file}", file=sys.stderr)
            tools.quantize(model, case.file, case.precision)
    return plans


def _chosen_dtypes(texts: list[str]) -> dict[str, str]:
    chosen = {}
    for text in texts:
        precision, equals, value = text.partition("=")
        if not equals or not value or precision not in WEIGHT_DTYPES:
            raise ConfigError(f"--weight-dtype {text!r} must look like PRECISION=VALUE; of {', '.join(WEIGHT_DTYPES)}")
        chosen[precision] = value
    return chosen


def _demo_model() -> Path:
    from mindspore_paged.weights.demo_model import fetch_demo_model

    return fetch_demo_model(report=lambda line: print(line, file=sys.stderr))


def _base(model: Path) -> str:
    """The file's name without ending and precision: model.Q4_1.gguf is `model`."""
    stem, _, last = model.stem.rpartition(".")
    return stem if stem and last.upper().startswith(("F16", "F32", "BF16", "Q")) else model.stem


def _measure(cases: list[Case], tools: LlamaTools, arguments: argparse.Namespace) -> float:
    """Fill the cases; returns the share of a core that this process took while llama.cpp's ran."""
    from mindspore_paged.llm import LLM  # takes seconds: --help and bad input do not wait for it

    batches = list(dict.fromkeys(arguments.batches))
    busy = waited = 0.0
    with ExitStack() as stack, tqdm(total=arguments.rounds * len(cases), unit="pair", leave=False, disable=None) as bar:
        engines = [stack.enter_context(LLM(case.config, show_progress=sys.stderr.isatty())) for case in cases]
        for llm in engines:  # threads, pages and the file cache are awake then
            measure_prefill(llm, arguments.prefill, arguments.rounds)
            measure_decode(llm, min(batches), arguments.context, 2, arguments.rounds)
        for place in range(arguments.rounds):
            for case, llm in zip(cases, engines, strict=True):
                bar.set_description(case.precision)

                def run_ours(case=case, llm=llm, place=place) -> None:
                    for batch in batches:
                        times = measure_decode(llm, batch, arguments.context, arguments.steps, place)
                        case.ours.setdefault(f"batch {batch}", []).append(times.tokens_per_second)
                    rate = measure_prefill(llm, arguments.prefill, place)
                    case.ours.setdefault("prefill", []).append(rate)

                def run_theirs(case=case) -> None:
                    nonlocal busy, waited
                    cpu, wall = time.process_time(), time.perf_counter()
                    rates = tools.decode_rates(case.file, batches, arguments.context, arguments.steps)
                    prefill = tools.prefill_rate(case.file, arguments.prefill)
                    busy, waited = busy + time.process_time() - cpu, waited + time.perf_counter() - wall
                    for batch, rate in rates.items():
                        case.theirs.setdefault(f"batch {batch}", []).append(rate)
                    case.theirs.setdefault("prefill", []).append(prefill)

                # The one that goes first changes: whatever a turn leaves behind then meets both.
                for run in (run_ours, run_theirs) if place % 2 == 0 else (run_theirs, run_ours):
                    run()
                bar.update()
    return busy / waited


def figures_of(case: Case) -> dict:
    """One precision's medians over the rounds, and the median of the rounds' ratios."""
    results = {}
    for name, ours in case.ours.items():
        theirs = case.theirs[name]
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        results[name] = {
            "ours": median(ours),
            "llama_cpp": median(theirs),
            "ratio": median(ratios),
            "ratios": ratios,
            "rounds_ours": ours,
            "rounds_llama_cpp": theirs,
        }
    return {"precision": case.precision, "weight_dtype": case.weight_dtype, "file": case.file.name, "results": results}


def markdown(figures: list[dict]) -> str:
    rows = [
        [
            precision["precision"],
            precision["weight_dtype"],
            name,
            f"{result['ours']:.1f}",
            f"{result['llama_cpp']:.1f}",
            f"{result['ratio']:.2f}",
            f"{min(result['ratios']):.2f} to {max(result['ratios']):.2f}",
        ]
        for precision in figures
        for name, result in precision["results"].items()
    ]
    return markdown_table(["weights", "kept as", "what", "ours, tokens/s", "llama.cpp", "ratio", "of all pairs"], rows)


def draw(panels, figures: list[dict]) -> None:
    names = list(figures[0]["results"])
    series = {f["precision"]: [f["results"][name]["ratio"] for name in names] for f in figures}
    draw_bars(panels[0], names, series, "{:.2f}")
    panels[0].axhline(1, color="black", linewidth=0.8)
    panels[0].set(title="tokens/s, ours / llama.cpp")
    panels[0].legend()


if __name__ == "__main__":
    sys.exit(kept(main))
