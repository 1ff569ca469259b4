"""Measure decode and prefill rates by batch, context and variant of the configuration; --help."""

import argparse
import os
import re
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tqdm import tqdm

from mindspore_paged.benchmarking.decode import decode_config, measure_decode, measure_prefill
from mindspore_paged.benchmarking.report import (
    draw_bars,
    markdown_table,
    output_stem,
    percentile,
    require_at_least,
    write_results,
)
from mindspore_paged.config import EngineConfig
from mindspore_paged.errors import ConfigError
from mindspore_paged.launch.keeper import kept
from mindspore_paged.script import exit_code_of

DESCRIPTION = """Measure how fast the engine decodes and prefills, on random tokens.

decode    all rows of a batch stand at the same context, which is computed before and not measured; then --steps steps
          of one token a row are timed, sampling included. tokens/s is all tokens over all the time; step ms is P50.
prefill   one prompt of --prefill tokens that no cache knows, to its first token.

A variant is the configuration with keys of its own; several are measured in turn, --rounds times each, and compared
with the first: the ratio is the median over rounds of the rates of one round, which other work on the machine spoils
less than the rates themselves. All variants are kept loaded meanwhile; --one-at-a-time loads one after the other."""
EPILOG = """examples:
  bench_decode.py --config configs/smollm2_135m.yaml --batches 1 8 32 --contexts 128 1024 --output results
  bench_decode.py --config configs/smollm2_135m.yaml --output results \\
    --variant float32:cache.kv_cache_dtype=float32 --variant float16:cache.kv_cache_dtype=float16

writes results.json, results.md and results.png (a folder as --output gets bench_decode.json, …)"""


@dataclass
class Variant:
    """A configuration by its name, and what was measured of it: in each round, and for each batch and context."""

    name: str
    config: EngineConfig
    prefill: list[float] = field(default_factory=list)
    decode: dict[tuple[int, int], list] = field(default_factory=dict)


