"""Plan how many sequences devices serve, with contiguous KV caches and with pages; no device, no weights; --help."""

import argparse
import dataclasses
import math
import os
import sys
from pathlib import Path

import numpy as np
from pydantic import ByteSize, TypeAdapter, ValidationError

from mindspore_paged.benchmarking.lengths import HELP as LENGTHS_HELP
from mindspore_paged.benchmarking.lengths import Lengths, parse_lengths
from mindspore_paged.benchmarking.report import (
    draw_bars,
    markdown_table,
    output_stem,
    require_at_least,
    write_results,
)
from mindspore_paged.cache.pool_size import ITEM_SIZES
from mindspore_paged.capacity_model import CONTIGUOUS, PAGED, Capacity, Deployment, capacities
from mindspore_paged.config import EngineConfig, load_config
from mindspore_paged.engine.building.opening import open_weights, resolve_model_config
from mindspore_paged.errors import ConfigError
from mindspore_paged.launch.keeper import kept
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.scaling_model import Cards
from mindspore_paged.script import exit_code_of

NUM_DRAWN = 20_000
TOLERANCE = 0.15
EXIT_FAR_OFF = 1
CARDS = Cards()

DESCRIPTION = f"""Plan how many sequences a model serves on given devices, with a contiguous KV cache of max_model_len
tokens for each and with pages, and the decode rate that follows. Pure arithmetic: no device, no weights.

weights     bytes of the model over --tensor-parallel devices, by model.dtype or --weight-bits
KV budget   --device-memory less weights and --reserve, in pages of cache.block_size tokens of cache.kv_cache_dtype;
            the pool's size in the YAML and scheduler.max_num_seqs do not count here (--max-batch limits sequences)
utilization share of the memory held for running sequences that has a token in it, over all decode steps
batch       the most sequences that run at once, at the mean of what each holds over its life
tokens/s    of a decode step of that batch: weights and KV over the memory's bandwidth, or products over the arithmetic
            rate where that is more, and the sums over devices; nothing overlaps. An assumption, not a measurement.

By default prompt and answer each have 1/16 to 3/16 of max_model_len tokens, so that a mean request is a quarter of it,
as bench_paged_vs_contiguous.py has them; --mean-len N makes each N/4 to 3N/4; --prompt-len and --output-len say all.

Devices are Ascend 910B by default: {CARDS.hbm_gb_s:g} GB/s of HBM, of which {CARDS.hbm_share:.0%} are reached;
{CARDS.tflops:g} TFLOP/s in float16, of a peak of 313; HCCS of {CARDS.link_gb_s:g} GB/s one way between the cards of a
server; {CARDS.network_gb_s:g} GB/s a card between servers.

--check-against RESULT.json predicts what bench_paged_vs_contiguous.py has measured, and prints both. KV memory, shares
and batches come from the engine's scheduler, run over the same requests without a device; tokens/s from single steps
that the benchmark times beside its runs. The exit code is {EXIT_FAR_OFF} where one is off by more than --tolerance.

{LENGTHS_HELP}"""
EPILOG = """examples:
  plan_capacity.py --config configs/llama2_70b.yaml --device-memory 64GB --tensor-parallel 8
  plan_capacity.py --config configs/llama2_70b.yaml --device-memory 64GB --tensor-parallel 4 --max-model-len 4096 \\
    --prompt-len lognormal:300:1:3000 --output-len uniform:50:500 --output plan
  bench_paged_vs_contiguous.py --config configs/smollm2_135m.yaml --output measured
  plan_capacity.py --config configs/smollm2_135m.yaml --check-against measured.json

--output STEM writes STEM.json, STEM.md and STEM.png (in a folder: plan_capacity.json, …)"""