def main() -> int:
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's own warnings are not for the user of a script
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML of the model")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], metavar="ROWS", help="default 1 8")
    parser.add_argument(
        "--contexts", type=int, nargs="+", default=[128, 1024], metavar="TOKENS", help="default 128 1024"
    )
    parser.add_argument("--steps", type=int, default=32, metavar="N", help="decode steps of a round (default 32)")
    parser.add_argument("--prefill", type=int, default=512, metavar="TOKENS", help="prompt to time (default 512)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="times each is measured (default 3)")
    parser.add_argument(
        "--variant",
        dest="variants",
        action="append",
        metavar="NAME:section.key=value,…",
        help="may be repeated; without it, the configuration as it is",
    )
    parser.add_argument("--one-at-a-time", action="store_true", help="keep one variant in memory, not all")
    parser.add_argument("--output", type=Path, required=True, metavar="STEM", help="files to write, without endings")
    parser.add_argument("--set", dest="overrides", nargs="+", action="extend", default=[], metavar="section.key=value")
    arguments = parser.parse_args()
    return exit_code_of(lambda: bench(arguments))


def bench(arguments: argparse.Namespace) -> None:
    require_at_least(arguments, 1, "batches", "contexts", "steps", "prefill", "rounds")
    stem = output_stem(arguments.output, "bench_decode")
    variants = [_variant(text, arguments) for text in arguments.variants or ["as configured:"]]
    if len({variant.name for variant in variants}) < len(variants):
        raise ConfigError("--variant: two have the same name")
    groups = [[variant] for variant in variants] if arguments.one_at_a_time else [variants]
    cases = [
        (context, batch) for context in dict.fromkeys(arguments.contexts) for batch in dict.fromkeys(arguments.batches)
    ]
    with tqdm(total=len(variants) * arguments.rounds * (len(cases) + 1), unit="run", leave=False, disable=None) as bar:
        for group in groups:
            _measure(group, cases, arguments, bar)
    figures = [figures_of(variant, variants[0], cases) for variant in variants]
    table = markdown(figures)
    print(table)
    data = {"steps": arguments.steps, "prefill_tokens": arguments.prefill, "variants": figures}
    write_results(stem, data, table, lambda panels: draw(panels, figures, cases))


def _variant(text: str, arguments: argparse.Namespace) -> Variant:
    name, colon, keys = text.partition(":")
    if not colon or not name:
        raise ConfigError(f"--variant {text!r} must look like NAME:section.key=value,section.key=value")
    # A comma inside a value, as in [1,8], is not followed by a key.
    overrides = [part for part in re.split(r",(?=\w+(?:\.\w+)+=)", keys) if part]
    config = decode_config(
        arguments.config,
        [*arguments.overrides, *overrides],
        arguments.batches,
        arguments.contexts,
        arguments.steps,
        arguments.prefill,
    )
    return Variant(name, config)


def _measure(variants: list[Variant], cases: list, arguments: argparse.Namespace, bar: tqdm) -> None:
    from mindspore_paged.llm import LLM  # takes seconds: --help and bad input do not wait for it

    with ExitStack() as stack:
        engines = []
        for variant in variants:
            bar.set_description(f"loading {variant.name}")
            engines.append(stack.enter_context(LLM(variant.config, show_progress=sys.stderr.isatty())))
        for seed in range(arguments.rounds):
            for variant, llm in zip(variants, engines, strict=True):
                bar.set_description(f"{variant.name} prefill")
                variant.prefill.append(measure_prefill(llm, arguments.prefill, seed))
                bar.update()
            for context, batch in cases:
                for variant, llm in zip(variants, engines, strict=True):
                    bar.set_description(f"{variant.name} batch {batch} context {context}")
                    times = measure_decode(llm, batch, context, arguments.steps, seed)
                    variant.decode.setdefault((context, batch), []).append(times)
                    bar.update()


def figures_of(variant: Variant, first: Variant, cases: list[tuple[int, int]]) -> dict:
    """One variant's medians over the rounds, and their ratios to the first variant's."""

    def ratio(ours: list[float], theirs: list[float]) -> float:
        return median(a / b for a, b in zip(ours, theirs, strict=True))

    decode = []
    for context, batch in cases:
        rates, base = ([times.tokens_per_second for times in v.decode[context, batch]] for v in (variant, first))
        steps = [second for times in variant.decode[context, batch] for second in times.seconds]
        decode.append(
            {
                "context": context,
                "batch": batch,
                "tokens_per_second": median(rates),
                "step_ms_p50": 1e3 * percentile(steps, 50),
                "step_ms_p99": 1e3 * percentile(steps, 99),
                "ratio": ratio(rates, base),
                "rounds": rates,
            }
        )
    return {
        "name": variant.name,
        "prefill_tokens_per_second": median(variant.prefill),
        "prefill_ratio": ratio(variant.prefill, first.prefill),
        "decode": decode,
    }


def markdown(figures: list[dict]) -> str:
    rows = []
    for variant in figures:
        for case in variant["decode"]:
            rows.append(
                [
                    variant["name"],
                    case["context"],
                    case["batch"],
                    f"{case['tokens_per_second']:.1f}",
                    f"{case['step_ms_p50']:.2f}",
                    f"{case['ratio']:.2f}",
                    f"{variant['prefill_tokens_per_second']:.0f}",
                    f"{variant['prefill_ratio']:.2f}",
                ]
            )
    header = ["variant", "context", "batch", "tokens/s", "step ms P50", "ratio", "prefill tokens/s", "prefill ratio"]
    return markdown_table(header, rows)


def draw(panels, figures: list[dict], cases: list[tuple[int, int]]) -> None:
    labels = [f"{batch}\n{context}" for context, batch in cases]
    for panel, key, title, label in (
        (panels[0], "tokens_per_second", "decode, tokens/s", "{:.0f}"),
        (panels[1], "step_ms_p50", "decode step, ms (P50)", "{:.1f}"),
    ):
        draw_bars(panel, labels, {v["name"]: [case[key] for case in v["decode"]] for v in figures}, label)
        panel.set(title=title, xlabel="batch, and context below it")
    panels[0].legend()


if __name__ == "__main__":
    sys.exit(kept(main))