def main() -> int:
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's own warnings are not for the user of a script
    arguments = _parser().parse_args()
    return exit_code_of(lambda: check(arguments) if arguments.check_against else plan(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML of the model")
    parser.add_argument("--device-memory", default="64GB", metavar="SIZE", help="of one device (default 64GB)")
    parser.add_argument("--tensor-parallel", type=int, default=1, metavar="N", help="devices of one model (default 1)")
    parser.add_argument(
        "--reserve", default="6GB", metavar="SIZE", help="for activations, graphs and runtime (default 6GB)"
    )
    parser.add_argument("--max-model-len", type=int, nargs="+", metavar="TOKENS", help="default 512 1024 2048")
    parser.add_argument("--mean-len", type=int, metavar="TOKENS", help="prompt and answer together; default a quarter")
    parser.add_argument("--prompt-len", metavar="LENGTHS", help="see above; with --output-len")
    parser.add_argument("--output-len", metavar="LENGTHS", help="see above; with --prompt-len")
    parser.add_argument("--max-batch", type=int, metavar="N", help="most sequences at once (default: no limit)")
    parser.add_argument("--weight-bits", type=float, metavar="BITS", help="of a weight (default: of model.dtype)")
    for field in dataclasses.fields(Cards):
        if field.name != "memory_gb":  # which --device-memory is
            flag = f"--{field.name.replace('_', '-')}"
            parser.add_argument(
                flag, type=type(field.default), default=field.default, help=f"default {field.default:g}"
            )
    parser.add_argument("--check-against", type=Path, metavar="RESULT.json", help="of bench_paged_vs_contiguous.py")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, metavar="SHARE", help=f"default {TOLERANCE}")
    parser.add_argument("--output", type=Path, metavar="STEM", help="files to write, without their endings")
    parser.add_argument("--set", dest="overrides", nargs="+", action="extend", default=[], metavar="section.key=value")
    return parser


def plan(arguments: argparse.Namespace) -> None:
    """Print, and write if asked to, what the devices hold."""
    require_at_least(arguments, 1, "tensor_parallel", "max_batch", "per_server")
    require_at_least(arguments, 16, "max_model_len", "mean_len")
    stem = output_stem(arguments.output, "plan_capacity") if arguments.output else None
    config = load_config(arguments.config, arguments.overrides)
    deployment = _deployment(arguments, config, model_of(config))
    results = []
    for length in dict.fromkeys(arguments.max_model_len or [512, 1024, 2048]):
        prompts, outputs = _draw_lengths(arguments, length)
        results += capacities(deployment, length, prompts, outputs, arguments.max_batch)
    table = f"{summary(deployment)}\n\n{markdown(results)}"
    print(table)
    if stem is not None:
        data = {
            "devices": deployment.ranks,
            "cards": dataclasses.asdict(deployment.cards),
            "reserve_gb": deployment.reserve_gb,
            "weight_bytes_per_device": deployment.weight_bytes,
            "kv_bytes_per_token_per_device": deployment.kv_bytes_per_token,
            "kv_budget_bytes_per_device": deployment.kv_budget,
            "num_blocks": deployment.num_blocks,
            "block_size": deployment.block_size,
            "results": [dataclasses.asdict(result) for result in results],
        }
        write_results(stem, data, table, lambda panels: draw(panels, results))


def model_of(config: EngineConfig) -> ModelConfig:
    """The model's shape, from the YAML where it is there, else from the weights."""
    model = config.model.dimensions()
    if model is None:
        model = resolve_model_config(config, open_weights(config))
    return model


def _deployment(arguments: argparse.Namespace, config: EngineConfig, model: ModelConfig) -> Deployment:
    if config.cache.block_size == "auto":
        raise ConfigError("cache.block_size is auto; give a number with --set cache.block_size=128")
    names = [field.name for field in dataclasses.fields(Cards) if field.name != "memory_gb"]
    for name in names:
        value = getattr(arguments, name)
        may_be_zero = name in ("collective_us", "network_us")
        if not (math.isfinite(value) and (value > 0 or (may_be_zero and value == 0))):
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; it must be a positive number")
    bits = arguments.weight_bits
    if bits is not None and not 0 < bits <= 64:
        raise ConfigError(f"--weight-bits is {bits}; it must be above 0, at most 64")
    cards = Cards(
        memory_gb=_gigabytes(arguments.device_memory, "--device-memory"),
        **{name: getattr(arguments, name) for name in names},
    )
    return Deployment(
        model,
        cards,
        arguments.tensor_parallel,
        _gigabytes(arguments.reserve, "--reserve"),
        config.cache.block_size,
        bits / 8 if bits is not None else ITEM_SIZES[config.model.dtype],
        config.kv_cache_dtype,
    )


def _gigabytes(text: str, flag: str) -> float:
    try:
        size = TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        size = -1
    if size < 0:
        raise ConfigError(f"{flag} is {text!r}; it must be a size such as 64GB or 64GiB")
    return size / 1e9


def _draw_lengths(arguments: argparse.Namespace, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of prompts and answers of many requests; the same at every call."""
    if (arguments.prompt_len is None) != (arguments.output_len is None):
        raise ConfigError("--prompt-len and --output-len go together")
    if arguments.prompt_len is not None and arguments.mean_len is not None:
        raise ConfigError("--mean-len is left out where --prompt-len and --output-len are given")
    if arguments.prompt_len is not None:
        prompts = parse_lengths(arguments.prompt_len, "--prompt-len")
        outputs = parse_lengths(arguments.output_len, "--output-len")
    else:
        mean = arguments.mean_len or length // 4
        prompts = outputs = Lengths("uniform", mean // 4, 3 * mean // 4)
    rng = np.random.default_rng(0)
    return prompts.sample(rng, NUM_DRAWN), outputs.sample(rng, NUM_DRAWN)


def summary(deployment: Deployment) -> str:
    tokens = (deployment.num_blocks - 1) * deployment.block_size
    return (
        f"On each of {deployment.ranks} devices of {deployment.cards.memory_gb:g} GB: "
        f"weights {deployment.weight_bytes / 1e9:.2f} GB, reserved {deployment.reserve_gb:g} GB, "
        f"KV budget {deployment.kv_budget / 1e9:.2f} GB; {deployment.kv_bytes_per_token:,} bytes a token, "
        f"{deployment.num_blocks:,} pages of {deployment.block_size}, {tokens:,} tokens."
    )


def markdown(results: list[Capacity]) -> str:
    header = ["max_model_len", "policy", "mean context", "utilization", "budget used", "largest batch", "step ms"]
    rows = []
    for result in results:
        base = next(r for r in results if r.policy == CONTIGUOUS and r.max_model_len == result.max_model_len)
        shares = [f"{result.mean_context:.0f}", f"{result.utilization:.0%}", f"{result.budget_used:.0%}"]
        rates = [f"{result.step_ms:.1f}", f"{result.tokens_per_second:.0f}"]
        ratio = f"{result.tokens_per_second / base.tokens_per_second:.2f}"
        rows.append([result.max_model_len, result.policy, *shares, result.largest_batch, *rates, ratio])
    return markdown_table([*header, "tokens/s", "ratio"], rows)


def draw(panels, results: list[Capacity]) -> None:
    """Batch and predicted throughput of both policies, side by side, by length."""
    lengths = list(dict.fromkeys(result.max_model_len for result in results))
    of = {(result.policy, result.max_model_len): result for result in results}
    for panel, key, title in (
        (panels[0], "largest_batch", "sequences at once"),
        (panels[1], "tokens_per_second", "decode, tokens/s (predicted)"),
    ):
        series = {policy: [getattr(of[policy, n], key) for n in lengths] for policy in (CONTIGUOUS, PAGED)}
        draw_bars(panel, [str(n) for n in lengths], series)
        panel.set(title=title, xlabel="max_model_len, tokens")
    panels[0].legend()


def check(arguments: argparse.Namespace) -> int:
    """Print predictions beside measurements; returns the exit code."""
    from mindspore_paged.benchmarking.prediction import compare_with  # which takes MindSpore along

    if not arguments.tolerance > 0:
        raise ConfigError(f"--tolerance is {arguments.tolerance}; it must be above 0")
    stem = output_stem(arguments.output, "plan_capacity_check") if arguments.output else None
    config = load_config(arguments.config, arguments.overrides)
    compared = compare_with(
        arguments.check_against, arguments.config, arguments.overrides, model_of(config), arguments.max_model_len
    )
    rows = [
        [c.max_model_len, c.policy, c.figure, f"{c.predicted:.4g}", f"{c.measured:.4g}", f"{c.difference:+.1%}"]
        for c in compared
    ]
    table = markdown_table(["max_model_len", "policy", "figure", "predicted", "measured", "off by"], rows)
    worst = max(compared, key=lambda c: abs(c.difference))
    within = abs(worst.difference) <= arguments.tolerance
    print(f"{table}\n\nall within {arguments.tolerance:.0%}" if within else f"{table}\n")
    if not within:
        far = sum(abs(c.difference) > arguments.tolerance for c in compared)
        print(f"{far} of {len(compared)} are off by more than {arguments.tolerance:.0%}", file=sys.stderr)
    if stem is not None:
        data = [dataclasses.asdict(c) | {"difference": c.difference} for c in compared]
        write_results(stem, data, table, lambda panels: draw_check(panels, compared))
    return 0 if within else EXIT_FAR_OFF


def draw_check(panels, compared: list) -> None:
    for panel, figure, label in (
        (panels[0], "tokens_per_second", "{:.0f}"),
        (panels[1], "utilization", "{:.0%}"),
    ):
        chosen = [c for c in compared if c.figure == figure]
        series = {"predicted": [c.predicted for c in chosen], "measured": [c.measured for c in chosen]}
        draw_bars(panel, [f"{c.policy}\n{c.max_model_len}" for c in chosen], series, label)
        panel.tick_params(axis="x", labelsize=7)
        panel.set(title=figure.replace("_", " "))
    panels[0].legend()


if __name__ == "__main__":
    sys.exit(kept(main))
